"""Speeds and memory on README and its pages are those that the benchmarks wrote."""

import pytest

from kd_lab.divergences import DIVERGENCES
from tests.helpers.page_texts import ROOT, TEXT, load


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_fused_loss_table(dtype):
    suffix = "" if dtype == "float32" else "_bfloat16"
    result = load(f"bench_fused_loss{suffix}")
    assert result["settings"]["dtype"] == dtype
    for name, time in result["ours_over"].items():
        memory = result["peak_mib"]["ours"] / result["peak_mib"][name]
        # The floor is a bound in time; its memory is that of whichever chunk size is fastest.
        shown = f"| {time:.2f} | |" if name == "floor" else f"{time:.2f} | {memory:.2f}"
        assert shown in TEXT, (dtype, name)
    if dtype == "float32":
        for name in result["over_floor"].keys() & DIVERGENCES.keys() - {"forward_kl"}:
            assert f"{name} {result['over_floor'][name]:.2f}" in TEXT


def test_what_is_computed_for_gpus():
    traffic = load("traffic")
    times = traffic["h100_us_per_token"]
    assert f"forward KL moves {traffic['bytes_per_cell']['forward_kl']:.0f} bytes" in TEXT
    assert (
        f"takes {times['ours']:.2f} µs on an H100, its four products {times['floor']:.2f}, Liger's "
        f"loss {times['liger']:.2f} and TRL's {times['trl']:.2f}" in TEXT
    )
    assert f"ours would take {traffic['a100_over_better_peer']:.2f} of Liger's time" in TEXT


PEERS_ON_A_GPU = {
    "ours": ("ours, forward_kl", 8192, 151_665),
    "Liger `LigerFusedLinearJSDLoss`, compiled": ("liger", 8192, 151_936),
    "TRL `ChunkedDivergenceFunction`": ("trl_kernel", 8192, 151_936),
    "Liger `LigerFusedLinearKLDivLoss`, on the teacher's whole probabilities": (
        "liger_kl_div", 8192, 151_936,
    ),
    "Liger `LigerFusedLinearJSD`": ("liger_jsd", 8192, 151_936),
    "TRL GKD loss, whole logits, 2,048 tokens": ("trl_gkd", 2048, 151_936),
    "whole logits, `forward_kl`, autograd, 2,048 tokens": ("dense", 2048, 151_936),
}  # fmt: skip


def test_what_a_gpu_measured():
    found = {name: check["figures"] for name, check in load("gpu").items()}
    speed = {figure["name"]: figure["value"] for figure in found["loss_speed"]}

    def time(name: str, tokens: int = 8192, words: int = 151_665) -> float:
        return speed[f"{name}, {tokens:,} tokens, {words:,} words: time"]

    assert f"| the floor | {time('floor'):.2f} | | |" in TEXT
    for shown, of in PEERS_ON_A_GPU.items():
        peak = speed["{}, {:,} tokens, {:,} words: peak above inputs and gradients".format(*of)]
        assert f"| {shown} | {time(*of):.2f} | {peak:.2f} |" in TEXT, shown
    for peer in ("liger", "trl_kernel"):
        assert time(peer, words=151_936) < time(peer)  # the table shows the better
    of_floor, of_peer = (
        speed[f"ours, forward_kl, over the {which}"]
        for which in ("floor", "better of Liger and TRL")
    )
    assert f"takes {of_floor:.2f} times the floor, and {of_peer:.2f} of the time" in TEXT
    row = (ROOT / "README.md").read_text(encoding="utf-8")
    peak = speed["ours, forward_kl, 8,192 tokens, 151,665 words: peak above inputs and gradients"]
    assert f"| {time('ours, forward_kl'):.1f} µs a token on an H200 | {peak:.1f} GiB |" in row
    assert f"| {of_peer:.2f} of the time of the better fused loss that keeps no whole logits" in row
    # Liger's KL loss keeps the teacher's probabilities and is faster: "better" needs its condition.
    assert time("liger_kl_div", words=151_936) < time("ours, forward_kl")
    of_whole = time("ours, forward_kl") / time("liger_kl_div", words=151_936)
    assert f"ours takes {of_whole:.2f} times as long" in TEXT
    for name in DIVERGENCES.keys() - {"forward_kl"}:
        assert f"{name} {time(f'ours, {name}'):.2f}" in TEXT
    slower = [
        figure["value"]
        for figure in found["roofline"]
        if "in one part" in figure["name"] and "to the head" not in figure["name"]
    ]
    assert f"took {min(slower):.1f} to {max(slower):.1f} times as long" in TEXT
    gradients = [
        figure["value"]
        for figure in found["kernels"]
        if "kernels against the plain passes, gradient" in figure["name"]
    ]
    assert max(gradients) < 1e-7


def test_toy_ratios():
    result = load("bench_toys")
    assert f"{result['gifs_vs_plain']:.0f} times" in TEXT
    assert f"{result['rank_vs_plain']:.1f} times" in TEXT
    assert f"{result['figures_seconds']:.0f} s" in TEXT


def test_a_step_of_training():
    bench = load("bench_training_step")
    qwen, smol = bench["qwen_vocab"], bench["smol"]
    assert (
        f"ours takes {qwen['time_vs_gkd']:.2f} of its time and {qwen['memory_vs_gkd']:.2f} of its "
        f"memory" in TEXT
    )
    assert (
        f"15 of its layers it is {smol['time_vs_gkd']:.2f} and {smol['memory_vs_gkd']:.2f}" in TEXT
    )
    assert f"at {bench['rollout_vs_file_order']:.2f} times the tokens" in TEXT


def test_the_time_of_a_compiled_step():
    found = {
        figure["name"]: figure["value"] for figure in load("gpu")["compiled_decode"]["figures"]
    }
    of_plain, under_autocast, large = (
        found[f"{case}, 64 rows: over the plain step"]
        for case in ("1.5B, bfloat16", "1.5B, float32 under autocast", "7B, bfloat16")
    )
    assert f"On an H200 it took {of_plain:.2f} of the plain step's time" in TEXT
    words = f"Under autocast, as training writes, it took {under_autocast:.2f} of it, and at 7B"
    assert f"{words} {large:.2f}" in TEXT
