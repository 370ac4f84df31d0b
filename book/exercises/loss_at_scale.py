"""Checks of notebook 7's exercises, each against something independent of a solution."""

import json
from collections.abc import Callable

import torch
from torch import Tensor

from book.asset_files import asset
from book.exercises.expected import expect
from evidence.topk_versions import VERSIONS, bytes_per_token
from kd_lab.divergences import forward_kl

QWEN = 151_936  # rows of its heads
HIDDEN_BYTES = 2 * 3_584  # of Qwen2.5-7B's hidden state in bfloat16, a token


def memory_of_the_loss(answer: Callable[[int, int], float]) -> None:
    """MiB of the fused loss for a chunk of C tokens and V words; by the benchmark at C = 512."""
    bench = json.loads(asset("results/bench_fused_loss.json").read_text(encoding="utf-8"))
    measured = bench["peak_mib_by_tokens"]["ours"]["1024"]
    for chunk, words in ((512, QWEN), (1_024, QWEN), (512, 50_000)):
        expected = measured * chunk * words / (512 * QWEN)
        tile = chunk * words * 4 / 2**20
        mistakes = {
            "that is one tile": tile,
            "that is two whole tiles": 2 * tile,
            "that is bytes": 1.5 * tile * 2**20,
            "that is for two bytes a number": 0.75 * tile,
        }
        where = f"{chunk} tokens, {words} words, by the benchmark"
        expect(answer(chunk, words), expected, where, mistakes, rtol=0.03)


def left_out_by_the_bucket(answer: Callable[[Tensor, Tensor, int], Tensor]) -> None:
    """D(p‖q) less the KL of k words and a bucket, for probabilities [V] in the teacher's order."""
    z = torch.randn(2, 12, generator=torch.manual_seed(0), dtype=torch.float64)
    p = z[0].softmax(-1).sort(descending=True).values
    q = z[1].softmax(-1)
    for k in (3, 8):
        bucketed = forward_kl(*VERSIONS["bucket"](p.log(), q.log(), k))
        within = forward_kl(p[k:].log().log_softmax(-1), q[k:].log().log_softmax(-1))
        mistakes = {
            "the teacher's mass in the tail is missing": within,
            "that is with the student's mass": q[k:].sum() * within,
            "the two tails are not renormalised": (p[k:] * (p[k:] / q[k:]).log()).sum(),
            "that is what the bucket keeps": bucketed,
        }
        expected = forward_kl(p.log(), q.log()) - bucketed
        expect(answer(p, q, k), expected, f"twelve random words, k = {k}", mistakes)


def words_for_the_same_bytes(answer: float) -> None:
    """The k at which the stored top k takes the bytes of a hidden state."""
    if not float(answer).is_integer():
        raise AssertionError(f"k is a whole number, and {answer:.12g} is none")
    k = int(answer)
    if (took := bytes_per_token(k, 151_665)) != HIDDEN_BYTES:
        raise AssertionError(
            f"k = {k} takes {took:,} bytes a token, and the hidden state {HIDDEN_BYTES:,}"
        )
