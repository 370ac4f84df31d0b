"""``kd-lab check``: what does a distillation loss optimise?

    kd-lab check losses.py:my_loss --form tokens --expect reverse_kl
    kd-lab check trl_losses:gkd --form logits --settings '{beta: 0.1}' --json gkd.json

and in other people's tests:

    from kd_lab.check import assert_optimises
    assert_optimises(my_loss, "reverse_kl", form="tokens")

Nothing is trained and no model is loaded. The function is called with small tensors whose every
distribution is known, and its gradient is compared with exact ones.
"""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kd_lab.check.forms import FORMS, Loss
from kd_lab.check.picture import draw
from kd_lab.check.situations import STUDENTS
from kd_lab.check.trainers import BUILD, check_trainer
from kd_lab.check.user_code import blamed_on_the_user, load_function, source_of
from kd_lab.check.verdict import Verdict, check_expected, examine
from kd_lab.files import write_text

CALLED = FORMS | {"trainer": BUILD}
DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass
class CheckArguments:
    """Which function is checked, how it is called, and what it should be."""

    function: str = field(
        metadata={
            "help": "MODULE:FUNCTION or FILE.py:FUNCTION; Python imports it, so it must be yours"
        }
    )
    form: str = field(
        default="logits", metadata={"help": "; ".join(f"{k}: {v}" for k, v in CALLED.items())}
    )
    settings: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "keyword arguments of the function: '{beta: 0.5}'"}
    )
    prefixes: str = field(
        default="student",
        metadata={
            "help": "who writes the sampled tokens and the prefixes: dataset, teacher, student"
        },
    )
    shifts: bool = field(
        default=False,
        metadata={"help": "whether it shifts labels by itself, as transformers' own losses do"},
    )
    topk: int = field(
        default=6, metadata={"help": "k, for the form topk, and where logits are cut to a top k"}
    )
    dtype: str = field(default="float64", metadata={"help": "of what it gets: float32, float64"})
    expect: str | None = field(
        default=None,
        metadata={
            "help": "a divergence, cross_entropy or sequence_reverse_kl, up to a constant factor; "
            "exit 1 if it is another"
        },
    )
    expect_settings: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "of the expected divergence: '{beta: 0.1}'"}
    )
    seed: int = field(default=0, metadata={"help": "of the teachers and students"})
    json: str | None = field(default=None, metadata={"help": "a file for all that was measured"})
    picture: str | None = field(
        default=None, metadata={"help": "a PNG: its gradient beside that of its name, by word"}
    )


ARGUMENTS = (CheckArguments,)


def check_loss(
    function: Callable[..., Any], form: str = "logits", *, seed: int = 0, **how: Any
) -> Verdict:
    """What a loss, or a trainer, optimises.

    Args:
        function, form: see ``kd_lab.check.forms.FORMS``; a trainer's is ``trainers.BUILD``.
        how: the other attributes of ``kd_lab.check.forms.Loss``.
    Raises:
        ValueError: an unknown form, or a function that does not return what its form returns.
    """
    if form == "trainer":
        return check_trainer(function, seed)
    return examine(Loss(function, form, **how), seed)


def assert_optimises(
    function: Callable[..., torch.Tensor],
    expected: str,
    form: str = "logits",
    expected_settings: dict[str, float] | None = None,
    **how: Any,
) -> Verdict:
    """For a test: the loss is what it is said to be, up to one constant factor.

    Args:
        expected: a divergence, "cross_entropy" or "sequence_reverse_kl".
        expected_settings: of the divergence, such as ``{"beta": 0.1}``.
        how: as for ``check_loss``.
    Raises:
        AssertionError: it is another loss, or has a fault; with all objections.
    """
    verdict = check_loss(function, form, **how)
    objections = verdict.objections(expected, **(expected_settings or {}))
    if objections:
        raise AssertionError("; ".join(objections))
    return verdict


def run(arguments: CheckArguments) -> None:
    """Check a loss and print the verdict.

    Raises:
        ValueError: no such function, it cannot be called in its form, or an output is its source.
        SystemExit: 1 if it is not the expected loss.
    """
    if not 0 <= arguments.seed < 2**32:
        raise ValueError(f"seed must lie in [0, 2^32), not {arguments.seed}")
    if arguments.dtype not in DTYPES:
        raise ValueError(f"dtype must be float32 or float64, not {arguments.dtype!r}")
    if arguments.form not in CALLED:
        raise ValueError(f"form must be one of {', '.join(CALLED)}, not {arguments.form!r}")
    if arguments.topk < 1:
        raise ValueError(f"topk must be at least 1, not {arguments.topk}")
    if arguments.expect:
        check_expected(arguments.expect, arguments.expect_settings)
    elif arguments.expect_settings:
        raise ValueError("expect_settings are of the expected divergence: give --expect too")
    function = load_function(arguments.function)
    source = source_of(arguments.function)
    _check_outputs(arguments, source)
    how = {
        "settings": arguments.settings,
        "prefixes": arguments.prefixes,
        "shifts": arguments.shifts,
        "topk": arguments.topk,
        "dtype": DTYPES[arguments.dtype],
    }
    called = (
        f"{arguments.function} fails as a loss of form {arguments.form}, which is called as "
        f"{CALLED[arguments.form]}"
    )
    with blamed_on_the_user(called, source):
        verdict = check_loss(function, arguments.form, seed=arguments.seed, **how)
        _ = verdict.ends  # it calls the function as well
    objections = (
        verdict.objections(arguments.expect, **arguments.expect_settings)
        if arguments.expect
        else []
    )
    show(verdict, arguments.function)
    if arguments.json:
        text = json.dumps({"function": arguments.function, **verdict.to_json()}, indent=2)
        write_text(Path(arguments.json), text + "\n")
    if arguments.picture:
        draw(verdict, Path(arguments.picture), arguments.function)
    if arguments.expect:
        if objections:
            print(f"NOT {arguments.expect}: {'; '.join(objections)}")
            sys.exit(1)
        print(f"it is {arguments.expect}")


def _check_outputs(arguments: CheckArguments, source: Path | None) -> None:
    """Refuse to write over the function that is checked, or one output over the other."""
    json_file, picture = arguments.json, arguments.picture
    for key, output in (("json", json_file), ("picture", picture)):
        if output and source and _real(output) == _real(source):
            raise ValueError(f"{key}: {output} holds the function that is checked: name another")
    if json_file and picture and _real(json_file) == _real(picture):
        raise ValueError(f"json and picture are both {picture}: name two files")


def _real(path: str | Path) -> str:
    return os.path.realpath(Path(path).expanduser())


def show(verdict: Verdict, name: str, console: Console | None = None) -> None:
    """One screen: the cosines, whole answers, where it ends, scale, findings, the verdict."""
    console = console or Console(highlight=False)
    table = Table(
        title=Text(f"{name}: its gradient beside exact ones (cosines)"), title_justify="left"
    )
    table.add_column("nearest")
    students = ("its rows",) if verdict.form == "trainer" else STUDENTS
    for student in students:
        table.add_column(student, justify="right")
    half = len(students)
    for candidate, cosines in verdict.named.cosines.items():
        table.add_row(Text(candidate), *(f"{c:+.3f} {_bar(c)}" for c in cosines[:half]))
    lengths = verdict.named.lengths[:half]
    table.add_row("length, in reverse KL's", *(f"{length:.3g}" for length in lengths), style="dim")
    if verdict.samples:
        counts = verdict.samples.values()
        table.add_row("samples for 10%", *(f"{count:,.0f}" for count in counts), style="dim")
    console.print(table)
    lines = [
        f"one position: {verdict.named.words}; unexplained {100 * verdict.named.unexplained:.2g}%",
        f"whole answers: {verdict.answers.words}" if verdict.answers else "",
        *(f"it ends, {end.words}" for end in verdict.ends),
        *(f"{'FAULT' if f.is_fault else 'note'}: {f.words}" for f in verdict.findings),
        f"bfloat16 logits: the gradient is off by {100 * verdict.bfloat16:.2g}%"
        if verdict.bfloat16 is not None
        else "",
        f"VERDICT: {verdict.line}",
    ]
    for line in filter(None, lines):
        console.print(Text(line))


def _bar(cosine: float) -> str:
    """Eight steps of a cosine's size."""
    return "▁▂▃▄▅▆▇█"[min(7, int(8 * abs(cosine)))]
