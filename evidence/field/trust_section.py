"""How far the check can be trusted: false alarms, and a table of faults that were put in."""

from collections.abc import Mapping
from typing import Any

from evidence.field.words import in_words

LONGEST = 120  # signs of what the check said


def trust_section(found: Mapping[str, Any]) -> str:
    """Of what ``evidence.field.alarms.measure`` found."""
    sampled, right, faults = found["sampled"], found["right"], found["faults"]
    passed = sum(not one["objections"] for one in right)
    named = sum(one["is_right"] for one in faults)
    return "\n\n".join(
        [
            "## How far the check can be trusted",
            f"{passed} of {len(right)} right losses pass, and {named} of {len(faults)} faults that "
            "were put into right losses are named. Most losses are checked by exact sums, so that "
            "one seed is enough. A loss whose rows depend on one another is named by sampling. "
            f"The check refuses such a loss ({sampled['loss']}) at {sampled['alarms']} of "
            f"{sampled['seeds']} seeds, though it is right: {100 * sampled['rate']:.1f}% "
            f"[{100 * sampled['low']:.1f}, {100 * sampled['high']:.1f}], an exact 95% interval. "
            f"The stated level of a sample is {100 * sampled['level']:.0f}%. Each batch shifts the "
            "weights of this loss alike, so an exact sum is asked before it is refused. Of other "
            "seeds one sample alone refused 4 of 87.",
            f"<details>\n<summary>The {len(faults)} faults, and what the check says</summary>\n",
            "\n".join(
                [
                    "| fault | form | the check says | right |",
                    "|---|---|---|---|",
                    *(
                        f"| {one['fault']} | {one['form']} | {_short(one['said'])} | "
                        f"{'yes' if one['is_right'] else '**no**'} |"
                        for one in faults
                    ),
                ]
            ),
            "</details>",
        ]
    )


def _short(said: str) -> str:
    words = in_words(said).replace("|", "\\|")
    return words if len(words) <= LONGEST else words[:LONGEST].rsplit(" ", 1)[0] + " ..."
