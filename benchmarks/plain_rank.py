"""The rank study in the plain way, to be measured against: one rank, one divergence at a time.

This is the program one would write first: an ``nn.Linear``, ``torch.optim.Adam``, the two
log-softmaxes and autograd. Teachers, start and x are those of ``toy.rank_race``, so that the two
programs should write down the same values.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from toy.rank_race import BATCH, SIZE, input_batches, student_start, teacher_weights


def run_plain(
    ranks: Sequence[int],
    steps: int,
    seed: int = 0,
    *,
    divergences: Sequence[str] = ("forward_kl", "reverse_kl"),
    lr: float = 0.1,
    log_every: int = 100,
    dtype: torch.dtype = torch.float32,
) -> dict[int, dict[str, dict[str, list[float]]]]:
    """Train a student for each rank and divergence (forward_kl, reverse_kl), one after the other.

    Returns:
        ``{rank: {divergence: {"step": [...], "weight_distance": [...], "probability_distance":
        [...]}}}``, logged as ``toy.rank_race.race`` logs. At learning rate 0.1 the descent is
        chaotic. Two programs that round differently agree for a few hundred steps in float32 and
        for about 600 in float64. After that they agree only in distribution.
    """
    return {
        rank: {name: _train(rank, steps, seed, name, lr, log_every, dtype) for name in divergences}
        for rank in ranks
    }


def _train(
    rank: int, steps: int, seed: int, divergence: str, lr: float, log_every: int, dtype: torch.dtype
) -> dict[str, list[float]]:
    teacher = teacher_weights([rank], seed=seed)[0].to(dtype)  # [inputs, classes]
    student = torch.nn.Linear(SIZE, SIZE, bias=False, dtype=dtype)
    with torch.no_grad():
        student.weight.copy_(student_start(seed=seed).T)
    optimizer = torch.optim.Adam(student.parameters(), lr=lr)
    log: dict[str, list[float]] = {"step": [], "weight_distance": [], "probability_distance": []}

    for step, x in zip(range(steps + 1), input_batches(seed=seed), strict=False):
        x = x.to(dtype)
        teacher_logp = F.log_softmax(x @ teacher, dim=-1)
        student_logp = F.log_softmax(student(x), dim=-1)
        if step % log_every == 0 or step == steps:
            with torch.no_grad():
                log["step"].append(step)
                log["weight_distance"].append((student.weight.T - teacher).norm().item())
                log["probability_distance"].append(
                    (teacher_logp.exp() - student_logp.exp()).norm().item()
                )
        if divergence == "forward_kl":
            kl = F.kl_div(student_logp, teacher_logp, log_target=True, reduction="sum")
        else:
            kl = F.kl_div(teacher_logp, student_logp, log_target=True, reduction="sum")
        optimizer.zero_grad()
        (kl / BATCH).backward()
        optimizer.step()
    return log
