"""Every divergence against something that shares no code with it.

Plain Python sums in float64, closed forms, F.kl_div, gradcheck and gradients derived by hand; then
the cases that break a careless version: zeros, low precision, a real vocabulary, near agreement.
Properties of all distributions are in test_divergence_properties.py, adaptive_kl's weights in
test_adaptive_kl.py.
"""

import math
from collections.abc import Callable, Sequence
from itertools import chain, combinations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kd_lab import divergences as D

Distribution = Sequence[float]


def kl(a: Distribution, b: Distribution) -> float:
    """D(a‖b), one term at a time."""
    total = 0.0
    for x, y in zip(a, b, strict=True):
        if x > 0:
            total += x * math.log(x / y) if y > 0 else math.inf
    return total


def mix(a: Distribution, b: Distribution, share: float) -> list[float]:
    return [share * x + (1 - share) * y for x, y in zip(a, b, strict=True)]


def adaptive(p: Distribution, q: Distribution, mu: float) -> float:
    """Wu et al.: take tokens in the teacher's order until they hold mu."""
    order, mass, head = sorted(range(len(p)), key=lambda i: -p[i]), 0.0, set()
    for token in order:
        if mass >= mu:
            break
        head.add(token)
        mass += p[token]
    gaps = [abs(x - y) for x, y in zip(p, q, strict=True)]
    w = sum(gaps[i] for i in head) / sum(gaps)
    return w * kl(p, q) + (1 - w) * kl(q, p)


def alpha_beta(p: Distribution, q: Distribution, a: float, b: float) -> float:
    """Cichocki et al.: the definition, word by word; a, b and a + b are not 0."""
    total = 0.0
    for x, y in zip(p, q, strict=True):
        total += x**a * y**b - a / (a + b) * x ** (a + b) - b / (a + b) * y ** (a + b)
    return -total / (a * b)


def entropy_aware(p: Distribution, q: Distribution, threshold: float) -> float:
    """Jin et al.: reverse KL, and forward KL besides where the teacher's entropy is over it."""
    entropy = -sum(x * math.log(x) for x in p if x > 0)
    return kl(q, p) + (kl(p, q) if entropy > threshold else 0)


def largest_event_gap(p: Distribution, q: Distribution) -> float:
    """TVD by its meaning: over all 2^V events, the largest difference in probability."""
    events = chain.from_iterable(combinations(range(len(p)), n) for n in range(len(p) + 1))
    return max(sum(p[i] for i in event) - sum(q[i] for i in event) for event in events)


ROWS: list[tuple[str, dict, Callable[[Distribution, Distribution], float]]] = [
    ("forward_kl", {}, kl),
    ("reverse_kl", {}, lambda p, q: kl(q, p)),
    (
        "jensen_shannon",
        {"beta": 0.3},
        lambda p, q: 0.3 * kl(p, mix(p, q, 0.3)) + 0.7 * kl(q, mix(p, q, 0.3)),
    ),
    ("adaptive_kl", {"mu": 0.6}, lambda p, q: adaptive(p, q, 0.6)),
    ("skew_forward_kl", {"alpha": 0.2}, lambda p, q: kl(p, mix(p, q, 0.2))),
    ("skew_reverse_kl", {"alpha": 0.2}, lambda p, q: kl(q, mix(q, p, 0.2))),
    ("total_variation", {}, largest_event_gap),
    ("alpha_beta", {"alpha": 0.3, "beta": 0.6}, lambda p, q: alpha_beta(p, q, 0.3, 0.6)),
    ("entropy_aware_kl", {"threshold": 1.2}, lambda p, q: entropy_aware(p, q, 1.2)),
]
ALL = [pytest.param(name, bound, id=name) for name, bound, _ in ROWS]


def random_logp(*shape: int, seed: int, spread: float = 2.0) -> Tensor:
    noise = torch.Generator().manual_seed(seed)
    return (spread * torch.randn(*shape, generator=noise, dtype=torch.float64)).log_softmax(-1)


def log(*probabilities: float) -> Tensor:
    return torch.tensor(probabilities, dtype=torch.float64).log()


def student_gradient(divergence: D.Divergence, teacher_logp: Tensor, logits: Tensor) -> Tensor:
    logits = logits.clone().requires_grad_()
    divergence(teacher_logp, logits.log_softmax(-1)).sum().backward()
    assert logits.grad is not None
    return logits.grad


# ------------------------------------------------------------------ what each one is, by definition


def test_every_divergence_has_a_row_here():
    assert [name for name, _, _ in ROWS] == list(D.DIVERGENCES)


@pytest.mark.parametrize(("name", "bound", "brute_force"), ROWS, ids=[row[0] for row in ROWS])
def test_brute_force(name, bound, brute_force):
    p, q = random_logp(20, 8, seed=1), random_logp(20, 8, seed=2)
    expected = [brute_force(x, y) for x, y in zip(p.exp().tolist(), q.exp().tolist(), strict=True)]
    assert D.get_divergence(name, **bound)(p, q).tolist() == pytest.approx(expected, rel=1e-12)


def test_direction_by_name():
    p, q = random_logp(6, 11, seed=3), random_logp(6, 11, seed=4)
    # F.kl_div(input, target) is D(target‖input): its first argument is the approximation.
    toward_p = F.kl_div(q, p, log_target=True, reduction="none").sum(-1)
    toward_q = F.kl_div(p, q, log_target=True, reduction="none").sum(-1)
    torch.testing.assert_close(D.forward_kl(p, q), toward_p)
    torch.testing.assert_close(D.reverse_kl(p, q), toward_q)
    assert ((toward_p - toward_q).abs() > 1e-3).all()  # or the test could not tell them apart


@pytest.mark.parametrize(("a", "b"), [(0.5, 0.9), (0.01, 0.7), (1 / 3, 1 / 4)])
def test_two_point_distributions(a, b):
    p, q = log(a, 1 - a), log(b, 1 - b)
    cross = a * math.log(a / b) + (1 - a) * math.log((1 - a) / (1 - b))
    assert D.forward_kl(p, q).item() == pytest.approx(cross)
    assert D.total_variation(p, q).item() == pytest.approx(abs(a - b))


def test_gaussians_on_a_grid():
    """D(N(m, s²)‖N(n, t²)) = log(t/s) + (s² + (m-n)²)/2t² - 1/2."""
    x = torch.linspace(-30, 30, 4001, dtype=torch.float64)
    (m, s), (n, t) = (-1.0, 1.5), (2.0, 2.5)
    p = (-0.5 * ((x - m) / s) ** 2).log_softmax(-1)
    q = (-0.5 * ((x - n) / t) ** 2).log_softmax(-1)
    forward = math.log(t / s) + (s**2 + (m - n) ** 2) / (2 * t**2) - 0.5
    reverse = math.log(s / t) + (t**2 + (m - n) ** 2) / (2 * s**2) - 0.5
    assert D.forward_kl(p, q).item() == pytest.approx(forward, rel=1e-9)
    assert D.reverse_kl(p, q).item() == pytest.approx(reverse, rel=1e-9)


def hellinger(p: Tensor, q: Tensor) -> Tensor:
    """H² = ½·Σ(√p - √q)²."""
    return 0.5 * (p.exp().sqrt() - q.exp().sqrt()).square().sum(-1)


@pytest.mark.parametrize(
    ("alpha", "beta", "expected"),
    [
        (1, 0, D.forward_kl),
        (0, 1, D.reverse_kl),
        (0.5, 0.5, lambda p, q: 4 * hellinger(p, q)),
        (1, 1, lambda p, q: 0.5 * (p.exp() - q.exp()).square().sum(-1)),
        (2, 0, lambda p, q: (0.25 * (2 * p).exp() * (2 * (p - q) + (2 * (q - p)).expm1())).sum(-1)),
    ],
)
def test_alpha_beta_at_its_ends_is_what_it_generalises(alpha, beta, expected):
    p, q = random_logp(20, 8, seed=30), random_logp(20, 8, seed=31)
    torch.testing.assert_close(D.alpha_beta(p, q, alpha, beta), expected(p, q))
    # and is the limit there, not another function at one point
    near = D.alpha_beta(p, q, alpha + 1e-7, beta + 1e-7)
    torch.testing.assert_close(near, expected(p, q), rtol=1e-5, atol=0)


def test_alpha_beta_with_the_roles_exchanged_has_its_exponents_exchanged():
    p, q = random_logp(20, 8, seed=32), random_logp(20, 8, seed=33)
    torch.testing.assert_close(D.alpha_beta(p, q, 0.3, 0.9), D.alpha_beta(q, p, 0.9, 0.3))


def test_a_threshold_is_of_the_teachers_entropy():
    """0.5 nats lie between a sure teacher's entropy and an unsure one's; no mean is taken."""
    p, q = log(0.9, 0.05, 0.05), random_logp(3, seed=34)
    unsure = log(0.4, 0.3, 0.3)
    assert D.entropy_aware_kl(p, q, 0.5) == D.reverse_kl(p, q)
    both = D.reverse_kl(unsure, q) + D.forward_kl(unsure, q)
    assert D.entropy_aware_kl(unsure, q, 0.5) == both
    assert D.entropy_aware_kl(p, q, 0.0) == D.reverse_kl(p, q) + D.forward_kl(p, q)
    stacked = D.entropy_aware_kl(torch.stack([p, unsure]), q, 0.5)
    torch.testing.assert_close(stacked, torch.stack([D.reverse_kl(p, q), both]))


def test_distributions_that_share_no_token():
    """As far apart as can be: each divergence takes its largest value."""
    p, q = log(0.5, 0.5, 0.0, 0.0), log(0.0, 0.0, 0.25, 0.75)
    assert D.forward_kl(p, q).item() == D.reverse_kl(p, q).item() == math.inf
    assert D.adaptive_kl(p, q).item() == math.inf
    assert D.total_variation(p, q).item() == 1
    for a, b in ((0.2, 0.7), (0.5, 0.5), (1.0, 1.0)):
        expected = alpha_beta(p.exp().tolist(), q.exp().tolist(), a, b)
        assert D.alpha_beta(p, q, a, b).item() == pytest.approx(expected)
    assert D.alpha_beta(p, q, 1, 0).item() == D.alpha_beta(p, q, 0, 1).item() == math.inf
    assert D.entropy_aware_kl(p, q).item() == math.inf
    assert D.jensen_shannon(p, q).item() == pytest.approx(math.log(2))
    entropy = -0.1 * math.log(0.1) - 0.9 * math.log(0.9)
    assert D.jensen_shannon(p, q, beta=0.1).item() == pytest.approx(entropy)
    assert D.skew_forward_kl(p, q, alpha=0.1).item() == pytest.approx(-math.log(0.1))
    assert D.skew_reverse_kl(p, q, alpha=0.1).item() == pytest.approx(-math.log(0.1))


# ------------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize(("name", "bound"), [row for row in ALL if "adaptive_kl" not in row.id])
def test_gradcheck(name, bound):
    divergence, p = D.get_divergence(name, **bound), random_logp(3, 7, seed=5)
    logits = random_logp(3, 7, seed=6).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: divergence(p, z.log_softmax(-1)), logits)


def test_logit_gradients_by_hand():
    p, q = random_logp(4, 9, seed=7), random_logp(4, 9, seed=8)
    torch.testing.assert_close(student_gradient(D.forward_kl, p, q), q.exp() - p.exp())

    reverse = q.exp() * (q - p - D.reverse_kl(p, q)[:, None])
    torch.testing.assert_close(student_gradient(D.reverse_kl, p, q), reverse)

    m = (0.5 * p.exp() + 0.5 * q.exp()).log()
    half = 0.5 * q.exp() * (q - m - D.reverse_kl(m, q)[:, None])
    torch.testing.assert_close(student_gradient(D.jensen_shannon, p, q), half)


# ----------------------------------------------------------------------------------------- zeros

ZEROS = [
    pytest.param(log(0.5, 0.5, 0.0), log(0.2, 0.3, 0.5), math.inf, "reverse_kl", id="in-teacher"),
    pytest.param(log(0.2, 0.3, 0.5), log(0.5, 0.5, 0.0), math.inf, "forward_kl", id="in-student"),
    pytest.param(log(0.5, 0.5, 0.0), log(0.2, 0.8, 0.0), None, "", id="in-both"),
]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("p", "q", "limit", "infinite"), ZEROS)
def test_zeros_give_the_limit(p, q, limit, infinite, dtype):
    p, q = p.to(dtype), q.to(dtype)
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 0.02}[dtype]
    for name, bound, brute_force in ROWS:
        value = D.get_divergence(name, **bound)(p, q).item()
        gradient = student_gradient(D.get_divergence(name, **bound), p, q)
        if name == infinite or (name == "adaptive_kl" and limit):
            assert value == limit, name
        else:
            expected = brute_force(p.double().exp().tolist(), q.double().exp().tolist())
            assert value == pytest.approx(expected, rel=tolerance, abs=tolerance), name
            assert gradient.isfinite().all() or math.isinf(expected), name


@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_jensen_shannon_without_a_second_share_is_zero_even_where_a_kl_is_infinite(beta):
    p, q = log(1.0, 0.0), log(0.0, 1.0)
    logits = q.clone().requires_grad_()
    value = D.jensen_shannon(p, logits.log_softmax(-1), beta=beta)
    value.backward()
    assert value.item() == 0
    assert logits.grad is not None
    assert logits.grad.tolist() == [0, 0]


def test_a_nan_is_not_hidden():
    p, q = random_logp(2, 5, seed=9), random_logp(2, 5, seed=10)
    q[0, 2] = math.nan
    for name, bound, _ in ROWS:
        values = D.get_divergence(name, **bound)(p, q)
        assert values.isnan().tolist() == [True, False], name


# ------------------------------------------------------------------------------------- precision


@pytest.mark.parametrize(("name", "bound"), ALL)
def test_float32(name, bound):
    divergence = D.get_divergence(name, **bound)
    p, q = random_logp(64, 5000, seed=11), random_logp(64, 5000, seed=12)
    value = divergence(p.float(), q.float())
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), divergence(p, q), rtol=2e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("name", "bound"), ALL)
def test_half_precision_is_widened_first(name, bound, dtype):
    divergence = D.get_divergence(name, **bound)
    p, q = random_logp(64, 100, seed=13), random_logp(64, 100, seed=14)
    value = divergence(p.to(dtype), q.to(dtype))
    assert value.dtype == torch.float32
    # All the error is in the rounded input: from there on nothing is lost ...
    rounded = divergence(p.to(dtype).double(), q.to(dtype).double())
    torch.testing.assert_close(value.double(), rounded, rtol=1e-5, atol=0)
    # ... and log-probabilities of about -5 rounded at 2^-9 still give the value to a few per cent.
    torch.testing.assert_close(value.double(), divergence(p, q), rtol=0.03, atol=0)


@pytest.mark.parametrize("noise", [1.4e-1, 1.4e-2, 1.4e-3], ids=["1e-2", "1e-4", "1e-6 nats"])
def test_near_agreement_over_a_real_vocabulary(noise):
    """Qwen2.5's 151,936 words; float32 logits, as a model gives them, with an offset of 20."""
    random = torch.Generator().manual_seed(15)
    teacher = 20 + 3 * torch.randn(4, 151_936, generator=random)
    student = teacher + noise * torch.randn(4, 151_936, generator=random)
    exact_p, exact_q = teacher.double().log_softmax(-1), student.double().log_softmax(-1)
    p, q = teacher.log_softmax(-1), student.log_softmax(-1)
    exact = (exact_p.exp() * (exact_p - exact_q)).sum(-1)
    assert exact.mean().item() == pytest.approx(noise**2 / 2, rel=0.1)
    torch.testing.assert_close(D.forward_kl(p, q).double(), exact, rtol=0.01, atol=0)
    for name, bound, _ in ROWS:
        divergence = D.get_divergence(name, **bound)
        torch.testing.assert_close(
            divergence(p, q).double(), divergence(exact_p, exact_q), rtol=0.01, atol=2e-8
        )


def test_never_below_zero_by_more_than_rounding():
    random = torch.Generator().manual_seed(16)
    teacher = 3 * torch.randn(4, 151_936, generator=random)
    for offset in (0.0, 7.0, 1000.0):  # the same distribution, another rounding
        p, q = teacher.log_softmax(-1), (teacher + offset).log_softmax(-1)
        for name, bound, _ in ROWS:
            assert D.get_divergence(name, **bound)(p, q).min().item() >= -1e-7, name


# ---------------------------------------------------------------------------------------- shapes


@pytest.mark.parametrize(("name", "bound"), ALL)
def test_batch_shapes_and_broadcasting(name, bound):
    divergence = D.get_divergence(name, **bound)
    p, q = random_logp(2, 3, 4, 6, seed=17), random_logp(2, 3, 4, 6, seed=18)
    value = divergence(p, q)
    assert value.shape == (2, 3, 4)
    assert value[1, 2, 3].item() == pytest.approx(divergence(p[1, 2, 3], q[1, 2, 3]).item())
    one = p[0, 0, 0]  # [V], against [S, V]
    torch.testing.assert_close(
        divergence(one, q[0, 0]), torch.stack([divergence(one, row) for row in q[0, 0]])
    )
    torch.testing.assert_close(divergence(q[0, 0], one), divergence(q[0, 0], one.expand(4, 6)))
    assert divergence(p[:0], q[:0]).shape == (0, 3, 4)
    # A transposed layout is the same distribution.
    torch.testing.assert_close(divergence(p.mT.contiguous().mT, q), value)


@pytest.mark.parametrize("share", [0.0, 1.0])
@pytest.mark.parametrize("name", ["jensen_shannon", "skew_forward_kl", "skew_reverse_kl"])
def test_broadcasting_at_the_ends_of_a_mixture(name, share):
    setting = {"jensen_shannon": "beta"}.get(name, "alpha")
    divergence = D.get_divergence(name, **{setting: share})
    p, q = random_logp(6, seed=19), random_logp(4, 6, seed=20)
    assert divergence(p, q).shape == divergence(q, p).shape == (4,)
