"""The explorable Gaussians' arithmetic, run in the browser, beside the toy engine's."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from kd_lab.head_mask import head_mask
from toy.audit_one_gaussian import Flow
from toy.mixture import Mixture
from toy.mixture_fit import POST_TARGET, Objective, fit

OFFERED = (
    "forward_kl",
    "reverse_kl",
    "jensen_shannon",
    "adaptive_kl",
    "skew_forward_kl",
    "skew_reverse_kl",
)
# No two points of the grid are equally likely here, so that adaptive KL's head is beyond doubt.
MOVED_TARGET = Mixture((-1.317, 2.443), (0.4, 1.1), (0.3, 0.7))
STARTS = {
    1: ([[5.0], [5.0], [-1.5], [0.5]], [[5.0], [1.0], [0.4], [2.5]]),
    2: ([[-1.0, 1.0], [-2.0, 2.5], [-4.0, 0.7]], [[5.0, 5.0], [1.0, 2.0], [0.5, 3.0]]),
}
STEPS = 250

RUN = """async ({target, divergence, head, mu, sigma, steps, method}) => {
    const engine = await import("/_static/explore/gaussian_engine.js");
    const teacher = new engine.Target(target);
    const ownHead = [...teacher.head];
    if (head) teacher.head = Uint8Array.from(head);
    const fits = mu.map((_, s) => {
        const start = {mu: mu[s], sigma: sigma[s]};
        const objective = new engine.Objective(teacher, divergence);
        const student = new engine.Student(objective, start, {method});
        const fit = {mu: [], sigma: [], kl: []};
        for (let step = 0; step < steps; step++) {
            fit.sigma.push(student.sigma);
            fit.kl.push(student.value);
            student.step();
            fit.mu.push(student.mu);
        }
        return fit;
    });
    return {head: ownHead, fits, offered: engine.DIVERGENCES};
}"""

REST_POINTS = """async ({target, divergence}) => {
    const {Objective, Target} = await import("/_static/explore/gaussian_engine.js");
    const {ONE, restPoints, survey} = await import("/_static/explore/gaussian_landscape.js");
    const objective = new Objective(new Target(target), divergence);
    const finish = (work) => {
        for (;;) {
            const {value, done} = work.next();
            if (done) return value;
        }
    };
    return finish(restPoints(objective, finish(survey(objective, ONE, 85, 61))));
}"""


def as_json(target: Mixture) -> dict[str, tuple[float, ...]]:
    return {"mu": target.mu, "sigma": target.sigma, "weight": target.weight}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "components"), [(POST_TARGET, 1), (POST_TARGET, 2), (MOVED_TARGET, 2)]
)
def test_every_step_is_the_toy_engines(engine: Any, target: Mixture, components: int) -> None:
    mu, sigma = STARTS[components]
    for divergence in OFFERED:
        expected = fit(target, mu, torch.tensor(sigma), divergence=divergence, steps=STEPS)
        p = Objective(target, (1.0,), divergence).teacher_logp.exp()
        head = head_mask(p, 0.5).int().tolist()
        job = {"target": as_json(target), "divergence": divergence, "head": head}
        job |= {"mu": mu, "sigma": sigma, "steps": STEPS, "method": "adam"}
        answer = engine.evaluate(RUN, job)
        assert answer["offered"] == list(OFFERED)
        if target is MOVED_TARGET:
            assert answer["head"] == head
        for start, found in enumerate(answer["fits"]):
            for name in ("mu", "sigma", "kl"):
                np.testing.assert_allclose(
                    found[name],
                    getattr(expected, name)[:, start],
                    atol=1e-3,
                    err_msg=f"{divergence}, start {start}, {name}",
                )


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jensen_shannon"])
def test_the_flow_is_that_of_an_ode_solver(engine: Any, divergence: str) -> None:
    mu, sigma = [[5.0], [-1.5]], [[5.0], [0.4]]
    job = {"target": as_json(POST_TARGET), "divergence": divergence, "mu": mu, "sigma": sigma}
    fits = engine.evaluate(RUN, job | {"steps": 100, "method": "flow"})["fits"]
    flow = Flow(divergence)
    times = np.arange(1, 101) * 0.1
    for found, start_mu, start_sigma in zip(fits, mu, sigma, strict=True):
        start = [start_mu[0], math.log(start_sigma[0])]
        solved = solve_ivp(
            lambda _, z: flow(z), (0, 10), start, "LSODA", times, rtol=1e-7, atol=1e-7
        )
        np.testing.assert_allclose(np.ravel(found["mu"]), solved.y[0], atol=1e-3)
        sigma_after = np.exp(solved.y[1, :-1])
        np.testing.assert_allclose(np.ravel(found["sigma"])[1:], sigma_after, atol=1e-3)


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jensen_shannon"])
def test_rest_points_are_where_the_toys_flow_rests(engine: Any, divergence: str) -> None:
    points = engine.evaluate(
        REST_POINTS, {"target": as_json(POST_TARGET), "divergence": divergence}
    )
    flow = Flow(divergence)
    for point in points:
        z = np.array([point["x"], point["y"]])
        assert np.abs(flow(z)).max() < 1e-4  # its grid is half as fine
        upward = int((np.linalg.eigvalsh(flow.jacobian(z)) > 0).sum())
        assert point["kind"] == ["stable", "saddle", "unstable"][upward]
    if divergence == "reverse_kl":  # all that the Python finds, too
        found = [[point["x"], math.exp(point["y"]), point["value"]] for point in points]
        expected = [[p["mu"], p["sigma"], p["divergence"]] for p in flow.fixed_points()]
        np.testing.assert_allclose(found, expected, atol=1e-4)
        assert len(found) == 5
