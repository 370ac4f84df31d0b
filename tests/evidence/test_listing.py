"""The audit of the post's listings: each share against a count of its own."""

import math

import pytest
import torch

from evidence.listing import (
    ToyBatch,
    direction,
    generation,
    keyword,
    loss_of_batches,
    prompts_of_batches,
    sampling_without_do_sample,
    toy_batch,
)
from kd_lab.vocabulary import IGNORED
from tests.helpers.toy_pair import TOKENIZER, toy_model


@pytest.fixture(scope="module")
def teacher():
    return toy_model(seed=1).eval()


@pytest.fixture(scope="module")
def student():
    return toy_model(seed=2).eval()


@pytest.fixture(scope="module")
def batch():
    return toy_batch(TOKENIZER, 6, seed=3)


def test_the_call_refuses_its_argument_and_is_nan_without_it():
    found = keyword()
    assert "log_teacher" in found["error"]
    assert found["left_out"] == "nan"


def test_the_mended_call_is_forward_kl_and_not_reverse():
    found = direction()
    assert found["kl_div"] == pytest.approx(found["forward_kl"], rel=1e-12)
    assert abs(found["kl_div"] - found["reverse_kl"]) > 0.1


def test_a_batch_is_what_a_collator_makes(batch):
    for ids, labels, length, start in zip(
        batch.input_ids, batch.labels, batch.lengths, batch.prompt_lengths, strict=True
    ):
        assert (ids[length:] == TOKENIZER.pad_token_id).all()
        assert (labels[:start] == IGNORED).all()
        assert (labels[length:] == IGNORED).all()
        assert (labels[start:length] == ids[start:length]).all()
    assert len(set(batch.lengths.tolist())) > 1
    assert batch.attention_mask.sum(1).tolist() == batch.lengths.tolist()


def test_shares_of_the_loss_are_those_of_a_sum_over_positions(teacher, student, batch):
    sums = dict.fromkeys(("prompt", "answer", "padding"), 0.0)
    with torch.no_grad():
        p, q = (
            model(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
            .logits.double()
            .softmax(-1)
            .tolist()
            for model in (teacher, student)
        )
    trained = 0
    rows, width = batch.input_ids.shape
    for row in range(rows):
        for t in range(width):
            pairs = zip(p[row][t], q[row][t], strict=True)
            nats = sum(a * math.log(a / b) for a, b in pairs)
            label = batch.labels[row, t + 1].item() if t + 1 < width else IGNORED
            if label != IGNORED:
                sums["answer"] += nats
                trained += 1
            elif t + 1 < batch.lengths[row]:
                sums["prompt"] += nats
            else:
                sums["padding"] += nats
    found = loss_of_batches(teacher, student, [batch])
    for name, value in sums.items():
        assert found["share"][name]["mean"] == pytest.approx(value / sum(sums.values()))
    # The listing divides by rows and by the longest row, a mean over tokens by the trained ones.
    assert found["divisor"]["longest_row"]["mean"] == pytest.approx(rows * width / trained)
    assert found["divisor"]["common_length"]["mean"] == pytest.approx(rows * 2048 / trained)


def test_the_listing_counts_padding_as_prompt():
    # Prompts of 3, 3 and 2 tokens; answers of 4, 2 and 1; so 0, 2 and 4 of padding.
    lengths, prompts = torch.tensor([7, 5, 3]), torch.tensor([3, 3, 2])
    place = torch.arange(7)
    trained = (place >= prompts[:, None]) & (place < lengths[:, None])
    batch = ToyBatch(place.repeat(3, 1), torch.where(trained, 5, IGNORED), lengths, prompts, [])
    found = prompts_of_batches([batch])
    assert found["with_answer"]["mean"] == pytest.approx(2 / 3)
    assert found["whole_answer"]["mean"] == pytest.approx(2 / 3)
    assert found["answer_tokens"]["mean"] == pytest.approx((0 + 2 + 1) / 3)


def test_the_side_of_padding_changes_nothing_where_there_is_none(teacher, batch):
    shortest = batch.prompt_lengths.min()
    alike = (batch.prompt_lengths == shortest).nonzero().flatten()
    same = ToyBatch(*(part[alike] for part in batch[:4]), [batch.questions[i] for i in alike])
    mixed = generation(teacher, TOKENIZER, [batch, same])
    assert 0 < mixed["padded"]["mean"] < 1
    assert 0 < mixed["changed"]["mean"] <= mixed["padded"]["mean"]
    assert mixed["changed_padded"]["n"] == mixed["padded"]["mean"] * mixed["padded"]["n"]


def test_generate_is_greedy_unless_told(teacher, batch):
    found = sampling_without_do_sample(teacher, TOKENIZER, batch, calls=3)["different_answers"]
    assert found["plain"]["mean"] == found["plain"]["high"] == 1
    assert found["do_sample"]["mean"] > 2
