"""Three ways to use a teacher's k likeliest tokens, against sums that are written out."""

import itertools
import math

import numpy as np
import pytest
import torch

from evidence.topk_versions import (
    DIRECTIONS,
    VERSIONS,
    Kept,
    bucket,
    compare_distributions,
    compare_topk,
    cut,
    renormalised,
    value_and_gradient,
)
from kd_lab.data.packed_rows import PackedRows
from kd_lab.divergences import forward_kl, reverse_kl
from kd_lab.loss import fused_linear_topk_distillation_loss
from tests.helpers.loss_problem import problem
from tests.helpers.toy_pair import TOKENIZER, toy_model, toy_rows

KS = (1, 2, 5, 20, 31)


@pytest.fixture
def distributions() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    draw = torch.randn(2, 40, 31, generator=generator, dtype=torch.float64)
    return tuple((2 * draw).log_softmax(-1))


def sorted_probabilities(distributions, row: int) -> list[tuple[float, float]]:
    """(p, q) of each token, the teacher's likeliest first, as plain numbers."""
    p, q = (logp[row].exp().tolist() for logp in distributions)
    return sorted(zip(p, q, strict=True), reverse=True)


@pytest.mark.parametrize("k", KS)
def test_values_against_written_out_sums(distributions, k):
    values = {
        (name, direction): divergence(*VERSIONS[name](*distributions, k))
        for name in VERSIONS
        for direction, divergence in (("forward", forward_kl), ("reverse", reverse_kl))
    }
    for row in range(len(distributions[0])):
        pairs = sorted_probabilities(distributions, row)
        kept, tail = pairs[:k], pairs[k:]
        p_kept, q_kept = (sum(pair[side] for pair in kept) for side in (0, 1))
        outcomes = [*kept, (sum(p for p, _ in tail), sum(q for _, q in tail))] if tail else kept
        forward = sum(p * math.log(p / q) for p, q in outcomes)
        reverse = sum(q * math.log(q / p) for p, q in outcomes)
        assert values["bucket", "forward"][row].item() == pytest.approx(forward, abs=1e-12)
        assert values["bucket", "reverse"][row].item() == pytest.approx(reverse, abs=1e-12)
        conditional = [(p / p_kept, q / q_kept) for p, q in kept]
        forward = sum(p * math.log(p / q) for p, q in conditional)
        reverse = sum(q * math.log(q / p) for p, q in conditional)
        assert values["cut", "forward"][row].item() == pytest.approx(forward, abs=1e-12)
        assert values["cut", "reverse"][row].item() == pytest.approx(reverse, abs=1e-12)
        forward = sum(p / p_kept * math.log(p / p_kept / q) for p, q in kept)
        assert values["renormalised", "forward"][row].item() == pytest.approx(forward, abs=1e-12)
        assert math.isinf(values["renormalised", "reverse"][row]) == (k < 31)


@pytest.mark.parametrize("divergence", [forward_kl, reverse_kl])
def test_the_bucket_is_a_lower_bound_that_grows_to_the_whole(distributions, divergence):
    values = [divergence(*bucket(*distributions, k)) for k in range(1, 32)]
    for fewer, more in itertools.pairwise(values):
        assert (more >= fewer - 1e-12).all()
    torch.testing.assert_close(values[-1], divergence(*distributions))


@pytest.mark.parametrize(("version", "k"), list(itertools.product(VERSIONS, (1, 5, 20))))
def test_what_a_perfect_student_is_told(distributions, version, k):
    teacher, _ = distributions
    value, gradient = value_and_gradient(forward_kl, teacher, teacher, version, k)
    if version == "renormalised":  # to give up its tail: its value there is -log of the kept mass
        mass = teacher.exp().topk(k).values.sum(-1)
        torch.testing.assert_close(value, -mass.log())
        assert (gradient.abs().sum(-1) > 0.5 * (1 - mass)).all()
    else:
        assert value.abs().max() < 1e-12
        assert gradient.abs().max() < 1e-12


@pytest.mark.parametrize("divergence", [forward_kl, reverse_kl])
@pytest.mark.parametrize("version", [None, "bucket", "cut"])
def test_gradient_against_finite_differences(distributions, divergence, version):
    teacher, logits = distributions[0][:3], 3 * distributions[1][:3]
    _, gradient = value_and_gradient(divergence, teacher, logits.log_softmax(-1), version, 4)
    along = torch.randn(3, 31, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ahead, behind = (
        value_and_gradient(divergence, teacher, (logits + h * along).log_softmax(-1), version, 4)[0]
        for h in (1e-5, -1e-5)
    )
    torch.testing.assert_close(
        (ahead - behind) / 2e-5, (gradient * along).sum(-1), rtol=1e-6, atol=1e-9
    )


def test_the_bucket_is_what_the_fused_loss_trains():
    hidden, head, teacher_hidden, teacher_head, labels = problem(dtype=torch.float64)
    teacher = (teacher_hidden @ teacher_head.t()).log_softmax(-1)
    found = fused_linear_topk_distillation_loss(hidden, head, *teacher.topk(7), labels, alpha=1.0)
    found.loss.backward()
    trained = labels != -100
    student = (hidden @ head.t()).detach().log_softmax(-1)
    value, gradient = value_and_gradient(
        forward_kl, teacher[trained], student[trained], "bucket", 7
    )
    assert found.loss.item() == pytest.approx(value.mean().item(), rel=1e-9)
    torch.testing.assert_close(hidden.grad[trained], gradient @ head.detach() / len(value))


def test_a_k_out_of_range(distributions):
    for version in (bucket, cut, renormalised):
        with pytest.raises(ValueError, match=r"k must lie in 1 ... 31, not 32"):
            version(*distributions, 32)


def test_comparison_of_two_models_against_their_whole_logits():
    """Sums over examples, ratios and the order of it all, against a loop over plain logits."""
    student, teacher = toy_model(seed=1).eval(), toy_model(48, 2, seed=2).eval()
    data = toy_rows(5)
    compared = compare_topk(
        student, teacher, PackedRows.of(data), (3, 20), vocab_size=len(TOKENIZER)
    )
    whole, kept, error, squares, mass, tokens = np.zeros(6)
    for row in data:
        ids = torch.tensor([row["input_ids"]])
        positions = torch.tensor(row["labels"][1:]) != -100
        with torch.no_grad():
            p, q = (
                model(ids).logits[0, :-1, : len(TOKENIZER)][positions].double().log_softmax(-1)
                for model in (teacher, student)
            )
        value, gradient = value_and_gradient(reverse_kl, p, q)
        part, own = value_and_gradient(reverse_kl, p, q, "bucket", 20)
        whole += value.sum().item()
        kept += part.sum().item()
        error += (own - gradient).square().sum().item()
        squares += gradient.square().sum().item()
        mass += (1 - p.exp().topk(3).values.sum(-1)).sum().item()
        tokens += len(p)
    told = compared.to_json()
    first, second = told["by_k"]
    assert (told["examples"], told["tokens"]) == (5, tokens)
    assert told["reverse_kl"]["mean"] == pytest.approx(whole / tokens, rel=1e-4)
    assert first["tail_mass"]["mean"] == pytest.approx(mass / tokens, rel=1e-4)
    found = second["bucket"]["reverse_kl"]
    assert found["kept"]["mean"] == pytest.approx(kept / whole, rel=1e-4)
    assert found["gradient_error"]["mean"] == pytest.approx((error / squares) ** 0.5, rel=1e-3)
    assert found["kept"]["low"] <= found["kept"]["mean"] <= found["kept"]["high"]
    assert "reverse_kl" not in second["renormalised"]


@pytest.mark.parametrize("k", KS)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_sums_over_the_tail_against_whole_gradients(distributions, direction, k):
    measured = compare_distributions(*distributions, [k])
    whole, g = value_and_gradient(DIRECTIONS[direction], *distributions)
    torch.testing.assert_close(measured["whole", direction], whole)
    torch.testing.assert_close(measured["square", direction], g.square().sum(-1))
    for version in VERSIONS:
        if (version, direction) == ("renormalised", "reverse_kl"):
            assert (version, direction, k, "value") not in measured
            continue
        value, own = value_and_gradient(DIRECTIONS[direction], *distributions, version, k)
        expected = Kept(value, (own - g).square().sum(-1), (own * g).sum(-1), own.square().sum(-1))
        for name, part in expected._asdict().items():
            torch.testing.assert_close(
                measured[version, direction, k, name], part, rtol=1e-9, atol=1e-12
            )
