"""The bytes of the kernels, as the file in assets/ has them and as they are counted again."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kd_lab.divergences import DIVERGENCES

ROOT = Path(__file__).parents[3]
MOST = {"forward_kl": 20, "adaptive_kl": 40}  # bytes a cell; all others 28
COUNT = """
from benchmarks import traffic
traffic.as_on_a_gpu()
traffic.ROWS = 1
print(traffic.ours("forward_kl")["bytes"], traffic.ours("adaptive_kl")["bytes"])
"""


def kept() -> dict:
    return json.loads((ROOT / "assets" / "results" / "traffic.json").read_text())


def test_the_bars():
    found = kept()
    compiled = {"alpha_beta", "entropy_aware_kl"}  # without a kernel, of closed forms
    assert set(found["bytes_per_cell"]) == {*DIVERGENCES} - compiled
    for name, cell in found["bytes_per_cell"].items():
        assert cell <= MOST.get(name, 28), name
    for card in "h100", "a100":
        token = found[f"{card}_us_per_token"]
        assert token["ours"] <= 1.45 * token["floor"]
        assert token["ours"] <= 0.85 * min(token["liger"], token["trl"])


@pytest.mark.slow
def test_the_kernels_move_the_bytes_of_the_file():
    run = subprocess.run(
        [sys.executable, "-c", COUNT], cwd=ROOT, capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    found = kept()
    forward, adaptive = map(float, run.stdout.split()[-2:])
    assert forward == pytest.approx(found["bytes_per_cell"]["forward_kl"], abs=0.05)
    assert adaptive == pytest.approx(found["adaptive_kl_bytes"]["peaked"], abs=0.1)
