"""The command line: ``kd-lab data | generate | train | evaluate | report | demo | ...``.

    kd-lab train --config tiny/token_fkl                     # a recipe of the package, by name
    kd-lab train --config mine.yaml --learning_rate 5e-6     # or a file; what comes after it wins
    kd-lab recipe                                            # lists the recipes of the package
    accelerate launch --config_file "$(kd-lab recipe accelerate/zero2)" \\
        -m kd_lab train --config qwen2.5/token_fkl

Each command is a module with ``ARGUMENTS``, its dataclasses, and ``run(*arguments)``. This file
only finds the command, checks its arguments and passes them on. ``refusals.py`` has the line and
the exit code of a command that cannot go on.
"""

import argparse
import dataclasses
import importlib
import os
import signal
import sys
import textwrap
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_type_hints

from kd_lab.interrupts import heard_everywhere
from kd_lab.option_values import (
    check_choices,
    check_empty,
    check_mappings,
    expand_home,
    finite,
    given_again,
    mapping_of,
    read_mapping_of,
    takes_mapping,
    takes_null,
    text_or_null,
)
from kd_lab.recipe import check_recipe, did_you_mean, find_recipe, kinds, read_recipe, recipes
from kd_lab.refusals import NOBODY_READS, TRACEBACK, refusal, stopped
from kd_lab.terminal import (
    end_progress_bars,
    nobody_reads,
    take_any_text,
    waiting,
    written_out,
)

if TYPE_CHECKING:
    from trl.scripts.utils import TrlParser


class Command(NamedTuple):
    """A command's module (imported only to run it, since that takes seconds) and its options."""

    module: str
    summary: str
    first: str | None = None  # the option whose values may stand first without its name
    options: bool = True  # whether it takes any


COMMANDS = {
    "data": Command("kd_lab.data.prepare", "write training and test conversations to a folder"),
    "questions": Command("kd_lab.rollout.questions", "have a chat model write questions"),
    "generate": Command("kd_lab.rollout.generate", "have a teacher answer all prompts, once"),
    "cache": Command("kd_lab.teacher.cache", "store a teacher's signal on given answers"),
    "train": Command("kd_lab.train", "train a student, or fine-tune a teacher"),
    "evaluate": Command("kd_lab.evaluation.evaluate", "measure a student, with intervals"),
    "report": Command("kd_lab.report.report", "all runs in one table and plots", first="runs"),
    "check": Command("kd_lab.check.check", "what a distillation loss optimises", first="function"),
    "demo": Command("kd_lab.demo", "a whole study: train, evaluate, report"),
    "plan": Command("kd_lab.planning.plan", "memory and hours that a run will need, estimated"),
    "doctor": Command("kd_lab.doctor", "this machine, and what it can run", options=False),
}

# command -> an option's name in earlier versions -> its name: one option, one name in all commands.
RENAMED = {
    "evaluate": {"temperature": "sampling_temperature", "batch_size": "rollout_batch_size"},
    "generate": {"generation_batch_size": "rollout_batch_size"},
    "questions": {
        "question_batch_size": "rollout_batch_size",
        "max_question_length": "max_new_tokens",
    },
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    take_any_text()
    # TRL counts its users over the network by default; to allow it, set this to 0.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # Of several processes of accelerate launch the first speaks for all.
    first = os.environ.get("RANK", "0") == "0"
    try:
        with written_out():
            _begin(words, tell=argv is None and first)
    except (Exception, KeyboardInterrupt) as error:
        if isinstance(error, BrokenPipeError) and nobody_reads():
            return NOBODY_READS
        if os.environ.get(TRACEBACK):
            raise
        is_stopped = isinstance(error, KeyboardInterrupt)
        if is_stopped and argv is None:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one would break off the end
        line, code = stopped(words[0]) if is_stopped else refusal(error)
        end_progress_bars()
        if first or not is_stopped:
            print(line, file=sys.stderr)
        return code
    return 0


def _begin(words: Sequence[str], tell: bool) -> None:
    if not words or words[0] in ("-h", "--help"):
        print(_overview())
    elif words[0] == "recipe":
        _recipe(words[1:])
    elif words[0] in COMMANDS:
        with heard_everywhere():
            _run(words[0], words[1:], tell=tell)
    else:
        known = [*COMMANDS, "recipe"]
        nearest = did_you_mean(words[0], known) or f"; the commands are {', '.join(known)}"
        raise ValueError(f"unknown command {words[0]!r}{nearest}")


def parse(command: str, words: Sequence[str], tell: bool = False) -> tuple[Any, ...]:
    """The arguments of a command, from its recipe (``--config``) and the options after it.

    It sets the environment variables of the recipe's ``env`` before it imports the command's
    module, so that OMP_NUM_THREADS and the like still count.

    Args:
        tell: say on stderr that libraries are imported, which takes seconds, and which value counts
            where an option is given twice.
    Returns:
        one instance of each dataclass in the module's ``ARGUMENTS``, in order.
    Raises:
        ValueError: an unknown recipe, key or option, or a value that does not fit.
    """
    if not COMMANDS[command].options:  # no need of TRL's parser, which the core alone lacks
        _no_options(command, words)
        return ()
    first = COMMANDS[command].first
    if first is not None and words and not words[0].startswith("-"):
        words = [f"--{first}", *words]
    own = _Parser(add_help=False, allow_abbrev=False)
    own.add_argument("--config", action="append", default=[])
    own.add_argument("-h", "--help", action="store_true")
    own_arguments, rest = own.parse_known_args(words)
    if len(own_arguments.config) > 1:
        raise ValueError("--config was given twice; a recipe is whole, and options override it")
    if "" in own_arguments.config:
        raise ValueError("--config is empty: give a recipe's name, or the path of a file")
    recipe = read_recipe(find_recipe(own_arguments.config[0])) if own_arguments.config else None
    if recipe is not None:
        os.environ.update(recipe.env)

    telling = waiting(f"kd-lab {command}: importing torch, transformers and trl")
    with telling if tell else nullcontext():
        types = _command_module(command).ARGUMENTS
        hints = {
            field.name: types_of[field.name]
            for of, types_of in zip(types, map(get_type_hints, types), strict=True)
            for field in dataclasses.fields(of)
            if field.init
        }
        parser = _parser(types, hints)
    if own_arguments.help:
        print(_help(command, types))
        sys.exit(0)
    if rest and not rest[0].startswith("-"):
        raise ValueError(_no_option(rest[0], hints))
    renamed = RENAMED.get(command, {})
    if recipe is not None:
        parser.set_defaults_with_config(**check_recipe(recipe, hints, renamed))
        check_mappings(recipe, hints)
        check_choices(recipe, parser)
    # Before the values are looked at: a misspelt option is why another seems to be missing.
    options = [
        "--config",
        *(option for action in parser._actions for option in action.option_strings),
    ]
    for word in rest:
        option = word.partition("=")[0]
        if (old := option.removeprefix("--")) in renamed and option.startswith("--"):
            raise ValueError(f"{option} is now --{renamed[old]}")
        if option.startswith("--") and option not in options:
            raise ValueError(f"unknown option {option!r}{did_you_mean(option, options)}")
    *arguments, left_over = parser.parse_args_into_dataclasses(
        rest, return_remaining_strings=True, look_for_args_file=False
    )
    if left_over:
        raise ValueError(_no_option(left_over[0], hints))
    for note in given_again(parser, rest) if tell else ():
        print(f"kd-lab: note: {note}", file=sys.stderr)
    check_empty(arguments)
    expand_home(arguments)
    return tuple(arguments)


def _run(command: str, words: Sequence[str], tell: bool) -> None:
    arguments = parse(command, words, tell)
    _command_module(command).run(*arguments)


def _command_module(command: str) -> Any:
    try:
        return importlib.import_module(COMMANDS[command].module)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.startswith("kd_lab"):
            raise
        raise ValueError(
            f"{command} needs the package {error.name}: pip install -e '.[llm]' in KD Lab's folder"
        ) from error


def _no_option(word: str, hints: dict[str, Any]) -> str:
    """What is said of a word that stands alone: the option that it may be a value of."""
    path = Path(word).expanduser()
    if word in recipes() or path.suffix in (".yaml", ".yml"):
        return f"{word} is no option: a recipe is given with --config {word}"
    is_model = (path / "config.json").is_file()
    options = ("model_name_or_path", "teacher_model_name_or_path") if is_model else ("dataset",)
    meant = next((option for option in options if path.exists() and option in hints), None)
    advice = f"did you mean --{meant} {word}" if meant else "every value follows its --option"
    return f"{word} is no option: {advice}"


def _no_options(command: str, words: Sequence[str]) -> None:
    if words and words[0] in ("-h", "--help"):
        print(f"usage: kd-lab {command}\n\n{COMMANDS[command].summary}")
        sys.exit(0)
    if words:
        raise ValueError(f"{command} takes no options, not {words[0]!r}")


class _Parser(argparse.ArgumentParser):
    """argparse, but a refusal is a ValueError in one line, without the usage before it."""

    def error(self, message: str) -> Any:
        raise ValueError(message)


def _parser(types: Sequence[type], hints: dict[str, Any]) -> "TrlParser":
    from trl.scripts.utils import TrlParser

    class Parser(_Parser, TrlParser):
        """TRL's parser, refusing like ours."""

    parser = Parser(types, add_help=False, allow_abbrev=False)  # type: ignore[arg-type]
    for action in parser._actions:
        if takes_mapping(hints[action.dest]):
            action.type = mapping_of if str in kinds(hints[action.dest]) else read_mapping_of
        elif takes_null(hints[action.dest]):
            action.type = text_or_null
        elif float in kinds(hints[action.dest]):
            assert callable(action.type)
            action.type = finite(action.type)
    return parser


def _recipe(words: Sequence[str]) -> None:
    """List the recipes, or print the path of one."""
    if words in (["-h"], ["--help"]):
        print(
            "usage: kd-lab recipe          list the recipes: what each does, needs and takes\n"
            "       kd-lab recipe NAME     print the path of one"
        )
    elif not words:
        from kd_lab.planning.recipe_list import recipe_list

        print(recipe_list())
    elif len(words) == 1:
        print(find_recipe(words[0]))
    else:
        raise ValueError(f"recipe takes one name, not {len(words)}")


def _overview() -> str:
    commands = {name: command.summary for name, command in COMMANDS.items()}
    commands["recipe"] = "list the recipes of the package, or print the path of one"
    lines = [f"  {name:10}{summary}" for name, summary in commands.items()]
    return "\n".join(
        [
            "usage: kd-lab COMMAND [--config RECIPE] [--KEY VALUE ...]",
            "",
            *lines,
            "",
            "`kd-lab COMMAND --help` lists its keys. RECIPE is a name that `kd-lab recipe` lists,",
            "or the path of a YAML file; each key in it is also an option, and options win.",
        ]
    )


def _help(command: str, types: Sequence[type]) -> str:
    """The meaning of our own keys, and the names of those inherited from TRL's classes."""
    first = COMMANDS[command].first
    named = f"{first.upper()}... " if first else ""
    lines = [
        f"usage: kd-lab {command} {named}[--config RECIPE] [--KEY VALUE ...]",
        "",
        f"{COMMANDS[command].summary}. A key of a recipe is an option here, and options win.",
    ]
    for of in types:
        fields = {field.name: field for field in dataclasses.fields(of) if field.init}
        ours = [name for name in fields if _declared_in(of, name) not in LIBRARIES]
        about, *_ = (of.__doc__ or "").strip().splitlines() or [""]
        lines += ["", *textwrap.wrap(f"{of.__name__}: {about}", 100)]
        for name in ours:
            lines += _explained(fields[name])
        inherited = [name for name in fields if name not in ours]
        if inherited:
            bases = ", ".join(b.__name__ for b in of.__mro__ if _library(b) in LIBRARIES)
            lines += [f"  and, as in {bases}:"]
            lines += textwrap.wrap(
                ", ".join(inherited), 98, initial_indent="    ", subsequent_indent="    "
            )
    return "\n".join(lines)


LIBRARIES = ("trl", "transformers")


def _library(of: type) -> str:
    return of.__module__.partition(".")[0]


def _declared_in(of: type, name: str) -> str:
    """The top-level package of the class that declared a field last."""
    return next(
        _library(base) for base in of.__mro__ if name in vars(base).get("__annotations__", {})
    )


def _explained(field: "dataclasses.Field[Any]") -> list[str]:
    default = (
        field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    )
    default_text = "required" if default is dataclasses.MISSING else f"default: {default}"
    text = f"{field.metadata.get('help', '')} ({default_text})".strip()
    return [
        f"  --{field.name}",
        *textwrap.wrap(text, 98, initial_indent="      ", subsequent_indent="      "),
    ]
