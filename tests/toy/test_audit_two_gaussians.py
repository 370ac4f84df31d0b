"""The race: its steps against plain fits, its statistics by hand, its pictures."""

import numpy as np
import pytest
from PIL import Image
from scipy.stats import beta

from toy.audit_two_gaussians import (
    NAMED_STARTS,
    RACERS,
    Settings,
    draw_map,
    draw_race,
    findings,
    race,
    random_starts,
    summarise,
)
from toy.mixture_fit import POST_TARGET, fit

SMALL = Settings(starts=6, steps=130)


@pytest.fixture(scope="module")
def results():
    return {racer: race(SMALL, racer) for racer in RACERS}


def made_up(steps: dict[str, list]) -> dict:
    """Results as if the random starts had taken these steps; racers left out take 50 from each."""
    settings = Settings(starts=len(next(iter(steps.values()))), steps=400)
    total = settings.starts + len(NAMED_STARTS)
    results = {}
    for racer in RACERS:
        taken = [*(75 for _ in NAMED_STARTS), *steps.get(racer, [50] * settings.starts)]
        results[racer] = {
            "steps": taken,
            "own_steps": taken,
            "mu": [[3.0, 3.0]] * total,
            "sigma": [[0.5, 0.5]] * total,
            "value": [0.69] * total,
        }
    return summarise(settings, results)["races"]


@pytest.mark.parametrize("racer", ["forward_kl", "reverse_kl", "jensen_shannon"])
def test_a_batch_with_dropouts_takes_the_steps_of_plain_fits(racer, results):
    starts = [*NAMED_STARTS.values(), *random_starts(SMALL).tolist()]
    # One step more: after 130 steps the value has been looked at 131 times.
    plain = fit(POST_TARGET, starts, 5.0, divergence=racer, steps=SMALL.steps + 1)
    assert results[racer]["own_steps"] == plain.steps_to(0.01)


def test_the_yardstick_is_forward_kl_whatever_is_minimised(results):
    assert results["forward_kl"]["steps"] == results["forward_kl"]["own_steps"]
    assert results["total_variation"]["steps"] != results["total_variation"]["own_steps"]


def test_what_the_posts_epsilon_does_to_its_own_start(results):
    first, wide, far = range(len(NAMED_STARTS))
    assert (
        results["forward_kl"]["steps"][first] == results["forward_kl_epsilon"]["steps"][first] == 75
    )
    assert results["reverse_kl"]["steps"][first] == pytest.approx(117, abs=1)
    assert results["reverse_kl_epsilon"]["steps"][first] is None  # 307, after this race
    assert results["forward_kl_epsilon"]["steps"][wide] == 43
    assert results["reverse_kl_epsilon"]["steps"][wide] == 76
    assert results["reverse_kl"]["steps"][far] is None


def test_starts_are_uniform_and_the_seeds():
    starts = random_starts(Settings(starts=4000)).numpy()
    assert (np.abs(starts) <= 6).all()
    assert starts.mean() == pytest.approx(0, abs=0.2)
    assert starts.std() == pytest.approx(12 / np.sqrt(12), abs=0.1)
    assert (starts != random_starts(Settings(starts=4000, seed=1)).numpy()).all()


def test_shares_and_quantiles_count_those_that_never_arrive():
    races = made_up({"reverse_kl": [*range(100, 150), *[None] * 50], "forward_kl": [120] * 100})
    reverse = races["reverse_kl"]
    assert reverse["never"]["share"] == 0.5
    low, high = reverse["never"]["interval"]
    assert (low, high) == pytest.approx((0.5 - 1.96 * 0.05, 0.5 + 1.96 * 0.05), abs=0.015)
    assert reverse["quantiles"]["25%"]["steps"] == 124
    assert reverse["quantiles"]["50%"]["steps"] == 149
    assert reverse["quantiles"]["50%"]["interval"][1] is None  # more than half may never arrive
    assert reverse["quantiles"]["90%"]["steps"] is None
    assert reverse["against_forward_kl"]["fewer_steps"]["share"] == 0.2
    assert reverse["against_forward_kl"]["more_steps"]["share"] == 0.79
    assert reverse["stuck"] == {"on_one_mode": 50, "elsewhere": 0, "median_value": 0.69}


def test_no_failure_seen_is_not_no_failure_possible():
    never = made_up({"adaptive_kl": [80] * 100})["adaptive_kl"]["never"]
    assert never["share"] == 0
    assert never["interval"] == pytest.approx([0, beta.ppf(0.975, 1, 100)])


def test_numbers_findings_and_pictures(results, tmp_path):
    summary = summarise(SMALL, results)
    lines = findings(summary)
    assert any("From (-1, 1): forward KL 75," in line for line in lines)
    assert len(lines) == 1 + len(RACERS) + len(NAMED_STARTS)
    for draw in (draw_race, draw_map):
        draw(summary, tmp_path / "picture.png")
        with Image.open(tmp_path / "picture.png") as picture:
            assert picture.convert("RGBA").getextrema()[3] == (255, 255)
            assert picture.width > 1000
