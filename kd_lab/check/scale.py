"""How large a gradient is: with a temperature, and from one sample to the next."""

import torch

from kd_lab.check.batches import Finding
from kd_lab.check.candidates import tempered_like
from kd_lab.check.forms import Loss, expected_gradient, token_gradients, writer
from kd_lab.check.naming import Named
from kd_lab.check.situations import Situations

TEMPERATURE = 2.0
NAMES = ("temperature", "temp", "kd_temperature", "distillation_temperature", "tau", "T")
PRECISE = 0.1  # of the direction's length: as near as samples shall come


def gradients(loss: Loss, at: Situations, **more: float) -> torch.Tensor:
    """The expected gradients in the situations, [S, V]."""
    rows = zip(at.teacher_logits, at.student_logits, at.targets.tolist(), strict=True)
    return torch.stack([expected_gradient(loss, p, q, target, **more) for p, q, target in rows])


def with_temperature(loss: Loss, at: Situations, named: Named) -> list[Finding]:
    """What the loss's own temperature does, if it has a parameter of such a name."""
    parameter = next((name for name in NAMES if loss.takes(name)), None)
    if parameter is None or loss.samples or len(named.parts) != 1 or not named.is_explained:
        return []
    (candidate, coefficient) = named.parts[0]
    if parameter in loss.settings:
        return []
    plain, warm = gradients(loss, at), gradients(loss, at, **{parameter: TEMPERATURE})
    if (warm - plain).norm() < 1e-6 * plain.norm():
        return [Finding("temperature", f"{parameter} has no effect", True)]
    for words, is_fault, other in tempered_like(candidate, TEMPERATURE):
        theirs = coefficient * other.gradients(at)
        if (warm - theirs).norm() < 1e-3 * theirs.norm():
            return [Finding("temperature", words, is_fault)]
    return [Finding("temperature", f"{parameter} does what no known temperature does", True)]


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
