"""How large a gradient is: with a temperature, with a share, and from one sample to the next."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from kd_lab.check.batches import Finding
from kd_lab.check.candidates import Candidate, tempered_like
from kd_lab.check.forms import Loss, expected_gradient, token_gradients, writer
from kd_lab.check.naming import Named, name_gradients
from kd_lab.check.situations import Situations

TEMPERATURE = 2.0
NAMES = ("temperature", "temp", "kd_temperature", "distillation_temperature", "tau", "T")
# By which people call the share of one loss beside another.
SHARES = (
    "alpha", "kd_alpha", "kd_ratio", "kd_weight", "ce_weight", "hard_weight", "weight_hard_loss",
    "sft_alpha",
)  # fmt: skip
SHARE_TRIED = (0.2, 0.7)
PRECISE = 0.1  # of the direction's length: as near as samples shall come


def gradients(loss: Loss, at: Situations, **more: float) -> torch.Tensor:
    """The expected gradients in the situations, [S, V]."""
    rows = zip(at.teacher_logits, at.student_logits, at.targets.tolist(), strict=True)
    return torch.stack([expected_gradient(loss, p, q, target, **more) for p, q, target in rows])


def with_temperature(loss: Loss, at: Situations, named: Named) -> list[Finding]:
    """What the loss's own temperature does, if it has a parameter of such a name.

    A loss of sampled tokens has one where it takes the logits too. Its tokens may be sampled at
    that temperature or at 1: either is tried.
    """
    parameter = next((name for name in NAMES if loss.takes(name)), None)
    if parameter is None or len(named.parts) != 1 or not named.is_explained:
        return []
    if parameter in loss.settings or (loss.samples and not loss.takes("student_logits")):
        return []
    warm = {parameter: TEMPERATURE}
    plain, tempered = gradients(loss, at), gradients(loss, at, **warm)
    if (tempered - plain).norm() < 1e-6 * plain.norm():
        return [Finding("temperature", f"{parameter} has no effect", True)]
    if named.times:  # no length to compare with
        return []
    (candidate, coefficient) = named.parts[0]
    ours = {"": tempered}
    if loss.samples:
        ours[f", where tokens are sampled at {parameter}"] = _sampled_warm(loss, at, warm)
    for where, found in ours.items():
        for words, is_fault, other in tempered_like(candidate, TEMPERATURE):
            theirs = coefficient * other.gradients(at)
            if (found - theirs).norm() < 1e-3 * theirs.norm():
                return [Finding("temperature", words + where, is_fault)]
    return [Finding("temperature", f"{parameter} does what no known temperature does", True)]


def _sampled_warm(loss: Loss, at: Situations, warm: dict[str, float]) -> torch.Tensor:
    """The expected gradients where the writer has the loss's temperature too, [S, V]."""
    cold = replace(at, teacher_logits=at.teacher_logits / TEMPERATURE,
                   student_logits=at.student_logits / TEMPERATURE)  # fmt: skip
    rows = zip(at.teacher_logits, at.student_logits, strict=True)
    written = writer(loss, cold.teacher_logits, cold.student_logits)
    return torch.stack(
        [share @ token_gradients(loss, p, q, **warm)
         for share, (p, q) in zip(written, rows, strict=True)]
    )  # fmt: skip


def with_share(loss: Loss, at: Situations, known: Sequence[Candidate]) -> list[Finding]:
    """Whether a parameter that is named like a share is one: of a divergence, or cross-entropy.

    A divergence's own setting, such as a skew's alpha, is none.
    """
    parameter = next((name for name in SHARES if loss.takes(name)), None)
    if parameter is None or loss.samples or parameter in loss.settings:
        return []
    found = []
    for value in SHARE_TRIED:
        ours = gradients(loss, at, **{parameter: value})
        found.append((ours, name_gradients(ours, at, known)))
    (low, first), (high, second) = found
    if (high - low).norm() < 1e-6 * low.norm():
        return [Finding("share", f"{parameter} has no effect", True)]
    if first.times or second.times:  # a direction has no share
        return []
    parts = [{c.words: coefficient for c, coefficient in x.parts} for x in (first, second)]
    hard = [of.pop("cross_entropy", 0.0) for of in parts]
    if not (first.is_explained and second.is_explained) or {*parts[0]} != {*parts[1]}:
        return []
    if len(parts[0]) != 1:
        return []
    (name,) = parts[0]
    soft = [of[name] for of in parts]
    for words, weights in _SHARE_WORDS.items():
        expected = [weights(value) for value in SHARE_TRIED]
        off = [
            abs(x - y)
            for both, wanted in zip(zip(soft, hard, strict=True), expected, strict=True)
            for x, y in zip(both, wanted, strict=True)
        ]
        if max(off) < 5e-3:
            return [Finding("share", f"{parameter} is {words}".format(name=name))]
    at_high = f"at {SHARE_TRIED[1]} it gives {second.words}"
    return [Finding("share", f"{parameter} is not the share of a loss: {at_high}", True)]


# The weights of the divergence and of cross-entropy, by the parameter's value.
_SHARE_WORDS: dict[str, Callable[[float], tuple[float, float]]] = {
    "the share of {name}, and cross-entropy has the rest": lambda a: (a, 1 - a),
    "the share of cross-entropy, and {name} has the rest": lambda a: (1 - a, a),
    "the weight of cross-entropy, beside {name} at 1": lambda a: (1, a),
    "the weight of {name}, beside cross-entropy at 1": lambda a: (a, 1),
    "the weight of {name}": lambda a: (a, 0),
}


def samples_needed(loss: Loss, at: Situations) -> dict[str, float]:
    """How many sampled tokens bring the mean within a tenth of the expected gradient's length.

    Returns:
        student -> tokens, at the first teacher; infinite where the expected gradient is zero.
    """
    if not loss.samples:
        return {}
    needed = {}
    for i, name in enumerate(at.names[: len(at.names) // 2]):
        teacher, student = at.teacher_logits[i], at.student_logits[i]
        rows, share = token_gradients(loss, teacher, student), writer(loss, teacher, student)
        mean = share @ rows
        spread = float(share @ (rows - mean).square().sum(-1))
        length = float(mean.square().sum())
        zero = length < 1e-14 * max(spread, 1e-300)
        needed[name] = float("inf") if zero else spread / (PRECISE**2 * length)
    return needed
