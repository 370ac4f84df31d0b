"""The split that a name means: words in file, folder and hub names decide what is never trained.

    train.jsonl   chat_train.jsonl   default/train/0000.parquet   train-00000-of-00002.parquet
    test.jsonl    ChatTest.jsonl     valid/data.jsonl             mine.dev.jsonl

A file's own name counts first, then its folders from the inside. A path that says train and test is
refused. A name that says neither is trained only where no name says train. A name that says test or
validation is never trained. UltraChat has two kinds of rows, ``*_sft`` and ``*_gen``: where there
are ``train_sft*``, only ``*_sft`` is taken.
"""

import re
from collections.abc import Iterable
from pathlib import PurePath
from typing import Literal

Named = Literal["train", "test", "validation"]

WORDS: dict[str, Named] = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
    **dict.fromkeys(("validation", "validate", "valid", "val", "vld"), "validation"),
    **dict.fromkeys(
        ("dev", "development", "eval", "evaluation", "holdout", "heldout"), "validation"
    ),
}
TAILS = ("set", "data", "split", "file", "files")  # testset, traindata


def named_split(name: str) -> Named | None:
    """The split that the words of one name say, in any case; None if it says none.

    Raises:
        ValueError: it says two, such as ``train_test.jsonl``.
    """
    humps = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)  # ChatTest
    found = {split for word in re.findall(r"[a-z]+", humps.lower()) if (split := _split_of(word))}
    if "heldout" in re.sub(r"[^a-z]", "", name.lower()):
        found.add("validation")
    if len(found) > 1:
        says = " and ".join(sorted(found))
        raise ValueError(f"{name} says {says}: rename it, so that its name says one split")
    return found.pop() if found else None


def path_split(path: PurePath) -> Named | None:
    """The split that a relative path says: its file name, else the nearest folder that says one.

    Raises:
        ValueError: as ``named_split``, or file and folders disagree, as in ``test/train.jsonl``.
    """
    says = [split for part in reversed(path.parts) if (split := named_split(part)) is not None]
    if "train" in says and {*says} != {"train"}:
        both = " and ".join(sorted({*says}))
        raise ValueError(f"{path} says {both}: rename it, so that its path says one split")
    return says[0] if says else None


def sort_by_split(paths: Iterable[PurePath]) -> dict[str, list[PurePath]]:
    """Relative paths by split: "train", "test", and "left_out" of neither.

    Validation is the test split if no name says test; else it is left out. A name without a split
    is trained if no name says train; else it is left out.

    Raises:
        ValueError: as ``named_split``.
    """
    by_name: dict[Named | None, list[PurePath]] = {}
    for path in paths:
        by_name.setdefault(path_split(path), []).append(path)
    sft = [path for path in by_name.get("train", []) if "train_sft" in path.name.lower()]
    left_out: list[PurePath] = []
    if sft:
        for split, some in by_name.items():
            by_name[split] = [path for path in some if "_sft" in path.name.lower()]
            left_out += [path for path in some if path not in by_name[split]]
    unnamed = by_name.get(None, [])
    train = by_name.get("train") or unnamed
    test = by_name.get("test") or by_name.get("validation", [])
    taken = {*train, *test}
    left_out += [path for some in by_name.values() for path in some if path not in taken]
    return {"train": train, "test": test, "left_out": sorted(left_out)}


def _split_of(word: str) -> Named | None:
    for tail in ("", *TAILS):
        if tail and not word.endswith(tail):
            continue
        if (split := WORDS.get(word.removesuffix(tail))) is not None:
            return split
    return None
