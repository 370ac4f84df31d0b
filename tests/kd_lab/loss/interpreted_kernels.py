"""The kernels against float64, under Triton's interpreter: run by ``test_kernels.py`` in a process.

TRITON_INTERPRET=1 python -m pytest tests/kd_lab/loss/interpreted_kernels.py
"""

import math

import pytest
import torch
from torch import Tensor
from triton.runtime import interpreter

from kd_lab.divergences import adaptive_kl, get_divergence
from kd_lab.loss import by_device, fused_linear_distillation_loss, gpu_tiles, tiles
from kd_lab.loss.kernels import TERMS
from kd_lab.loss.tiles import Objective, StoredDistribution, TileLoss, Weights
from tests.helpers.loss_problem import EVERY_DIVERGENCE, problem, relative_error

ROWS, VOCABULARY, PADDED = 3, 301, 320
EVERY_KERNEL = pytest.mark.parametrize("name", [rule.__name__ for rule in TERMS])
BLOCK, CAPACITY = 256, 16  # two blocks a row, and more tokens at the crossing than are kept


@pytest.fixture(autouse=True, scope="module")
def interpreted_on_a_cpu():
    patched: set[int] = set()

    def call(self, *args, **kwargs):
        """Triton's own patches its language again at each call, which takes ten times as long."""
        if id(self.fn.__globals__) not in patched:
            interpreter._patch_lang(self.fn)
            patched.add(id(self.fn.__globals__))
        return self.rewrite()(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter.InterpretedFunction, "__call__", call)
        patch.setattr(by_device, "KERNEL_DEVICES", ("cpu",))
        patch.setattr(gpu_tiles, "BLOCK", BLOCK)
        patch.setattr(gpu_tiles, "CAPACITY", CAPACITY)
        yield


def padded(logits: Tensor) -> Tensor:
    """Rows as ``Projection`` makes them, with NaN between them."""
    memory = torch.full((len(logits), PADDED), math.nan)
    memory[:, :VOCABULARY] = logits
    return memory[:, :VOCABULARY]


def pair(noise: float = 2.0, scale: float = 3.0) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of a student and its teacher, and targets."""
    generator = torch.Generator().manual_seed(0)
    teacher = torch.randn(ROWS, VOCABULARY, generator=generator) * scale
    student = teacher + noise * torch.randn(ROWS, VOCABULARY, generator=generator)
    return student, teacher, torch.randint(0, VOCABULARY, (ROWS,), generator=generator)


def by_kernels(
    tile: Tensor,
    teacher: Tensor | StoredDistribution | None,
    targets: Tensor,
    objective: Objective,
    want_gradient: bool = True,
    dtype: torch.dtype = torch.float32,
) -> TileLoss:
    return by_device.tile_loss(tile, teacher, targets, objective, want_gradient, dtype)


def in_float64(
    student: Tensor, teacher: Tensor | StoredDistribution | None, targets: Tensor, objective
) -> tuple[TileLoss, Tensor]:
    """The plain passes."""
    gradient = student.double()
    if isinstance(teacher, Tensor):
        teacher = teacher.double()
    return tiles.tile_loss(gradient, teacher, targets, objective), gradient


def check(
    logits: tuple[Tensor, Tensor | StoredDistribution | None, Tensor],
    objective: Objective,
    of_gradient: float = 1e-6,
    of_value: float = 2e-6,
) -> None:
    student, teacher, targets = logits
    expected, gradient = in_float64(student, teacher, targets, objective)
    tile = padded(student)
    if isinstance(teacher, Tensor):
        teacher = padded(teacher)
    assert by_device.has_kernels(tile, teacher, objective.divergence)
    found = by_kernels(tile, teacher, targets, objective)
    close = {"rtol": of_value, "atol": 1e-7, "equal_nan": True}
    torch.testing.assert_close(found.divergence, expected.divergence, **close)
    torch.testing.assert_close(found.cross_entropy, expected.cross_entropy, rtol=1e-6, atol=1e-6)
    assert torch.equal(found.student_finite, expected.student_finite)
    assert torch.equal(found.teacher_finite, expected.teacher_finite)
    assert relative_error(tile, gradient) < of_gradient


@EVERY_KERNEL
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_every_divergence(name, temperature, alpha):
    objective = Objective(get_divergence(name), Weights(alpha, 1 - alpha), temperature, ROWS)
    check(pair(), objective)


@EVERY_KERNEL
def test_where_teacher_and_student_nearly_agree(name):
    """Forward KL is 2e-5 nats; today's float32 is as near to float64."""
    objective = Objective(get_divergence(name), Weights(1.0, 0.0))
    check(pair(noise=0.01), objective, of_gradient=1e-4, of_value=2e-3)


@pytest.mark.parametrize("share", [0, 0.01, 0.7, 1])
@pytest.mark.parametrize(
    ("name", "setting"),
    [("jensen_shannon", "beta"), ("skew_forward_kl", "alpha"), ("skew_reverse_kl", "alpha")],
)
def test_all_shares_of_a_mixture(name, setting, share):
    divergence = get_divergence(name, **{setting: share})
    student, teacher, targets = pair()
    if share == 1 or (name == "jensen_shannon" and share == 0):
        tile = padded(student)
        objective = Objective(divergence, Weights(1.0, 0.0))
        found = by_kernels(tile, padded(teacher), targets, objective)
        assert found.divergence.abs().max() < 1e-6
        assert tile.abs().max() < 1e-6
    else:
        check((student, teacher, targets), Objective(divergence, Weights(1.0, 0.0)), 5e-6, 1e-5)


@pytest.mark.parametrize(
    ("name", "setting", "share"),
    [
        *(("skew_forward_kl", "alpha", share) for share in (0, 1e-9, 1e-4, 0.1)),
        *(("skew_reverse_kl", "alpha", share) for share in (0, 1e-9, 1e-4, 0.1)),
        *(("jensen_shannon", "beta", share) for share in (0, 1e-9, 0.1, 0.9, 1 - 1e-9, 1)),
    ],
)
def test_shares_where_one_model_hardly_says_a_word(name, setting, share):
    """exp(-30) is lost beside 1 in float32; without it a mixture of a small share is 0 there."""
    student, teacher, targets = pair()
    teacher[0, 7] -= 30
    student[1, 8] -= 30
    student[2, 9] -= 200
    objective = Objective(get_divergence(name, **{setting: share}), Weights(1.0, 0.0))
    if name == "jensen_shannon" and not 1e-6 < share < 1 - 1e-6:  # all but 0, and all rounding
        tile = padded(student)
        found = by_kernels(tile, padded(teacher), targets, objective)
        assert found.divergence.abs().max() < 1e-6
        assert tile.abs().max() < 1e-6
    else:
        check((student, teacher, targets), objective, 5e-6, 1e-5)


def test_weights_of_each_position():
    weights = torch.tensor([0.0, -2.0, 3.0], dtype=torch.float64)
    objective = Objective(get_divergence("reverse_kl"), Weights(weights, weights.flip(0)), 2.0, 7)
    check(pair(), objective)


# ---- adaptive KL: which tokens are the head


def sorted_head(p: Tensor, mu: float, crossing: str) -> Tensor:
    """The head of each row by sorting, the lowest ids first where tokens are equally likely."""
    p, token = p.sort(dim=-1, descending=True, stable=True)
    mass = p.cumsum(-1)
    if crossing == "head":
        head = (mass - p < mu - 1e-9) & (p > 0)
    else:
        head = mass <= mu + 1e-9
        head[:, 0] = True
    return torch.zeros_like(head).scatter_(-1, token, head)


FLAT = torch.zeros(1, VOCABULARY)
LEVELS = torch.arange(VOCABULARY).remainder(4)[None].float()  # four levels of 75 tokens
PEAKED = torch.where(torch.arange(VOCABULARY) == 7, 20.0, -1.0)[None]
PLAIN = pair()[1][:1]


@pytest.mark.parametrize("crossing", ["head", "tail"])
@pytest.mark.parametrize("mu", [0.0, 0.5, 0.95])
@pytest.mark.parametrize(
    "teacher", [FLAT, LEVELS, PEAKED, PLAIN], ids=["flat", "ties", "one", "many"]
)
def test_the_head_of_adaptive_kl(teacher, mu, crossing):
    """Each token has a gap of its own, so that the weight says which tokens are in the head."""
    student = teacher + 0.5 * torch.linspace(-1, 1, VOCABULARY).square()[None]
    p, q = teacher.double().softmax(-1), student.double().softmax(-1)
    gap = (p - q).abs()
    weight = (gap * sorted_head(p, mu, crossing)).sum(-1) / gap.sum(-1)
    forward = (p * (p / q).log()).sum(-1)
    reverse = (q * (q / p).log()).sum(-1)
    objective = Objective(
        get_divergence("adaptive_kl", mu=mu, crossing=crossing), Weights(1.0, 0.0)
    )
    found = by_kernels(padded(student), padded(teacher), torch.zeros(1).long(), objective)
    expected = weight * forward + (1 - weight) * reverse
    torch.testing.assert_close(found.divergence, expected, rtol=3e-5, atol=1e-8)


def test_the_whole_vocabulary_is_the_head_at_mu_1():
    objective = Objective(get_divergence("adaptive_kl", mu=1.0), Weights(1.0, 0.0))
    student, teacher, targets = pair()
    found = by_kernels(padded(student), padded(teacher), targets, objective)
    gap = (student.softmax(-1) - teacher.softmax(-1)).abs()
    assert gap.max() > 0.01  # rounding may leave the least likely token outside, and no gap of note
    expected = get_divergence("forward_kl")(
        teacher.double().log_softmax(-1), student.double().log_softmax(-1)
    )
    torch.testing.assert_close(found.divergence, expected, rtol=1e-5, atol=0)


def test_a_capacity_that_holds_the_crossing_and_one_that_does_not(monkeypatch):
    """Narrowing to one probability and settling among kept tokens find the same head."""
    found = []
    for capacity in (1, 16, 512):
        monkeypatch.setattr(gpu_tiles, "CAPACITY", capacity)
        student, teacher, targets = pair()
        objective = Objective(adaptive_kl, Weights(1.0, 0.0))
        found.append(by_kernels(padded(student), padded(teacher), targets, objective))
    assert torch.equal(found[0].divergence, found[1].divergence)
    assert torch.equal(found[0].divergence, found[2].divergence)


# ---- no teacher, and a stored one


def test_no_teacher():
    student, _, targets = pair()
    objective = Objective(get_divergence("forward_kl"), Weights(0.0, 1.0), 2.0, 5)
    check((student, None, targets), objective)


@EVERY_DIVERGENCE
@pytest.mark.parametrize(("k", "temperature"), [(1, 1.0), (5, 2.0), (VOCABULARY, 1.0)])
def test_a_stored_teacher(name, k, temperature):
    student, teacher, targets = pair()
    logp, tokens = (teacher / temperature).log_softmax(-1).topk(k)
    targets[0] = tokens[0, 0]  # the second and third target are not among the stored
    tail = torch.log1p(-logp.double().exp().sum(-1).clamp(max=1))
    stored = StoredDistribution(logp, tokens, tail)
    objective = Objective(get_divergence(name), Weights(0.7, 0.3), temperature, ROWS)
    check((student, stored, targets), objective, of_gradient=3e-6, of_value=1e-5)


def test_a_stored_tail_smaller_than_any_float32_share():
    student, _, targets = pair()
    student[:, 7] += 200
    stored = StoredDistribution(
        torch.zeros(ROWS, 1), torch.full((ROWS, 1), 7), torch.full((ROWS,), -150.0)
    )
    check((student, stored, targets), Objective(adaptive_kl, Weights(0.5, 0.5)), 1e-5, 1e-5)


# ---- the tile's memory


def test_a_16_bit_gradient_fills_the_first_half_of_its_row():
    objective = Objective(get_divergence("jensen_shannon"), Weights(0.5, 0.5), 1.0, ROWS)
    student, teacher, targets = pair()
    wide, narrow = padded(student), padded(student)
    by_kernels(wide, padded(teacher), targets, objective)
    by_kernels(narrow, padded(teacher), targets, objective, dtype=torch.bfloat16)
    gradient = by_device.gradient_of(narrow, teacher, objective.divergence, torch.bfloat16)
    assert gradient.data_ptr() == narrow.data_ptr()
    # to the next number of 8 bits on either side, since the interpreter cuts off where a GPU rounds
    torch.testing.assert_close(gradient, wide.bfloat16(), rtol=2**-7, atol=0)


def test_rows_without_padding():
    """The second row's memory begins where the first one's ends."""
    student, teacher, targets = pair()
    objective = Objective(get_divergence("reverse_kl"), Weights(0.5, 0.5))
    tile = padded(student)
    expected = by_kernels(tile, padded(teacher), targets, objective)
    found = by_kernels(student, teacher, targets, objective)
    assert torch.equal(found.divergence, expected.divergence)
    assert torch.equal(student, tile)


def test_a_tile_without_a_gradient_stays_as_it_is():
    student, teacher, targets = pair()
    objective = Objective(adaptive_kl, Weights(0.5, 0.5))
    tile = padded(student)
    found = by_kernels(tile, padded(teacher), targets, objective, want_gradient=False)
    assert torch.equal(tile, student)
    expected, _ = in_float64(student, teacher, targets, objective)
    torch.testing.assert_close(found.divergence, expected.divergence, rtol=2e-6, atol=0)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("whose", ["student", "teacher"])
def test_a_logit_that_is_not_finite(whose, value):
    student, teacher, targets = pair()
    (student if whose == "student" else teacher)[1, 300] = value
    objective = Objective(get_divergence("forward_kl"), Weights(0.5, 0.5))
    found = by_kernels(padded(student), padded(teacher), targets, objective)
    for side in ("student", "teacher"):
        finite = getattr(found, f"{side}_finite").tolist()
        assert finite == [True, side != whose, True]


# ---- through the door


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["forward_kl", "total_variation"])
def test_the_fused_loss_by_kernels_and_without_them(monkeypatch, name, dtype):
    """More positions than a chunk, with a label and without, and biases."""
    bias = torch.linspace(-1, 1, 101).to(dtype).requires_grad_()
    found = []
    for devices in ("cpu",), ():
        monkeypatch.setattr(by_device, "KERNEL_DEVICES", devices)
        *tensors, labels = problem(9, dtype=dtype)
        loss = fused_linear_distillation_loss(
            *tensors, labels, divergence=name, student_bias=bias, chunk_size=4
        )
        gradients = torch.autograd.grad(loss.loss, [*tensors[:2], bias])
        found.append((loss, gradients))
    (ours, with_kernels), (plain, without) = found
    assert ours.loss.item() == pytest.approx(plain.loss.item(), rel=1e-6)
    assert ours.divergence.item() == pytest.approx(plain.divergence.item(), rel=1e-6)
    for gradient, expected in zip(with_kernels, without, strict=True):
        assert gradient.dtype == dtype
        assert relative_error(gradient, expected) < (1e-6 if dtype == torch.float32 else 1e-2)


def test_the_fused_loss_names_the_position_that_is_not_finite():
    hidden, *rest = problem(9)
    with torch.no_grad():
        hidden[7] = math.inf  # 0, 3 and 6 have no label
    with pytest.raises(FloatingPointError, match=r"student's logits .* at trained position 4 "):
        fused_linear_distillation_loss(hidden, *rest)


def test_a_divergence_without_a_kernel_runs_as_it_does_on_a_cpu():
    def squared_hellinger(teacher_logp: Tensor, student_logp: Tensor) -> Tensor:
        return 1 - (0.5 * (teacher_logp + student_logp)).exp().sum(-1)

    student, teacher, targets = pair()
    objective = Objective(squared_hellinger, Weights(1.0, 0.0))
    assert not by_device.has_kernels(student, teacher, squared_hellinger)
    expected, gradient = in_float64(student, teacher, targets, objective)
    found = by_kernels(student, teacher, targets, objective)
    torch.testing.assert_close(found.divergence, expected.divergence, rtol=1e-5, atol=0)
    assert relative_error(student, gradient) < 1e-5


def test_a_gradient_is_scaled_unless_the_factor_is_1():
    numbers = torch.arange(5000.0)
    by_device.scale(numbers, torch.tensor(1.0))
    assert torch.equal(numbers, torch.arange(5000.0))
    by_device.scale(numbers, torch.tensor(0.5))
    assert torch.equal(numbers, torch.arange(5000.0) / 2)
    gpu_tiles.scale_by(numbers, torch.tensor(1.0))
    assert torch.equal(numbers, torch.arange(5000.0) / 2)
