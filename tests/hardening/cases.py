"""One case that was tried on KD Lab, and whether it held."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """What was done, and what came of it.

    Attributes:
        kind: the table's row, such as "damage" or "command line".
        what: what was done, in words that suffice to do it again.
        outcome: "held", or how it failed: "silent", "accepted", "traceback", "several lines",
            "not named" (the file or the option), "late" (after a model was loaded), "lost".
        message: the last lines that the command wrote.
    """

    kind: str
    what: str
    outcome: str
    message: str = ""

    @property
    def held(self) -> bool:
        return self.outcome == "held"
