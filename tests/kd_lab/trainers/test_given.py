"""Rows that are no training rows are refused by a trainer, by the column or the argument."""

import pytest

from kd_lab.trainers.distil_config import DistilConfig
from kd_lab.trainers.seq_distil import SeqDistilTrainer
from kd_lab.trainers.token_distil import TokenDistilTrainer
from tests.helpers.toy_pair import TOKENIZER, toy_model, toy_rows


def trainer_of(tmp_path, rows, kind=TokenDistilTrainer, eval_dataset=None, **settings):
    config = DistilConfig(output_dir=str(tmp_path), use_cpu=True, **settings)
    return kind(
        toy_model(), toy_model(seed=1), config, train_dataset=rows, eval_dataset=eval_dataset,
        processing_class=TOKENIZER,
    )  # fmt: skip


@pytest.mark.parametrize("column", ["input_ids", "labels"])
def test_a_column_that_is_missing(column, tmp_path):
    lacking = toy_rows(4).remove_columns(column)
    with pytest.raises(ValueError, match=f"^train_dataset has no column {column}: give training"):
        trainer_of(tmp_path, lacking)
    with pytest.raises(ValueError, match=f"^eval_dataset has no column {column}"):
        trainer_of(tmp_path, toy_rows(4), eval_dataset=lacking)


def test_no_rows(tmp_path):
    with pytest.raises(ValueError, match=r"^train_dataset has no rows"):
        trainer_of(tmp_path, toy_rows(4).select([]))
    with pytest.raises(ValueError, match=r"^eval_dataset\['short'\] has no rows"):
        trainer_of(tmp_path, toy_rows(4), eval_dataset={"short": toy_rows(4).select([])})
    with pytest.raises(ValueError, match=r"^train_dataset must be a datasets\.Dataset .* not list"):
        trainer_of(tmp_path, list(toy_rows(4)))


@pytest.mark.parametrize(
    "settings", [{"prefixes": "student", "alpha": 1.0}, {"prefixes": "teacher"}]
)
def test_answers_need_to_know_where_the_prompt_ends(settings, tmp_path):
    lacking = toy_rows(4).remove_columns("prompt_length")
    with pytest.raises(ValueError, match=r"^train_dataset has no column prompt_length"):
        trainer_of(tmp_path, lacking, SeqDistilTrainer, **settings)
    trainer_of(tmp_path, lacking)  # where none is written, nobody asks
