"""The curves of the rank race: where they stand in the file, and that they are the audit's own."""

import json
from pathlib import Path

import numpy as np
import pytest

from toy import audit_rank_curves, audit_ranks
from toy.audit_rank_curves import DISTANCES, DIVERGENCES, Settings, logged_steps, summarise
from toy.rank_race import race, teacher_weights

SMALL = Settings(ranks=(2, 64), learning_rates=(1e-2, 1e-1), seeds=2, steps=30)
RESULTS = Path(__file__).parents[2] / "assets" / "results"


def test_steps_are_even_on_a_logarithmic_axis():
    steps = logged_steps(10_000)
    assert steps[:6] == [1, 2, 3, 4, 5, 6]
    assert {100, 1_000, 10_000} <= set(steps)
    assert len(steps) == 38
    ratios = np.array(steps[-20:]) / steps[-21:-1]
    np.testing.assert_allclose(ratios, 10**0.1, rtol=0.02)
    assert logged_steps(30)[-1] == 30


def test_unit_is_the_race_it_names():
    unit = audit_rank_curves.run_unit(SMALL, rank=2, sharpness="unit", seed=1)
    log = race(
        teacher_weights([2], seed=1, sharpness="unit"),
        ["adaptive_kl"],
        [1e-1],
        steps=30,
        seed=1,
        log_every=1,
    )
    due = np.array(log.curve("weight_distance", "adaptive_kl"))[logged_steps(30)]
    curves = np.array(unit["curves"])  # [distance, learning rate, divergence, step]
    column = curves[DISTANCES.index("weight_distance"), 1, DIVERGENCES.index("adaptive_kl")]
    assert column == pytest.approx(due, rel=1e-4)


def test_values_stand_where_the_axes_say():
    steps = len(logged_steps(30))

    def unit(rank: int, sharpness: str, seed: int) -> dict:
        base = 1000 * seed + 100 * (rank == 64) + 10 * (sharpness == "unit")
        return {"curves": np.full((3, 2, 6, steps), base) + np.arange(6)[:, None]}

    results = {name: unit(*run.args[1:]) for name, run in audit_rank_curves.units(SMALL).items()}
    summary = summarise(SMALL, results)
    shape = [len(summary["axes"][axis]) for axis in summary["axes"]]
    assert list(np.shape(summary["mean"])) == shape
    assert summary["mean"][0][1][1][0][5][0] == 500 + 100 + 10 + 5
    assert summary["least"][2][1][1][0][5][-1] == 115
    assert summary["greatest"][2][1][1][0][5][-1] == 1120  # three digits of 1,115


def test_what_is_committed_are_the_audits_races():
    # The audit ran the same races for eight seeds, and wrote down three of their steps.
    curves = json.loads((RESULTS / audit_rank_curves.RESULTS).read_text())
    audit = json.loads((RESULTS / audit_ranks.RESULTS).read_text())
    assert (RESULTS / audit_rank_curves.RESULTS).stat().st_size < 600_000
    seeds, axes = curves["settings"]["seeds"], curves["axes"]
    values = np.array(audit["values"])[..., :seeds]
    columns = [audit["axes"]["divergence"].index(name) for name in axes["divergence"]]
    for place, step in enumerate(audit["axes"]["step"]):
        # [distance, sharpness, rank, learning rate, divergence, seed]
        at_step = values[:, place][:, :, :, :, columns]
        for name, due, digits in (
            ("mean", at_step.mean(-1), 4),
            ("least", at_step.min(-1), 3),
            ("greatest", at_step.max(-1), 3),
        ):
            told = np.array(curves[name])[..., axes["step"].index(step)]
            np.testing.assert_allclose(told, due, rtol=6 * 10.0**-digits)
