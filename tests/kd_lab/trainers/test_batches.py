"""A batch is TRL's, however it is put together."""

import pytest
import torch
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from kd_lab.trainers.batches import collate_rows

ROWS = [
    {"input_ids": [5, 6, 7, 8, 9], "labels": [-100, -100, 7, 8, 9], "prompt_length": 2},
    {"input_ids": [5, 6, 7], "labels": [-100, 6, 7], "prompt_length": 1},
]


@pytest.mark.parametrize("settings", [{}, {"pad_to_multiple_of": 4}, {"padding_free": True}])
def test_a_batch_is_what_trl_makes_of_the_rows_and_their_other_columns(settings):
    collate = DataCollatorForLanguageModeling(pad_token_id=3, **settings)
    without = [{k: row[k] for k in ("input_ids", "labels")} for row in ROWS]
    expected = collate(without) | {
        "row_lengths": torch.tensor([5, 3]),
        "prompt_length": torch.tensor([2, 1]),
    }
    batch = collate_rows(collate, ROWS)
    assert batch.keys() == expected.keys()
    for name, column in expected.items():
        torch.testing.assert_close(batch[name], column, rtol=0, atol=0)
