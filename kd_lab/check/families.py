"""Families of candidates by their settings: what is tried, and how far the others are looked for.

A family has ends, at which it becomes another loss: a skew KL whose mixture is the teacher itself
becomes χ², a KL at a high temperature the squared error of logits. A fit at an end is no fit.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import product

from scipy.optimize import minimize, minimize_scalar

from kd_lab.check.candidates import (
    FAMILIES,
    SEARCHED,
    WARM,
    Candidate,
    over_words,
    warm,
)
from kd_lab.divergences import DIVERGENCES

SHARES = (1e-3, 1 - 1e-3)  # the ends of a mixture's share
TEMPERATURES = (0.3, 0.5, 0.7, 0.8, 0.9, 1.5, 2.0, 3.0, 4.0, 5.0, 8.0, 12.0, 20.0)
TEMPERATURE_ENDS = (0.2, 40.0)
# What a family that has the loss in it leaves at most: at what is tried, after a descent's first
# evaluations.
HOPELESS = 0.5
FIRST_STEPS, HOPELESS_THEN = 30, 0.2
AT_AN_END = 1e-3  # of a family's range: nearer than this to an end
OUTSIDE = 1e6  # no candidate leaves so much
REFINED = 4  # families, the nearest by what is tried
EXPONENTS = (0.1, 0.4, 0.7, 1.0, 1.5)  # of alpha_beta, where its search begins
# Shares and temperatures, likewise.
BEGUN = ((0.05, 0.3, 0.7, 0.95), (0.5, 0.8, 1.25, 2.2, 4.5, 12.0))

Left = Callable[[Candidate], float]  # what a candidate leaves unexplained


@dataclass(frozen=True)
class Family:
    """Candidates by one setting: the values that are tried, and the ends."""

    tried: tuple[float, ...]
    ends: tuple[float, float]
    at: Callable[[float], Candidate]

    @cached_property
    def members(self) -> list[Candidate]:
        """At the values that are tried; the same objects always, so that a fit may keep them."""
        return [self.at(value) for value in self.tried]

    def refined(self, near: float, left: Left) -> Candidate | None:
        """The member that leaves least, between the neighbours of a value; None at an end."""
        low, high = self.ends
        below = max((value for value in self.tried if value < near), default=low)
        above = min((value for value in self.tried if value > near), default=high)
        best = minimize_scalar(
            lambda value: left(self.at(float(value))), bounds=(below, above), method="bounded"
        )
        found = float(best.x)
        return self.at(found) if _is_inside(found, self.ends) else None


def _of_share(name: str) -> Family:
    setting, values = FAMILIES[name]

    def at(value: float) -> Candidate:
        divergence = partial(DIVERGENCES[name], **{setting: value})
        return Candidate(name, ((setting, round(value, 4)),), over_words(divergence))

    return Family(values, SHARES, at)


def _of_temperature(name: str, whose: str) -> Family:
    return Family(TEMPERATURES, TEMPERATURE_ENDS, lambda value: warm(name, {}, value, whose))


BY_SHARE = {name: _of_share(name) for name in FAMILIES}
BY_TEMPERATURE = [
    _of_temperature(name, whose)
    for name in ("forward_kl", "reverse_kl", "jensen_shannon", "total_variation")
    for whose in WARM
]
MIXED = ("jensen_shannon", "skew_forward_kl", "skew_reverse_kl")  # have a share and a temperature
ALL = [*BY_TEMPERATURE, *(BY_SHARE[name] for name in MIXED)]


def nearest_members(left: Left, precise: float) -> list[Candidate]:
    """The best members of the nearest families, until one leaves less than ``precise``."""
    nearest: list[tuple[float, int, int]] = []
    for i, family in enumerate(ALL):
        least, j = min((left(member), j) for j, member in enumerate(family.members))
        if least < precise:
            return [family.members[j]]
        nearest.append((least, i, j))
    members = []
    for least, i, j in sorted(nearest)[:REFINED]:
        if least > HOPELESS:
            break
        member = ALL[i].refined(ALL[i].tried[j], left)
        if member is not None:
            members.append(member)
            if left(member) < precise:
                break
    return members


def best_exponents(left: Left) -> Candidate:
    """alpha_beta at the exponents that leave least."""

    def at(values: Sequence[float]) -> Candidate:
        settings = dict(zip(("alpha", "beta"), (abs(float(x)) for x in values), strict=True))
        rounded = tuple((name, round(value, 4)) for name, value in settings.items())
        return Candidate(SEARCHED, rounded, over_words(partial(DIVERGENCES[SEARCHED], **settings)))

    return at(_descended(lambda values: left(at(values)), product(EXPONENTS, repeat=2)))


def warm_mixtures(left: Left) -> Iterator[Candidate]:
    """Each of ``MIXED`` with its best share and temperature.

    At a high temperature they differ by little, so that none is left out because another explains.
    """
    ends = (SHARES, TEMPERATURE_ENDS)
    for name in MIXED:
        setting, _ = FAMILIES[name]

        def at(values: Sequence[float], name: str = name, setting: str = setting) -> Candidate:
            return warm(name, {setting: float(values[0])}, float(values[1]))

        def unexplained(values: Sequence[float], at: Callable[..., Candidate] = at) -> float:
            inside = all(low < x < high for x, (low, high) in zip(values, ends, strict=True))
            return left(at(values)) if inside else OUTSIDE

        values = _descended(unexplained, product(*BEGUN))
        if all(_is_inside(*one) for one in zip(values, ends, strict=True)):
            yield at(values)


def _descended(
    left: Callable[[Sequence[float]], float], starts: Iterable[Sequence[float]]
) -> list[float]:
    """Two settings that leave least, from the best start; a hopeless descent is cut short."""
    least, best = min((left(start), list(start)) for start in starts)
    for steps, at_most in ((FIRST_STEPS, HOPELESS), (None, HOPELESS_THEN)):
        if least > at_most:
            break
        options = {"xatol": 1e-4, "fatol": 1e-7, "maxfev": steps}
        found = minimize(left, best, method="Nelder-Mead", options=options)
        least, best = float(found.fun), [float(value) for value in found.x]
    return best


def _is_inside(value: float, ends: tuple[float, float]) -> bool:
    low, high = ends
    margin = AT_AN_END * (high - low)
    return low + margin < value < high - margin
