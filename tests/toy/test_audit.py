"""The audit: its statistics by hand, its quick setting for real, and a run that is killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from kd_lab.files import sealed
from tests.helpers.forked_processes import SERVER
from toy import audit, audit_ranks
from toy.audit_ranks import DISTANCES, DIVERGENCES, Settings, findings, summarise

SMALL = Settings(ranks=(2, 64), seeds=4, steps=(10, 20), log_every=10)


def forked_workers(jobs: int) -> ProcessPoolExecutor:
    """``audit.workers``, forked from a process that has torch in memory."""
    return ProcessPoolExecutor(jobs, SERVER, initializer=audit._prepare_worker)


def made_up(settings: Settings, distance_of) -> dict:
    """Results of units as if ``distance_of(divergence, seed, step)`` had been measured."""
    return {
        name: {
            "step": [0, *settings.steps],
            "curves": [
                [
                    [[distance_of(d, seed, step) for d in DIVERGENCES]]
                    * len(settings.learning_rates)
                    for step in (0, *settings.steps)
                ]
                for _ in DISTANCES
            ],
        }
        for name in audit_ranks.units(settings)
        for seed in [int(name[-1])]
    }


def verdicts(summary: dict, numerics: str) -> set[str]:
    return set(np.array(summary["forward_against_reverse"][numerics]["verdict"]).flat)


def test_differences_are_paired_by_seed():
    # Seeds differ by far more than the divergences do: unpaired, nothing would be separated.
    def distance(divergence, seed, step):
        return 100 * (seed + 1) + {"forward_kl": 0, "reverse_kl": 1}.get(divergence, 5)

    summary = summarise(SMALL, made_up(SMALL, distance))
    assert verdicts(summary, "exact") == {"forward"}
    assert verdicts(summary, "epsilon") == {"not separated"}
    difference = summary["forward_against_reverse"]["exact"]["mean_difference"]
    assert set(np.array(difference).flat) == {-1}
    assert set(np.array(summary["leaders"]["leader"]).flat) == {"forward_kl"}
    assert np.array(summary["leaders"]["level"]).sum(-1).max() == 1


def test_a_lead_that_changes_with_the_seed_is_not_separated():
    def distance(divergence, seed, step):
        return 100 + (-1) ** seed * (divergence == "reverse_kl")

    summary = summarise(SMALL, made_up(SMALL, distance))
    assert verdicts(summary, "exact") == {"not separated"}
    assert np.array(summary["leaders"]["level"]).all()


def test_what_is_left_of_rounding_is_no_lead():
    def distance(divergence, seed, step):
        return 1.0 if step == 0 else 1e-6 * (1 + (divergence == "reverse_kl"))

    summary = summarise(SMALL, made_up(SMALL, distance))
    assert verdicts(summary, "exact") == {"arrived"}
    assert set(np.array(summary["leaders"]["leader"]).flat) == {"arrived"}


def test_values_stand_where_the_axes_say():
    def distance(divergence, seed, step):
        return 1000 * DIVERGENCES.index(divergence) + 100 * seed + step

    summary = summarise(SMALL, made_up(SMALL, distance))
    values = np.array(summary["values"])
    assert values.shape == (3, 2, 2, 2, 3, 8, 4)
    assert values[1, 1, 0, 1, 2, 5, 3] == 1000 * 5 + 100 * 3 + 20
    assert [len(ticks) for ticks in summary["axes"].values()] == list(values.shape)


def test_unit_is_the_race_it_names():
    result = audit_ranks.run_unit(SMALL, rank=2, sharpness="unit", seed=1)
    log = audit_ranks.race(
        audit_ranks.teacher_weights([2], seed=1, sharpness="unit"),
        ["skew_reverse_kl"],
        [1e-2],
        steps=20,
        seed=1,
        log_every=10,
    )
    column = np.array(result["curves"])[1, :, 1, DIVERGENCES.index("skew_reverse_kl")]
    assert column == pytest.approx(log.curve("weight_distance", "skew_reverse_kl"), rel=1e-4)


def logged_unit(folder: Path, number: int) -> dict:
    (folder / f"ran{number}-{time.monotonic_ns()}").touch()
    if number == 2 and not (folder / "mended").exists():
        raise ValueError("unit 2 is broken")
    return {"number": number}


def test_finished_units_are_kept_when_another_fails(tmp_path):
    log, store = tmp_path / "log", tmp_path / "store"
    log.mkdir()
    units = {f"unit{n}": partial(logged_unit, log, n) for n in range(4)}
    with forked_workers(1) as pool, pytest.raises(ValueError, match="unit 2 is broken"):
        audit.run_units(units, store, pool, title="test")
    kept = {path.stem for path in store.iterdir()}
    assert {"unit0", "unit1"} <= kept
    assert "unit2" not in kept

    (log / "mended").touch()
    with forked_workers(1) as pool:
        results = audit.run_units(units, store, pool, title="test")
    assert results == {f"unit{n}": {"number": n} for n in range(4)}
    runs = [path.name.split("-")[0] for path in log.glob("ran*")]
    assert sorted(set(runs)) == ["ran0", "ran1", "ran2", "ran3"]
    assert all(runs.count(f"ran{name[-1]}") == 1 for name in kept)


@pytest.mark.parametrize(
    "content", ["", "[1]", "{}", '{"number": 0', '{"number": 1}', '{"number": 2, "sha256": "of 1"}']
)
def test_a_damaged_unit_is_named_before_any_runs(tmp_path, content):
    unit = tmp_path / "unit0.json"
    unit.write_text(content)
    units = {f"unit{n}": partial(logged_unit, tmp_path, n) for n in range(2)}
    with pytest.raises(ValueError, match=r"^[^\n]*$") as refusal:
        audit.run_units(units, tmp_path, None, title="test")
    assert str(refusal.value).startswith(f"{unit} is ")
    assert str(refusal.value).endswith(
        "remove it and give the same command again, which repeats this unit alone"
    )


def test_a_kept_unit_is_as_it_was_written(tmp_path):
    result = {"curves": [0.1, 1e-300, float("inf")], "by rank": {10: "b", 2: "a"}}
    audit._run_and_keep(lambda: result, tmp_path / "unit.json")
    assert audit._kept(tmp_path / "unit.json") == {**result, "by rank": {"10": "b", "2": "a"}}


def test_quick_results_do_not_replace_full_ones(tmp_path, capsys):
    results = tmp_path / "results" / "rank_audit.json"
    results.parent.mkdir()
    results.write_text('{"quick": false}')
    with pytest.raises(ValueError, match=r"--quick would replace full results in .*rank_audit"):
        audit.main(["--quick", "--only", "ranks", "--out", str(tmp_path)])
    assert results.read_text() == '{"quick": false}'
    results.write_text('{"quick": tr')
    with pytest.raises(ValueError, match=r"rank_audit.json is damaged \(.*another --out"):
        audit.main(["--quick", "--only", "ranks", "--out", str(tmp_path)])
    results.write_text('{"quick": true}')
    audit.check_replaceable(results, quick=True)


def test_partial_results_of_other_settings_are_not_taken():
    prints = {audit._fingerprint("ranks", settings) for settings in (SMALL, audit_ranks.FULL)}
    assert len(prints) == 2


@pytest.mark.slow
def test_killed_audit_continues_where_it_was(tmp_path, monkeypatch):
    words = ["--quick", "--only", "ranks", "--jobs", "1", "--out", str(tmp_path)]
    command = [sys.executable, "toy/audit.py", *words]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        deadline = time.monotonic() + 100
        while not (kept := list(tmp_path.glob("results/.partial/ranks/*/rank*.json"))):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(run.pid, signal.SIGKILL)
    assert not (tmp_path / "results" / "rank_audit.json").exists()

    # Mark what was kept, so that it can be told from a second run's own.
    name = kept[0].stem
    unit = json.loads(kept[0].read_text())
    unit["curves"] = np.full(np.shape(unit["curves"]), 7.0).tolist()
    kept[0].write_text(json.dumps(sealed(unit)))

    others = tmp_path / "results/.partial/ranks/of-other-settings/rank2.json"
    others.parent.mkdir()
    others.write_text("{}")
    monkeypatch.setattr(audit, "workers", forked_workers)
    audit.main(words)
    assert others.exists()
    assert [path.name for path in others.parents[1].iterdir()] == [others.parent.name]
    shutil.rmtree(others.parents[2])
    summary = json.loads((tmp_path / "results" / "rank_audit.json").read_text())
    axes, values = summary["axes"], np.array(summary["values"])
    rank, sharpness, seed = name.split("-")
    cell = values[
        :,
        :,
        axes["sharpness"].index(sharpness),
        axes["rank"].index(int(rank.removeprefix("rank"))),
        :,
        :,
        int(seed.removeprefix("seed")),
    ]
    assert (cell == 7).all()
    assert (values == 7).sum() == cell.size
    assert summary["quick"] is True
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "rank_audit.png",
        "rank_epsilon.png",
        "rank_race_others.png",
        "results",
    ]
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["rank_audit.json"]
    assert any("Rank 64" in line for line in findings(summary))


def test_jobs_must_be_positive(tmp_path):
    with pytest.raises(ValueError, match="--jobs must be at least 1, not 0"):
        audit.main(["--quick", "--jobs", "0", "--out", str(tmp_path)])
