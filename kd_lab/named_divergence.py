"""A divergence by its name and settings: all of its settings, and its words.

A value without torch: divergences.py is imported only for a question about it.
"""

import importlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Settings = tuple[tuple[str, Any], ...]  # as (name, value)


@dataclass(frozen=True)
class NamedDivergence:
    """A divergence of the registry.

    Attributes:
        name: in divergences.py.
        settings: those that are not at their defaults.
    """

    name: str
    settings: Settings = ()

    @property
    def all_settings(self) -> Settings:
        """The settings in the divergence's own order, with its defaults."""
        return _all_settings(self.name, dict(self.settings))

    @property
    def shown_settings(self) -> list[Any]:
        """The settings' values up to the last one that is not at its default."""
        defaults = dict(_all_settings(self.name, {}))
        shown = [
            isinstance(value, float) or value != defaults.get(name)
            for name, value in self.all_settings
        ]
        count = max((i + 1 for i, is_shown in enumerate(shown) if is_shown), default=0)
        return [value for _, value in self.all_settings[:count]]

    @property
    def short(self) -> str:
        """As tables have it: "AKL(0.5)"."""
        numbers = ", ".join(f"{x:g}" if isinstance(x, float) else x for x in self.shown_settings)
        short = _registry().SHORT_NAMES.get(self.name, self.name)
        return f"{short}({numbers})" if numbers else short

    @property
    def words(self) -> str:
        """In words: "adaptive KL (mu = 0.5)"."""
        names = [name for name, _ in self.all_settings]
        given = zip(names, self.shown_settings, strict=False)
        settings = ", ".join(f"{name} = {value}" for name, value in given)
        name = self.name.replace("_", " ").replace(" kl", " KL")
        return name + (f" ({settings})" if settings else "")

    @property
    def line(self) -> int:
        """Its line in the house style's cycle; an unknown one comes last."""
        return [*_registry().DIVERGENCES, self.name].index(self.name)


def _registry() -> Any:
    return importlib.import_module("kd_lab.divergences")


def _all_settings(divergence: str, given: Mapping[str, Any]) -> Settings:
    """All settings of a divergence in its own order: the given ones, and its defaults."""
    if not divergence:
        return ()
    known = _registry().DIVERGENCES
    if divergence not in known:  # of a run that was made where it is
        return tuple(given.items())
    parameters = list(inspect.signature(known[divergence]).parameters.values())[2:]
    values = {p.name: given.get(p.name, p.default) for p in parameters}
    return tuple((n, float(v) if isinstance(v, int) else v) for n, v in values.items())
