"""adaptive_kl's own parts: which tokens are the head, what each side weighs, and what it costs."""

import math

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from kd_lab.divergences import adaptive_kl, forward_kl, reverse_kl
from kd_lab.head_mask import head_mask


def random_p(*shape: int, seed: int, spread: float) -> Tensor:
    noise = torch.Generator().manual_seed(seed)
    return (spread * torch.randn(*shape, generator=noise, dtype=torch.float64)).softmax(-1)


def smallest_head(p: list[float], mu: float) -> set[int]:
    """Tokens in falling order of probability, until together they hold mu."""
    mass, head = 0.0, set()
    for token in sorted(range(len(p)), key=lambda i: -p[i]):
        if mass >= mu:
            break
        head.add(token)
        mass += p[token]
    return head


def published_weights(p: Tensor, q: Tensor, mu: float) -> tuple[Tensor, Tensor]:
    """The weights as the authors' code defines them: a full sort, a running mass, masks, [...]."""
    ordered, token = p.sort(dim=-1, descending=True)
    gap = (ordered - q.gather(-1, token)).abs()
    tail = ordered.cumsum(-1) > mu
    tail[..., 0] = False
    head_gap, tail_gap = gap.masked_fill(tail, 0).sum(-1), gap.masked_fill(~tail, 0).sum(-1)
    return head_gap / (head_gap + tail_gap), tail_gap / (head_gap + tail_gap)


# ---------------------------------------------------------------------------------------- the head


@pytest.mark.parametrize("mu", [0.0, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("spread", [0.1, 1.0, 3.0, 8.0], ids=lambda spread: f"spread{spread}")
def test_head_is_the_smallest_set_that_reaches_mu(mu, spread):
    p = random_p(12, 1500, seed=1, spread=spread)
    head = head_mask(p, mu)
    for row, mask in zip(p.tolist(), head, strict=True):
        assert set(mask.nonzero().flatten().tolist()) == smallest_head(row, mu)


def test_heads_of_every_length_in_one_batch():
    """Rows that finish at 64, 512, 4,096 tokens and at the whole vocabulary, side by side."""
    vocab_size = 6000
    lengths = [1, 63, 64, 65, 511, 512, 513, 4096, 4097, 5000]
    token = torch.arange(vocab_size).flip(0)  # the most likely token is the last one
    p = torch.stack([torch.where(token < n, 0.9 / n, 0.1 / (vocab_size - n)) for n in lengths])
    # With equal head tokens of 0.9 / n each, mu just below 0.9 takes all n of them and no more.
    head = head_mask(p.double(), mu=0.9 - 1e-6)
    assert head.sum(-1).tolist() == lengths
    assert all((token[mask] < n).all() for mask, n in zip(head, lengths, strict=True))


def test_ties_still_give_a_smallest_set():
    p = torch.full((3, 200), 1 / 200, dtype=torch.float64)
    head = head_mask(p, mu=0.5025)
    assert head.sum(-1).tolist() == [101] * 3
    exact = torch.tensor([0.5, 0.3, 0.2])  # mu reached exactly: nothing more, nothing less
    for crossing in ("head", "tail"):
        assert head_mask(exact, 0.5, crossing).tolist() == [True, False, False]
    quarters = torch.tensor([0.5, 0.25, 0.125, 0.125])
    assert head_mask(quarters, 0.75, "tail").tolist() == [True, True, False, False]


def test_mu_at_its_ends():
    p, q = random_p(6, 300, seed=2, spread=2), random_p(6, 300, seed=3, spread=2)
    assert not head_mask(p, mu=0.0).any()
    assert head_mask(p, mu=1.0)[p > 1e-12].all()
    torch.testing.assert_close(adaptive_kl(p.log(), q.log(), mu=0.0), reverse_kl(p.log(), q.log()))
    torch.testing.assert_close(adaptive_kl(p.log(), q.log(), mu=1.0), forward_kl(p.log(), q.log()))


def test_every_word_of_the_teacher_is_in_its_head_at_mu_1():
    """Also one whose probability a rounded sum does not notice, and which the student likes."""
    p = torch.tensor([1.0, 1e-9, 0.0]).log()
    q = torch.tensor([0.5, 0.5, 0.0]).log()
    for crossing in ("head", "tail"):
        assert head_mask(p.exp(), 1.0, crossing).tolist() == [True, True, False]
        assert adaptive_kl(p, q, 1.0, crossing).item() == forward_kl(p, q).item()


def test_a_token_of_probability_zero_is_never_in_the_head():
    """Even where the rounded sum of p stays below mu = 1 and asks for more."""
    p = torch.tensor([0.3] * 3 + [0.1 - 1e-7, 0.0])
    assert p.cumsum(0)[-1] < 1
    for crossing in ("head", "tail"):
        assert head_mask(p, 1.0, crossing).tolist() == [True] * 4 + [False]
    q = torch.tensor([0.2] * 5)
    assert adaptive_kl(p.log(), q.log(), mu=1.0).item() == math.inf  # q likes what p rules out


# ------------------------------------------------------------------------------------- the weights


@pytest.mark.parametrize("mu", [0.0, 0.2, 0.5, 0.8])
@pytest.mark.parametrize("spread", [0.5, 2.0, 6.0], ids=lambda spread: f"spread{spread}")
def test_the_published_reading(mu, spread):
    p, q = random_p(40, 700, seed=4, spread=spread), random_p(40, 700, seed=5, spread=spread)
    head_weight, tail_weight = published_weights(p, q, mu)
    expected = head_weight * forward_kl(p.log(), q.log()) + tail_weight * reverse_kl(
        p.log(), q.log()
    )
    torch.testing.assert_close(adaptive_kl(p.log(), q.log(), mu, crossing="tail"), expected)


def test_the_two_readings_differ_by_the_crossing_token():
    p = torch.tensor([0.4, 0.3, 0.2, 0.1])
    assert head_mask(p, 0.5).tolist() == [True, True, False, False]
    assert head_mask(p, 0.5, "tail").tolist() == [True, False, False, False]
    sure = torch.tensor([0.9, 0.1])  # the published code keeps the first token, whatever mu
    assert head_mask(sure, 0.5).tolist() == head_mask(sure, 0.5, "tail").tolist() == [True, False]


@pytest.mark.parametrize("crossing", ["head", "tail"])
def test_no_gradient_flows_through_the_weights(crossing):
    p, logits = random_p(5, 40, seed=6, spread=2), random_p(5, 40, seed=7, spread=2).log()
    with torch.no_grad():
        gap, head = (p - logits.softmax(-1)).abs(), head_mask(p, 0.5, crossing)
        weight = (gap * head).sum(-1) / gap.sum(-1)
    gradients = []
    for loss in (
        lambda q: adaptive_kl(p.log(), q, crossing=crossing),
        lambda q: weight * forward_kl(p.log(), q) + (1 - weight) * reverse_kl(p.log(), q),
    ):
        z = logits.clone().requires_grad_()
        loss(z.log_softmax(-1)).sum().backward()
        gradients.append(z.grad)
    torch.testing.assert_close(*gradients)


def test_zero_at_equality_with_a_zero_gradient():
    logits = random_p(3, 50, seed=8, spread=2).log().requires_grad_()
    value = adaptive_kl(logits.detach().log_softmax(-1), logits.log_softmax(-1))
    value.sum().backward()
    assert value.tolist() == [0, 0, 0]
    assert logits.grad.abs().max() < 1e-15


def test_an_infinite_side_without_weight_stays_silent():
    p = torch.tensor([0.6, 0.2, 0.2])
    agree_on_tail = torch.tensor([0.3, 0.5, 0.2])  # mu = 0.8 puts all of the gap into the head
    value = adaptive_kl(p.log(), agree_on_tail.log(), mu=0.8)
    torch.testing.assert_close(value, forward_kl(p.log(), agree_on_tail.log()))
    logits = torch.tensor([0.6, 0.4, 0.0]).log().requires_grad_()  # the head agrees; D(p‖q) is inf
    value = adaptive_kl(p.log(), logits.log_softmax(-1), mu=0.5)
    value.backward()
    assert value.item() == pytest.approx(0.4 * math.log(2))
    assert logits.grad.isfinite().all()


# ----------------------------------------------------------------------------------- what it costs


class Selections(TorchDispatchMode):
    """Notes every sort and every topk that runs: (rows, k)."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, int]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function._schema.name in ("aten::sort", "aten::argsort", "aten::msort"):
            self.seen.append((args[0].shape[0], args[0].shape[-1]))
        if function._schema.name == "aten::topk":
            self.seen.append((args[0].shape[0], args[1]))
        return function(*args, **(kwargs or {}))


def test_a_short_head_needs_no_sort():
    p = random_p(16, 151_936 // 8, seed=9, spread=6).float().log()
    q = random_p(16, 151_936 // 8, seed=10, spread=6).float().log()
    with Selections() as selections:
        adaptive_kl(p, q, mu=0.5)
    assert selections.seen == [(16, 64)]


def test_a_long_head_needs_no_sort_either():
    sharp, flat = random_p(7, 5000, seed=11, spread=8), random_p(2, 5000, seed=12, spread=0.1)
    with Selections() as selections:
        head = head_mask(torch.cat([flat[:1], sharp, flat[1:]]), mu=0.5)
    assert selections.seen == [(9, 64)]
    assert (head.sum(-1) > 2000).tolist() == [True] + [False] * 7 + [True]


class HostReads(TorchDispatchMode):
    """Names the operations that hand numbers to the host, for which a GPU is waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        by_mask = name in ("index", "index_put_") and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if by_mask or name in ("nonzero", "_local_scalar_dense", "is_nonzero", "masked_select"):
            self.names.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("crossing", ["head", "tail"])
@pytest.mark.parametrize("spread", [0.1, 8.0], ids=["long heads", "short heads"])
def test_the_head_is_found_with_one_read_of_the_device(spread, crossing):
    p = random_p(6, 1500, seed=2, spread=spread).float()
    with HostReads() as reads:
        head_mask(p, 0.5, crossing)
    assert reads.names == ["nonzero"]
