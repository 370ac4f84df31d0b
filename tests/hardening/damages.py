"""One file damaged, then the command that reads it.

It holds where the command names the file, or does its part again, or where the damage changes
nothing: then the results are those of the undamaged file, to the bit.
"""

import json
import random
import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from tests.hardening.cases import Case
from tests.hardening.commands import Said, outcome_of, ran, results
from tests.hardening.workspace import COMMANDS, DATA, STUDENT, TEACHER, prepare

KIND = "damages"
NEW = (*STUDENT, "--max_steps", "1", "--save_strategy", "no", "--output_dir", "new")
TRAINED = ("new/*.safetensors", "new/*.json", "new/*.jinja", "new/*.jsonl")
OF_A_MODEL = ("*.safetensors", "*.json", "*.jinja", "complete", "config.yaml", "versions.json")


class Reader(NamedTuple):
    """A command, the files that it reads, and those that it writes."""

    words: tuple[str, ...]
    reads: tuple[str, ...]
    writes: tuple[str, ...] = TRAINED
    is_resume: bool = False


def _of(folder: str, names: Sequence[str] = OF_A_MODEL) -> tuple[str, ...]:
    return tuple(f"{folder}/{name}" for name in names)


READERS = {
    "train on data": Reader(
        (*NEW, *DATA, "--alpha", "0"), ("data/*", "rows/*.arrow", "rows/*.json")
    ),
    "data, again": Reader(COMMANDS["data"], ("data/*",), ("data/*",)),
    "train with a teacher": Reader((*NEW, *DATA, *TEACHER), _of("teacher")),
    "train a student further": Reader(
        ("train", "--model_name_or_path", "teacher", "--alpha", "0", *DATA, *NEW[3:]),
        _of("teacher"),
    ),
    "train on answers": Reader(
        (*NEW, "--prefixes", "teacher", "--answers", "answers", "--alpha", "0"), ("answers/*",)
    ),
    "generate, again": Reader(COMMANDS["answers"], ("answers/*", *_of("teacher")), ("answers/*",)),
    "train on hidden states": Reader((*NEW, "--teacher_cache", "hidden"), ("hidden/*",)),
    "train on a top k": Reader(
        (*NEW, "--teacher_cache", "topk", "--prefixes", "teacher"), ("topk/*",)
    ),
    "cache, again": Reader(COMMANDS["hidden"], ("hidden/*", *_of("teacher")), ("hidden/*",)),
    "cache of answers, again": Reader(COMMANDS["topk"], ("answers/*", "topk/*"), ("topk/*",)),
    "resume": Reader(
        (*COMMANDS["run"], "--resume_from_checkpoint", "true", "--max_steps", "4"),
        ("run/checkpoint-3/*",) * 4 + ("run/metrics.jsonl", "run/config.yaml", "run/versions.json"),
        tuple(pattern.replace("new/", "run/") for pattern in TRAINED[:1] + TRAINED[3:]),
        is_resume=True,
    ),
    "evaluate": Reader(
        COMMANDS["evaluate"], (*_of("run"), "run/answers/*/*", "run/evaluation.json"),
        ("run/evaluation.json",),
    ),
    "report": Reader(
        COMMANDS["report"],
        ("run/evaluation.json",) * 4 + ("run/config.yaml", "run/metrics.jsonl", "run/complete"),
        ("report/*",),
    ),
}  # fmt: skip


class Damage(NamedTuple):
    """Which files it changed, how, in words."""

    files: tuple[Path, ...]
    what: str


def random_damages(folder: Path, count: int, seed: int) -> Iterator[Case]:
    """Damage ``count`` files, one at a time, each in a copy of one workspace.

    Args:
        folder: an empty one, or one that is not there.
    """
    whole, draw = folder / "whole", random.Random(seed)
    prepare(whole)
    expected: dict[str, dict[str, str]] = {}
    for number in range(count):
        name = draw.choice([*READERS])
        reader, copy = READERS[name], folder / "copy"
        if name not in expected:
            expected[name] = _undamaged(whole, copy, reader)
        shutil.copytree(whole, copy)
        damage = _damage(copy, reader, draw)
        said = ran(copy, reader.words)
        same = results(copy, reader.writes) == expected[name]
        yield Case(
            KIND,
            f"{damage.what}, then {name} (seed {seed}, number {number})",
            _outcome(said, damage, reader, same),
            said.end,
        )
        shutil.rmtree(copy)


def _undamaged(whole: Path, copy: Path, reader: Reader) -> dict[str, str]:
    shutil.copytree(whole, copy)
    said = ran(copy, reader.words)
    if said.code != 0:
        raise RuntimeError(f"undamaged, kd-lab {reader.words[0]} failed: {said.err[-2000:]}")
    found = results(copy, reader.writes)
    shutil.rmtree(copy)
    return found


def _outcome(said: Said, damage: Damage, reader: Reader, same: bool) -> str:
    names = [path.name.removesuffix(".sidecar") for path in damage.files]
    if any(path.name == "complete" for path in damage.files):  # it stands for its folder
        names += [path.parent.name for path in damage.files]
    found = outcome_of(said, names, same)
    passed_over = reader.is_resume and damage.files[0].parent.name.startswith("checkpoint")
    if found == "held" and passed_over and damage.files[0].name not in ("README.md", "complete"):
        return "held" if any(name in said.err for name in names) else "not named"
    return found


def _damage(folder: Path, reader: Reader, draw: random.Random) -> Damage:
    """Damage one of the reader's files; each kind about as often as in the first edition."""
    while True:
        files = sorted(path for path in folder.glob(draw.choice(reader.reads)) if _counts(path))
        if not files:
            continue
        path = draw.choice(files)
        kinds = ["flip"] * 22 + ["digit"] * 4 + ["cut"] * 7 + ["remove"] * 3 + ["swap"] * 2
        kinds += ["field"] * 3 + ["empty", "null"]
        done = _DAMAGES[draw.choice(kinds)](path, draw)
        if done is not None:
            name = path.relative_to(folder).as_posix()
            return Damage((path, *done.files), f"{name}: {done.what}")


def _counts(path: Path) -> bool:
    return (
        path.is_file() and path.name not in (".lock", "evaluation.log") and path.stat().st_size > 0
    )


def _flip(path: Path, draw: random.Random) -> Damage:
    content = bytearray(path.read_bytes())
    byte, bit = draw.randrange(len(content)), draw.randrange(8)
    content[byte] ^= 1 << bit
    path.write_bytes(content)
    return Damage((), f"bit {bit} of byte {byte} flipped")


def _digit(path: Path, draw: random.Random) -> Damage | None:
    content = bytearray(path.read_bytes())
    digits = [place for place, byte in enumerate(content) if chr(byte) in "0123456789"]
    if path.suffix not in (".json", ".jsonl", ".sidecar", ".yaml") or not digits:
        return None
    place = draw.choice(digits)
    digit = draw.choice([d for d in b"0123456789" if d != content[place]])
    content[place] = digit
    path.write_bytes(content)
    return Damage((), f"byte {place} is the digit {chr(digit)}")


def _cut(path: Path, draw: random.Random) -> Damage:
    size = draw.randrange(path.stat().st_size)
    path.write_bytes(path.read_bytes()[:size])
    return Damage((), f"cut to {size} bytes")


def _remove(path: Path, draw: random.Random) -> Damage:
    path.unlink()
    return Damage((), "removed")


def _swap(path: Path, draw: random.Random) -> Damage | None:
    """With a file of its kind beside it, or of the same name in another checkpoint."""
    beside = path.parent.glob(f"*{path.suffix}") if path.suffix else ()
    others = [
        other
        for other in sorted({*beside, *path.parents[1].glob(f"checkpoint-*/{path.name}")})
        if other != path and _counts(other) and other.read_bytes() != path.read_bytes()
    ]
    if not others:
        return None
    other = draw.choice(others)
    mine, theirs = path.read_bytes(), other.read_bytes()
    path.write_bytes(theirs)
    other.write_bytes(mine)
    return Damage((other,), f"swapped with {other.parent.name}/{other.name}")


def _field(path: Path, draw: random.Random) -> Damage | None:
    """One value of a JSON file is another; the file stays JSON."""
    if path.suffix not in (".json", ".sidecar") and path.name != "complete":
        return None
    value = json.loads(path.read_text())
    holder, key = draw.choice([*_leaves(value)])
    before = holder[key]
    holder[key] = (
        not before if isinstance(before, bool)
        else before + 1 if isinstance(before, int | float)
        else f"{before}x" if isinstance(before, str)
        else 1
    )  # fmt: skip
    path.write_text(json.dumps(value))
    return Damage((), f"{key} is {holder[key]!r:.60} and was {before!r:.60}")


def _leaves(value: Any) -> Iterator[tuple[Any, Any]]:
    """Each value that holds no others: what holds it, and its key there."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(item, dict | list) and item:
            yield from _leaves(item)
        else:
            yield value, key


def _became(text: str, path: Path, draw: random.Random) -> Damage:
    path.write_text(text)
    return Damage((), f"its content is {text!r}")


_DAMAGES = {
    "flip": _flip,
    "digit": _digit,
    "cut": _cut,
    "remove": _remove,
    "swap": _swap,
    "field": _field,
    "empty": partial(_became, ""),
    "null": partial(_became, "null"),
}
