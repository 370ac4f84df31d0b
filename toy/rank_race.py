"""Many students race to match their teachers: the engine of the post's Figure 4, as one program.

A teacher is a [64, 64] matrix of some rank that maps x ~ N(0, I) to the logits of 64 classes. A
student is a full matrix. It sees the same x as its teacher, 128 fresh ones a step, and descends
with Adam. Students differ in divergence, learning rate and teacher.

The plain way trains one student at a time with autograd. Here all matrices, teachers first, are one
stack [models, 64, 64]. A step computes

- all logits in one product, and one softmax,
- each divergence's gradient in closed form, in a few passes,
- all weight gradients in one product, and the update by torch's fused Adam.

Every gradient below is with respect to the student's logits z. If s = dD/dq, up to a constant for
each row, then dD/dz = q·(s - Σ q·s). So a divergence only needs its s, without terms that are the
same for all classes, such as the normalisers of the two softmaxes.
"""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kd_lab.divergences import forward_kl, get_divergence, reverse_kl
from kd_lab.head_mask import head_mask

SIZE = 64  # inputs and classes, as in the post
BATCH = 128
POST_EPSILON = 1e-10  # what the post adds to p and q inside the logarithm

# Rounding may take a probability to 0; its logarithm is always multiplied by q = 0 then.
TINY = 1e-37


@dataclass(frozen=True)
class RaceLog:
    """The log of a race: ``step`` [N] and curves [N, learning rates, divergences, teachers].

    Row n is the students after ``step[n]`` updates, on a batch they have not seen yet.
    """

    step: list[int]
    divergences: tuple[str, ...]
    learning_rates: tuple[float, ...]
    probability_distance: Tensor  # ‖p - q‖_F over the batch: the "L2 loss" of the post
    weight_distance: Tensor  # ‖W_student - W_teacher‖_F
    centred_weight_distance: Tensor  # the same, of what the softmax can see
    forward_kl: Tensor  # nats, mean over the batch
    reverse_kl: Tensor

    def curve(self, metric: str, divergence: str, teacher: int = 0, rate: int = 0) -> list[float]:
        """One student's curve, [N]."""
        column = self.divergences.index(divergence)
        return getattr(self, metric)[:, rate, column, teacher].tolist()


METRICS = (
    "probability_distance",
    "weight_distance",
    "centred_weight_distance",
    "forward_kl",
    "reverse_kl",
)


def teacher_weights(ranks: Sequence[int], *, seed: int, sharpness: str = "post") -> Tensor:
    """randn(64, r) @ randn(r, 64) for each rank r, float32, [T, inputs, classes].

    A rank's teacher depends on its rank and seed alone, not on the other ranks.

    Args:
        sharpness: ``"post"`` leaves W as it is: logits have variance 64·r, and p is nearly one-hot.
            ``"unit"`` divides W by sqrt(64·r): logits have variance 1.
    Raises:
        ValueError: a rank outside 1 to 64, or an unknown sharpness.
    """
    if sharpness not in ("post", "unit"):
        raise ValueError(f"sharpness must be 'post' or 'unit', not {sharpness!r}")
    teachers = []
    for rank in ranks:
        if not 1 <= rank <= SIZE:
            raise ValueError(f"a rank of a {SIZE}x{SIZE} matrix lies in 1 to {SIZE}, not {rank}")
        generator = _generator(seed, rank)
        left = torch.randn(SIZE, rank, generator=generator)
        right = torch.randn(rank, SIZE, generator=generator)
        scale = 1 if sharpness == "post" else 1 / math.sqrt(SIZE * rank)
        teachers.append(left @ right * scale)
    return torch.stack(teachers)


def student_start(*, seed: int) -> Tensor:
    """The start that all students of a seed share: ``nn.Linear``'s default, [inputs, classes]."""
    weight = torch.empty(SIZE, SIZE)
    torch.nn.init.kaiming_uniform_(weight, a=math.sqrt(5), generator=_generator(seed, 0))
    return weight.T  # nn.Linear keeps [classes, inputs]


def input_batches(*, seed: int) -> Iterator[Tensor]:
    """x ~ N(0, I) without end, float32, [batch, inputs] a step: the same for all of a seed."""
    generator = _generator(seed, SIZE + 1)
    while True:
        yield torch.randn(BATCH, SIZE, generator=generator)


def race(
    teachers: Tensor,
    divergences: Sequence[str],
    learning_rates: Sequence[float] = (0.1,),
    steps: int = 10_000,
    *,
    seed: int = 0,
    log_every: int = 100,
    log_also: Collection[int] = (),
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> RaceLog:
    """Train a student for every (learning rate, divergence, teacher) and log all of them.

    Args:
        teachers: [T, inputs, classes]; all arithmetic is in their dtype.
        divergences: names of kd_lab/divergences.py; with ``_epsilon`` in the post's arithmetic.
        learning_rates: of Adam, whose other settings are torch's defaults.
        steps: the number of updates. The log has every ``log_every``-th from 0, and the last.
        log_also: further steps to log.
        seed: of the students' common start and of x.
        progress: wraps the range of steps, as ``tqdm`` or ``rich.progress.track`` do.
    Raises:
        ValueError: an unknown divergence, a setting out of range, or students that are no longer
            finite.
    """
    _check_settings(divergences, learning_rates, steps, log_every)
    rules = [LOGIT_GRADIENTS.get(name) or _by_autograd(name) for name in divergences]
    num_teachers, dtype = len(teachers), teachers.dtype
    field = (len(learning_rates), len(divergences), num_teachers)  # [L, D, T]

    start = student_start(seed=seed).to(dtype).expand(math.prod(field), -1, -1)
    models = torch.cat([teachers, start])  # [T + L·D·T, inputs, classes]
    students = models[num_teachers:].view(*field, SIZE, SIZE)
    logits = torch.empty(len(models), BATCH, SIZE, dtype=dtype)
    probs = torch.empty_like(logits)
    z_teacher, p = logits[:num_teachers], probs[:num_teachers]  # [T, batch, classes]
    z = logits[num_teachers:].view(*field, BATCH, SIZE)
    q = probs[num_teachers:].view_as(z)
    scratch = torch.empty_like(z[:, 0])  # [L, T, batch, classes]

    gradient = torch.zeros_like(students)
    adam = Adam(students, gradient, learning_rates)
    logged_steps, rows = [], []
    with torch.no_grad():
        for step, x in zip(progress(range(steps + 1)), input_batches(seed=seed), strict=False):
            x = x.to(dtype)
            torch.bmm(x.expand(len(models), -1, -1), models, out=logits)
            torch.softmax(logits, -1, out=probs)
            if step % log_every == 0 or step == steps or step in log_also:
                rows.append(_measure(teachers, students, z_teacher, z, p, q))
                logged_steps.append(step)
                _check_finite(rows[-1], step, divergences, learning_rates)
            if step == steps:
                break
            for column, rule in enumerate(rules):
                rule(p, z_teacher, q[:, column], z[:, column], scratch)
            # z now holds the gradients by the logits; the loss is a mean over the batch.
            x_over_batch = (x.T / BATCH).expand(math.prod(field), -1, -1)
            torch.bmm(x_over_batch, z.flatten(0, 2), out=gradient.view(-1, SIZE, SIZE))
            adam.step()

    curves = {
        metric: torch.stack([row[metric] for row in rows]) for metric in METRICS
    }  # [N, L, D, T] each
    return RaceLog(logged_steps, tuple(divergences), tuple(learning_rates), **curves)


class Adam:
    """``torch.optim.Adam`` in its own order of operations, a learning rate for each weight[l].

    On matrices this small torch's own step spends more time on bookkeeping than on sums.
    """

    def __init__(self, weight: Tensor, gradient: Tensor, learning_rates: Sequence[float]) -> None:
        self.weight, self.gradient, self.learning_rates = weight, gradient, learning_rates
        self.mean, self.square = torch.zeros_like(weight), torch.zeros_like(weight)
        self.denominator = torch.empty_like(weight)
        self.steps_taken = 0

    def step(self, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8) -> None:
        """Update ``weight`` in place by what stands in ``gradient``."""
        self.steps_taken += 1
        self.mean.lerp_(self.gradient, 1 - beta1)
        self.square.mul_(beta2).addcmul_(self.gradient, self.gradient, value=1 - beta2)
        torch.sqrt(self.square, out=self.denominator)
        self.denominator.div_(math.sqrt(1 - beta2**self.steps_taken)).add_(eps)
        for index, lr in enumerate(self.learning_rates):
            self.weight[index].addcdiv_(
                self.mean[index],
                self.denominator[index],
                value=-lr / (1 - beta1**self.steps_taken),
            )


# ---- dD/dz for each divergence. p and z_teacher are [T, batch, classes], q and z [L, T, batch,
# classes]. Each one overwrites the student's logits z with the gradient; scratch is of z's shape.

LogitGradient = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], object]


def _pull_back(slope: Tensor, q: Tensor, out: Tensor) -> None:
    """q·(s - Σ q·s): from dD/dq through the softmax to dD/dz."""
    torch.mul(slope, q, out=out)
    torch.addcmul(out, q, out.sum(-1, keepdim=True), value=-1, out=out)


def _forward_kl(p: Tensor, z_teacher: Tensor, q: Tensor, z: Tensor, scratch: Tensor) -> None:
    torch.sub(q, p, out=z)


def _reverse_kl(p: Tensor, z_teacher: Tensor, q: Tensor, z: Tensor, scratch: Tensor) -> None:
    torch.sub(z, z_teacher, out=scratch)  # log(q/p)
    _pull_back(scratch, q, out=z)


def _jensen_shannon(p: Tensor, z_teacher: Tensor, q: Tensor, z: Tensor, scratch: Tensor) -> None:
    torch.add(p, q, out=scratch).clamp_min_(TINY).log_()
    torch.sub(z, scratch, out=scratch).mul_(0.5)  # ½·log(q/m)
    _pull_back(scratch, q, out=z)


def _skew_forward_kl(p: Tensor, z_teacher: Tensor, q: Tensor, z: Tensor, scratch: Tensor) -> None:
    torch.lerp(q, p, 0.1, out=scratch).clamp_min_(TINY)
    torch.div(p, scratch, out=scratch).mul_(-0.9)  # -(1-α)·p/m
    _pull_back(scratch, q, out=z)


def _skew_reverse_kl(p: Tensor, z_teacher: Tensor, q: Tensor, z: Tensor, scratch: Tensor) -> None:
    torch.lerp(p.expand_as(q), q, 0.1, out=scratch).clamp_min_(TINY)
    z.sub_(scratch.log())
    torch.sub(z, torch.div(q, scratch, out=scratch), alpha=0.1, out=scratch)  # log(q/m) - α·q/m
    _pull_back(scratch, q, out=z)


def _adaptive_kl(p: Tensor, z_teacher: Tensor, q: Tensor, z: Tensor, scratch: Tensor) -> None:
    head = head_mask(p, 0.5).to(p.dtype)
    _reverse_kl(p, z_teacher, q, z, scratch)
    torch.sub(q, p, out=scratch)  # the gradient of forward KL, and the gap
    gap = scratch.abs()
    head_gap = (gap * head).sum(-1, keepdim=True)  # [L, T, batch, 1]
    weight = head_gap / gap.sum(-1, keepdim=True).clamp_min_(TINY)
    torch.lerp(z, scratch, weight, out=z)


def _total_variation(p: Tensor, z_teacher: Tensor, q: Tensor, z: Tensor, scratch: Tensor) -> None:
    torch.sub(q, p, out=scratch).sign_().mul_(0.5)
    _pull_back(scratch, q, out=z)


def _forward_kl_epsilon(
    p: Tensor, z_teacher: Tensor, q: Tensor, z: Tensor, scratch: Tensor
) -> None:
    """Of Σ p·log((p+ε)/(q+ε)): s = -p/(q+ε)."""
    torch.add(q, POST_EPSILON, out=scratch)
    torch.div(p, scratch, out=scratch).neg_()
    _pull_back(scratch, q, out=z)


def _reverse_kl_epsilon(
    p: Tensor, z_teacher: Tensor, q: Tensor, z: Tensor, scratch: Tensor
) -> None:
    """Of Σ q·log((q+ε)/(p+ε)): s = log((q+ε)/(p+ε)) + q/(q+ε)."""
    torch.add(q, POST_EPSILON, out=scratch)
    torch.div(q, scratch, out=z)
    z.add_(scratch.log_()).sub_((p + POST_EPSILON).log_())
    scratch.copy_(z)
    _pull_back(scratch, q, out=z)


LOGIT_GRADIENTS: dict[str, LogitGradient] = {
    "forward_kl": _forward_kl,
    "reverse_kl": _reverse_kl,
    "jensen_shannon": _jensen_shannon,
    "adaptive_kl": _adaptive_kl,
    "skew_forward_kl": _skew_forward_kl,
    "skew_reverse_kl": _skew_reverse_kl,
    "total_variation": _total_variation,
    "forward_kl_epsilon": _forward_kl_epsilon,
    "reverse_kl_epsilon": _reverse_kl_epsilon,
}


def _by_autograd(name: str) -> LogitGradient:
    """The gradient of a divergence without a closed form here; slower."""
    divergence = get_divergence(name)

    def rule(p: Tensor, z_teacher: Tensor, q: Tensor, z: Tensor, scratch: Tensor) -> None:
        with torch.enable_grad():
            leaf = z.detach().clone().requires_grad_()
            values = divergence(z_teacher.log_softmax(-1), leaf.log_softmax(-1))
            (gradient,) = torch.autograd.grad(values.sum(), leaf)
        z.copy_(gradient)

    return rule


def _measure(
    teachers: Tensor, students: Tensor, z_teacher: Tensor, z: Tensor, p: Tensor, q: Tensor
) -> dict[str, Tensor]:
    """Every metric of every student, [L, D, T]."""
    difference = students - teachers  # [L, D, T, inputs, classes]
    # One constant added to all logits of an x changes W and not the softmax.
    visible = difference - difference.mean(-1, keepdim=True)
    teacher_logp, student_logp = z_teacher.log_softmax(-1), z.log_softmax(-1)
    return {
        "probability_distance": torch.linalg.matrix_norm(p - q),
        "weight_distance": torch.linalg.matrix_norm(difference),
        "centred_weight_distance": torch.linalg.matrix_norm(visible),
        "forward_kl": forward_kl(teacher_logp, student_logp).mean(-1),
        "reverse_kl": reverse_kl(teacher_logp, student_logp).mean(-1),
    }


def _check_settings(
    divergences: Sequence[str], learning_rates: Sequence[float], steps: int, log_every: int
) -> None:
    for name in divergences:
        if name not in LOGIT_GRADIENTS:
            get_divergence(name)  # refuses a name that is unknown
    for lr in learning_rates:
        if not 0 < lr < math.inf:
            raise ValueError(f"the learning rate must be positive, not {lr:g}")
    if steps < 1 or log_every < 1:
        raise ValueError(f"steps and log_every must be at least 1, not {steps} and {log_every}")


def _check_finite(
    row: dict[str, Tensor], step: int, divergences: Sequence[str], learning_rates: Sequence[float]
) -> None:
    lost = ~torch.stack(list(row.values())).isfinite().all(0)  # [L, D, T]
    if bool(lost.any()):
        rate, column, _ = (int(index) for index in lost.nonzero()[0])
        raise ValueError(
            f"by step {step} the student of {divergences[column]} at learning rate "
            f"{learning_rates[rate]:g} is no longer finite; try a smaller learning rate"
        )


def _generator(*key: int) -> torch.Generator:
    """A random stream for every key, seed first; neighbouring seeds share nothing."""
    if key[0] < 0:
        raise ValueError(f"the seed must be 0 or more, not {key[0]}")
    (state,) = np.random.SeedSequence(key).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state))
