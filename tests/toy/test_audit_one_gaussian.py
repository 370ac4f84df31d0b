"""The phase portrait: velocities and fixed points against closed forms, basins against the flow."""

import math

import numpy as np
import pytest
from PIL import Image

from toy.audit_one_gaussian import (
    QUICK,
    Flow,
    Settings,
    draw_portraits,
    findings,
    first_steps,
    portrait,
    summarise,
    units,
)


@pytest.fixture(scope="module")
def results():
    return {name: unit() for name, unit in units(QUICK).items()}


@pytest.fixture(scope="module")
def reverse_points(results):
    return results["reverse_kl"]["fixed_points"]


def test_forward_flow_is_its_closed_form():
    # Under p, E[x] = 0 and E[x²] = 9.25; the velocities are -mu/sigma², E[(x-mu)²]/sigma² - 1.
    z = np.array([[1.0, 0.2], [-3.0, 1.5], [5.0, 0.0]])
    mu, variance = z[:, 0], np.exp(2 * z[:, 1])
    expected = np.stack([-mu / variance, (9.25 + mu**2) / variance - 1], axis=-1)
    np.testing.assert_allclose(Flow("forward_kl")(z), expected, rtol=1e-9)


def test_forward_kl_has_one_fixed_point_and_everything_flows_there(results):
    (point,) = results["forward_kl"]["fixed_points"]
    assert point["kind"] == "stable"
    assert point["mu"] == pytest.approx(0, abs=1e-8)
    assert point["sigma"] == pytest.approx(math.sqrt(9.25))
    # The Hessian there: 1/sigma² = 1/9.25 and 2.
    assert point["eigenvalues"] == pytest.approx([-2, -1 / 9.25])
    assert set(results["forward_kl"]["lattice"]["basin"]) == {0}
    assert results["forward_kl"]["separatrices"] == []


def test_reverse_kl_has_both_modes_a_wide_middle_and_two_saddles_between(reverse_points):
    assert [point["kind"] for point in reverse_points] == [
        *("stable", "saddle", "stable", "saddle", "stable")
    ]
    left, left_saddle, middle, right_saddle, right = reverse_points
    for mode, mu in ((left, -3), (right, 3)):
        assert mode["mu"] == pytest.approx(mu, abs=1e-6)
        assert mode["sigma"] == pytest.approx(0.5, abs=1e-6)
        assert mode["divergence"] == pytest.approx(math.log(2), abs=1e-7)
    assert middle["mu"] == pytest.approx(0, abs=1e-6)
    assert left_saddle["mu"] == pytest.approx(-right_saddle["mu"], abs=1e-6)
    # A saddle lies above the valleys that it parts.
    assert left_saddle["divergence"] > middle["divergence"] > left["divergence"]


def test_the_jacobian_is_the_slope_of_the_velocity(reverse_points):
    flow = Flow("reverse_kl")
    saddle = np.array([reverse_points[1]["mu"], math.log(reverse_points[1]["sigma"])])
    by_difference = np.stack(
        [(flow(saddle + step) - flow(saddle - step)) / 2e-5 for step in 1e-5 * np.eye(2)], axis=-1
    )
    np.testing.assert_allclose(flow.jacobian(saddle), by_difference, rtol=1e-5, atol=1e-5)


def test_a_separatrix_parts_the_basins(results, reverse_points):
    flow = Flow("reverse_kl")
    curves = [np.array(curve) for curve in results["reverse_kl"]["separatrices"]]
    assert len(curves) == 4  # two saddles, two sides each
    # The second saddle stands right of the middle: a hair to the left goes there, to the right not.
    mu, log_sigma = curves[2][:, 20]
    assert flow.follow(np.array([mu - 0.05, log_sigma]))[0, -1] == pytest.approx(0, abs=0.05)
    assert flow.follow(np.array([mu + 0.05, log_sigma]))[0, -1] == pytest.approx(3, abs=0.05)


def test_first_steps_go_where_the_velocity_points():
    for divergence, starts in first_steps(Settings(steps=(1,))).items():
        for row in starts:
            (after,) = row["after"]
            # Adam's first step is the learning rate in the direction of the sign.
            moved = after["mu"] - row["start"]["mu"]
            assert moved == pytest.approx(0.1 * np.sign(row["velocity"]["mu"]), abs=1e-4), (
                divergence
            )


def test_quick_setting_gives_numbers_findings_and_picture(results, tmp_path):
    summary = summarise(QUICK, results)
    for comparison in summary["closed_forms"]:
        found = np.array(comparison["found"])
        np.testing.assert_allclose(
            found, np.broadcast_to(comparison["expected"], found.shape), atol=1e-6
        )
    for name in ("forward_kl", "reverse_kl"):
        points = summary["portraits"][name]["fixed_points"]
        assert sum(point["basin_share"] for point in points) == pytest.approx(1)
    assert "0.6931 nats" in findings(summary)[1]
    draw_portraits(summary, tmp_path / "phase.png")
    with Image.open(tmp_path / "phase.png") as picture:
        assert picture.convert("RGBA").getextrema()[3] == (255, 255)


def test_a_flow_that_ends_nowhere_is_not_given_a_basin(monkeypatch):
    monkeypatch.setattr(Flow, "follow", lambda self, start: np.array([[start[0]], [start[1]]]))
    with pytest.raises(RuntimeError, match="away from every fixed point"):
        portrait(QUICK, "forward_kl")
