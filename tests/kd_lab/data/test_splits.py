"""Which split a name says, in the layouts that people have."""

from pathlib import PurePath

import pytest

from kd_lab.data.splits import named_split, sort_by_split


@pytest.mark.parametrize(
    ("names", "train", "test", "left_out"),
    [
        ("a.jsonl b/c.parquet", "a.jsonl b/c.parquet", "", ""),
        ("train.jsonl test.jsonl more.jsonl", "train.jsonl", "test.jsonl", "more.jsonl"),
        ("mine.jsonl test-1.jsonl", "mine.jsonl", "test-1.jsonl", ""),
        # the hub's own conversion to Parquet, and the layouts of huggingface/datasets #3221
        (
            "default/train/0.parquet default/test/0.parquet",
            "default/train/0.parquet",
            "default/test/0.parquet",
            "",
        ),
        ("train/data.jsonl test/data.jsonl", "train/data.jsonl", "test/data.jsonl", ""),
        ("chat_train.jsonl chat_test.jsonl", "chat_train.jsonl", "chat_test.jsonl", ""),
        ("Train.jsonl TEST.jsonl", "Train.jsonl", "TEST.jsonl", ""),
        ("ChatTrain.jsonl ChatTest.jsonl", "ChatTrain.jsonl", "ChatTest.jsonl", ""),
        ("my.train.jsonl my.dev.jsonl", "my.train.jsonl", "my.dev.jsonl", ""),
        ("trainset.json testset.json", "trainset.json", "testset.json", ""),
        ("chat.jsonl held_out.jsonl", "chat.jsonl", "held_out.jsonl", ""),
        # test goes before validation, which is then neither
        ("train.jsonl val.jsonl test.jsonl", "train.jsonl", "test.jsonl", "val.jsonl"),
        # a word, not letters inside one
        ("latest.jsonl contest.jsonl", "contest.jsonl latest.jsonl", "", ""),
        (
            "train_sft-0.parquet train_gen-0.parquet test_sft-0.parquet test_gen-0.parquet",
            "train_sft-0.parquet",
            "test_sft-0.parquet",
            "test_gen-0.parquet train_gen-0.parquet",
        ),
    ],
)
def test_the_splits_of_names(names, train, test, left_out):
    found = sort_by_split([PurePath(name) for name in sorted(names.split())])
    assert {split: " ".join(map(str, paths)) for split, paths in found.items()} == {
        "train": train,
        "test": test,
        "left_out": left_out,
    }


@pytest.mark.parametrize("word", ["validation", "valid", "val", "dev", "eval", "Validation"])
def test_every_word_for_validation_is_kept_from_training(word):
    found = sort_by_split([PurePath("chat.jsonl"), PurePath(f"{word}.jsonl")])
    assert [str(path) for path in found["train"]] == ["chat.jsonl"]
    assert [str(path) for path in found["test"]] == [f"{word}.jsonl"]


@pytest.mark.parametrize("name", ["train_test.jsonl", "test/train.jsonl", "train/dev.jsonl"])
def test_a_mix_that_cannot_be_read_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} says .* and .*: rename it"):
        sort_by_split([PurePath(name)])


def test_a_name_without_a_split_says_none():
    assert named_split("default") is None
