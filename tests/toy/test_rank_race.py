"""The batched race against autograd, torch.optim.Adam and the plain program."""

import itertools

import pytest
import torch

from benchmarks.plain_rank import run_plain
from kd_lab.divergences import DIVERGENCES
from toy.rank_race import (
    LOGIT_GRADIENTS,
    POST_EPSILON,
    SIZE,
    Adam,
    input_batches,
    race,
    student_start,
    teacher_weights,
)

EXACT = [name for name in DIVERGENCES if name in LOGIT_GRADIENTS]


def gradient(name: str, z_teacher: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """By the rule under test; z_teacher is [T, batch, classes], z [L, T, batch, classes]."""
    z = z.clone()
    LOGIT_GRADIENTS[name](z_teacher.softmax(-1), z_teacher, z.softmax(-1), z, torch.empty_like(z))
    return z


def autograd(divergence, z_teacher: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    z = z.clone().requires_grad_()
    divergence(z_teacher.expand_as(z), z).sum().backward()
    return z.grad


def logits(sharpness: float, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    z_teacher = sharpness * torch.randn(3, 16, 10, generator=generator, dtype=torch.float64)
    z = sharpness * torch.randn(2, 3, 16, 10, generator=generator, dtype=torch.float64)
    return z_teacher.to(dtype), z.to(dtype)


def test_a_divergence_without_a_rule_races_by_autograd(monkeypatch):
    teachers = teacher_weights([2], seed=0).double()
    by_rule = race(teachers, ["reverse_kl"], [0.05], 8, log_every=4)
    monkeypatch.delitem(LOGIT_GRADIENTS, "reverse_kl")
    by_autograd = race(teachers, ["reverse_kl"], [0.05], 8, log_every=4)
    for name in ("probability_distance", "weight_distance"):
        torch.testing.assert_close(
            by_rule.curve(name, "reverse_kl", 0), by_autograd.curve(name, "reverse_kl", 0)
        )


@pytest.mark.parametrize("sharpness", [0.1, 1, 8])
@pytest.mark.parametrize("name", EXACT)
def test_gradient_is_that_of_autograd(name, sharpness):
    z_teacher, z = logits(sharpness, torch.float64)

    def divergence(a, b):
        return DIVERGENCES[name](a.log_softmax(-1), b.log_softmax(-1))

    torch.testing.assert_close(
        gradient(name, z_teacher, z), autograd(divergence, z_teacher, z), rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("sharpness", [0.1, 1, 20])
@pytest.mark.parametrize("name", ["forward_kl", "reverse_kl"])
def test_epsilon_gradient_is_that_of_autograd(name, sharpness):
    z_teacher, z = logits(sharpness, torch.float64)

    def divergence(a, b):
        p, q = a.softmax(-1), b.softmax(-1)
        if name == "reverse_kl":
            p, q = q, p
        return (p * ((p + POST_EPSILON) / (q + POST_EPSILON)).log()).sum(-1)

    torch.testing.assert_close(
        gradient(f"{name}_epsilon", z_teacher, z),
        autograd(divergence, z_teacher, z),
        rtol=1e-9,
        atol=1e-12,
    )


@pytest.mark.parametrize("name", list(LOGIT_GRADIENTS))
def test_float32_gradient_survives_probabilities_that_round_to_zero(name):
    z_teacher, z = logits(64, torch.float32)  # as sharp as the post's rank 64
    assert (z.softmax(-1) == 0).any()
    assert (z_teacher.softmax(-1) == 0).any()
    exact = gradient(name, z_teacher.double(), z.double())
    torch.testing.assert_close(gradient(name, z_teacher, z).double(), exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_adam_is_torch_adam_at_every_learning_rate(dtype):
    generator = torch.Generator().manual_seed(0)
    learning_rates = [1e-3, 1e-2, 1e-1]
    start = torch.randn(3, 5, 4, generator=generator, dtype=dtype)
    ours, buffer = start.clone(), torch.zeros_like(start)
    adam = Adam(ours, buffer, learning_rates)
    theirs = [weight.clone().requires_grad_() for weight in start]
    torch_adam = torch.optim.Adam(
        [{"params": [w], "lr": lr} for w, lr in zip(theirs, learning_rates, strict=True)]
    )
    for step in range(300):
        # Gradients over many orders of magnitude, down to where Adam's own eps matters.
        buffer.copy_(
            torch.randn(start.shape, generator=generator, dtype=dtype) * 10 ** -(step % 10)
        )
        for weight, weight_gradient in zip(theirs, buffer, strict=True):
            weight.grad = weight_gradient.clone()
        adam.step()
        torch_adam.step()
    rounding = 20 * torch.finfo(dtype).eps
    torch.testing.assert_close(ours, torch.stack(theirs).detach(), rtol=rounding, atol=rounding)


@pytest.mark.parametrize(
    ("dtype", "steps", "tolerance"), [(torch.float32, 200, 1e-4), (torch.float64, 400, 1e-8)]
)
def test_race_logs_what_the_plain_program_logs(dtype, steps, tolerance):
    # At learning rate 0.1 the descent is chaotic: at rank 4 a difference grows tenfold every 20 to
    # 30 steps, from the last bit of a float32 to 1e-4 in 400. Until then the two must agree.
    ranks, divergences = [4, 64], ["forward_kl", "reverse_kl"]
    log = race(teacher_weights(ranks, seed=3).to(dtype), divergences, steps=steps, seed=3)
    plain = run_plain(ranks, steps, seed=3, dtype=dtype)
    for (index, rank), name, metric in itertools.product(
        enumerate(ranks), divergences, ["weight_distance", "probability_distance"]
    ):
        assert plain[rank][name]["step"] == log.step
        assert log.curve(metric, name, index) == pytest.approx(
            plain[rank][name][metric], rel=tolerance
        )


def test_a_student_runs_the_same_race_in_any_company():
    teachers = teacher_weights([2, 16], seed=1).double()
    names = ["adaptive_kl", "jensen_shannon", "reverse_kl_epsilon"]
    together = race(teachers, names, [1e-2, 1e-1], steps=40, seed=1, log_every=20)
    alone = race(teachers[1:], names[1:2], [1e-1], steps=40, seed=1, log_every=20)
    for metric in ("weight_distance", "probability_distance", "forward_kl", "reverse_kl"):
        assert together.curve(metric, "jensen_shannon", teacher=1, rate=1) == pytest.approx(
            alone.curve(metric, "jensen_shannon"), rel=1e-9
        )


def test_log_before_the_first_update_is_that_of_the_start():
    teacher = teacher_weights([8], seed=5)
    log = race(teacher, ["forward_kl"], steps=1, seed=5)
    difference = (student_start(seed=5) - teacher[0]).numpy()
    centred = difference - difference.mean(1)[:, None]
    x = next(input_batches(seed=5))
    p, q = (x @ teacher[0]).softmax(-1), (x @ student_start(seed=5)).softmax(-1)
    assert log.step == [0, 1]
    assert log.curve("weight_distance", "forward_kl")[0] == pytest.approx(
        (difference**2).sum() ** 0.5, rel=1e-5
    )
    assert log.curve("centred_weight_distance", "forward_kl")[0] == pytest.approx(
        (centred**2).sum() ** 0.5, rel=1e-5
    )
    assert log.curve("probability_distance", "forward_kl")[0] == pytest.approx(
        float((p - q).norm()), rel=1e-5
    )
    assert log.curve("forward_kl", "forward_kl")[0] == pytest.approx(
        float((p * (p.log() - q.log())).nansum(-1).mean()), rel=1e-3
    )


def test_centred_distance_does_not_see_what_the_softmax_cannot_see():
    # Adding one column to all columns of the teacher adds one constant to all logits of an x.
    teacher = teacher_weights([8], seed=0).double()
    shifted = teacher + 3 * torch.randn(1, SIZE, 1, generator=torch.Generator().manual_seed(0))
    log = race(teacher, ["reverse_kl"], steps=30, log_every=10)
    moved = race(shifted, ["reverse_kl"], steps=30, log_every=10)
    for metric in ("centred_weight_distance", "probability_distance", "reverse_kl"):
        assert moved.curve(metric, "reverse_kl") == pytest.approx(
            log.curve(metric, "reverse_kl"), rel=1e-8
        )
    assert (
        moved.curve("weight_distance", "reverse_kl")[-1]
        > log.curve("weight_distance", "reverse_kl")[-1]
    )


def test_teachers_have_their_rank_and_do_not_depend_on_their_company():
    ranks = [2, 16, 64]
    teachers = teacher_weights(ranks, seed=0)
    assert torch.linalg.matrix_rank(teachers).tolist() == ranks
    assert torch.equal(teacher_weights([16], seed=0)[0], teachers[1])
    assert not torch.equal(teacher_weights([16], seed=1)[0], teachers[1])


@pytest.mark.parametrize("rank", [2, 64])
def test_unit_sharpness_gives_logits_of_variance_one(rank):
    teachers = torch.cat([teacher_weights([rank], seed=s, sharpness="unit") for s in range(50)])
    assert float(teachers.square().sum(1).mean()) == pytest.approx(1, rel=0.1)


def test_start_is_the_default_of_a_linear_layer():
    start = torch.stack([student_start(seed=seed) for seed in range(20)])
    bound = 1 / SIZE**0.5
    assert float(start.abs().max()) <= bound
    assert float(start.std()) == pytest.approx(bound / 3**0.5, rel=0.02)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"divergences": ["forward"]}, "unknown divergence 'forward'; did you mean 'forward_kl'"),
        ({"learning_rates": [0.0]}, "learning rate must be positive, not 0"),
        ({"steps": 0}, "at least 1, not 0"),
        ({"learning_rates": [1e30]}, "forward_kl at learning rate 1e.30 is no longer finite"),
    ],
)
def test_race_refuses_what_makes_no_sense(bad, message):
    settings = {"divergences": ["forward_kl"], "steps": 5, "log_every": 1} | bad
    with pytest.raises(ValueError, match=message):
        race(teacher_weights([2], seed=0), **settings)


@pytest.mark.parametrize(
    ("bad", "message"), [({"ranks": [65]}, "1 to 64, not 65"), ({"sharpness": "dull"}, "'dull'")]
)
def test_teachers_refuse_what_makes_no_sense(bad, message):
    with pytest.raises(ValueError, match=message):
        teacher_weights(**({"ranks": [2], "seed": 0} | bad))
