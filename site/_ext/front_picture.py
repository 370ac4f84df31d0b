"""The picture of the front page: one student, one target, two directions; drawn from the fits.

``{front-picture}`` in site/index.md stands for an SVG of Figure 1's two fits as ``toy.mixture_fit``
computes them while the site is built: the target, the student on its way, and, for readers who
have not asked for less motion, the way itself once, in four seconds.
"""

import torch
from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx
from torch import Tensor

from toy.mixture import Mixture
from toy.mixture_fit import POST_TARGET, fit

STARTS = {"forward_kl": (5.0, 5.0), "reverse_kl": (5.0, 1.0)}  # the post's, (μ, σ)
STEPS = 100
ON_THE_WAY = (0, 12, 25, 50)
FRAMES = range(0, STEPS, 3)
X = torch.cat([torch.linspace(-9, -5, 9), torch.linspace(-4.9, 4.9, 99), torch.linspace(5, 12, 15)])
WIDTH, HEIGHT, FLOOR, TOP = 480, 310, 268, 1.07  # of a panel; TOP is the density at its upper edge
WORDS = {
    "forward_kl": ("Forward KL", "D(p‖q)", "covers both modes"),
    "reverse_kl": ("Reverse KL", "D(q‖p)", "picks one"),
}


def path(density: Tensor) -> str:
    """An SVG path of a density [G] over X."""
    across = (X - X[0]) / (X[-1] - X[0]) * WIDTH
    up = FLOOR - density / TOP * FLOOR
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in zip(across, up, strict=True))


def panel(divergence: str) -> str:
    """One fit, as the content of an SVG of WIDTH x HEIGHT."""
    mu, sigma = STARTS[divergence]
    way = fit(POST_TARGET, mu=mu, sigma=sigma, divergence=divergence, lr=0.1, steps=STEPS)
    students = [
        path(Mixture((m,), (s,), (1.0,)).log_density(X).exp())
        for m, s in zip(way.mu[:, 0, 0].tolist(), way.sigma[:, 0, 0].tolist(), strict=True)
    ]
    target = path(POST_TARGET.log_density(X).exp())
    name, formula, verdict = WORDS[divergence]
    ghosts = "".join(
        f'<path class="ghost" style="opacity:{0.25 + 0.12 * place}" d="{students[step]}"/>'
        for place, step in enumerate(ON_THE_WAY)
    )
    frames = ";".join(students[step] for step in [*FRAMES, STEPS - 1])
    mean, width = way.mu[-1, 0, 0].item(), way.sigma[-1, 0, 0].item()
    return (
        f'<g class="{divergence}"><path class="target" d="{target}L{WIDTH} {FLOOR}L0 {FLOOR}Z"/>'
        f'<path class="floor" d="M0 {FLOOR}H{WIDTH}"/>{ghosts}'
        f'<path class="student still" d="{students[-1]}"/>'
        f'<path class="student moving" d="{students[-1]}"><animate attributeName="d" dur="4s" '
        f'values="{frames}"/></path>'
        f'<text class="name" x="8" y="30">{name}</text>'
        f'<text class="formula" x="8" y="54">{formula}</text>'
        f'<text class="verdict" x="{WIDTH - 8}" y="{HEIGHT - 12}">{verdict}: '
        f"μ = {abs(mean):.2f}, σ = {width:.2f}</text></g>"
    )


class FrontPicture(Directive):
    def run(self) -> list[nodes.Node]:
        panels = "".join(
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{WORDS[name][0]}: a '
            f'Gaussian student {WORDS[name][2]} of a target with two">{panel(name)}</svg>'
            for name in STARTS
        )
        return [nodes.raw("", f'<div class="front-picture">{panels}</div>', format="html")]


def setup(app: Sphinx) -> dict:
    app.add_directive("front-picture", FrontPicture)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
