"""Fidelity against brute force, on the toy's vocabulary and on two tokens; modes by hand."""

import math
from itertools import product

import numpy as np
import pytest
import torch

from kd_lab.data.packed_rows import PackedRows
from kd_lab.data.toy_language import answers, questions
from kd_lab.evaluation.fidelity import (
    calibration_shares,
    sequence_kl,
    token_fidelity,
)
from kd_lab.evaluation.intervals import bootstrap_interval
from kd_lab.evaluation.modes import (
    exact_modes,
    grammar_distribution,
    model_distribution,
    sampled_modes,
)
from kd_lab.states import LOGIT_ENTRIES, answered_rows
from tests.helpers.toy_pair import TOKENIZER, toy_model, toy_rows

V = len(TOKENIZER)
QUESTION = "Could you book a table for Emma at seven?"


@pytest.fixture(scope="module")
def pair():
    """A student and a teacher whose distributions differ, in float64."""
    student, teacher = toy_model(16, 1, seed=0), toy_model(32, 2, seed=1)
    return student.double().eval(), teacher.double().eval()


def answered(prompt, answer):
    return {"input_ids": [*prompt, *answer], "labels": [-100] * len(prompt) + answer}


def distributions(model, row, vocab_size):
    """The whole distribution at each trained position, and the tokens, by the model's logits."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1, :vocab_size]
    trained = torch.tensor(row["labels"][1:]) != -100
    return torch.softmax(logits[trained], -1).numpy(), np.array(row["labels"][1:])[trained.numpy()]


def test_token_fidelity_is_brute_force(pair):
    student, teacher = pair
    rows = toy_rows(7)
    assert len({len(row["input_ids"]) for row in rows}) > 2  # so that batches are padded
    seen = []
    fidelity = token_fidelity(
        *pair, PackedRows.of(rows), vocab_size=V, tokens_per_batch=120, advance=seen.append
    )
    assert fidelity.tokens.tolist() == [sum(x != -100 for x in row["labels"]) for row in rows]
    assert sum(seen) == fidelity.tokens.sum()
    for i, row in enumerate(rows):
        (q, tokens), (p, _) = distributions(student, row, V), distributions(teacher, row, V)
        m = (p + q) / 2
        expected = {
            "forward_kl": (p * np.log(p / q)).sum(-1),
            "reverse_kl": (q * np.log(q / p)).sum(-1),
            "jensen_shannon": (p * np.log(p / m) + q * np.log(q / m)).sum(-1) / 2,
            "total_variation": np.abs(p - q).sum(-1) / 2,
            "top1_agreement": p.argmax(-1) == q.argmax(-1),
            "student_entropy": -(q * np.log(q)).sum(-1),
            "teacher_entropy": -(p * np.log(p)).sum(-1),
            "student_nll": -np.log(q[range(len(q)), tokens]),
            "teacher_nll": -np.log(p[range(len(p)), tokens]),
        }
        for name, value in expected.items():
            assert fidelity.means[name][i] == pytest.approx(value.mean(), abs=1e-10), name


def test_chunks_do_not_change_the_result(pair, monkeypatch):
    rows = PackedRows.of(toy_rows(4))
    whole = token_fidelity(*pair, rows, vocab_size=V)
    monkeypatch.setattr("kd_lab.states.LOGIT_ENTRIES", 5 * V)
    pieces = token_fidelity(*pair, rows, vocab_size=V)
    assert whole.tokens.sum() * V < LOGIT_ENTRIES
    for name, value in whole.means.items():
        assert pieces.means[name] == pytest.approx(value, abs=1e-12)


def test_a_model_is_faithful_to_itself(pair):
    fidelity = token_fidelity(pair[0], pair[0], PackedRows.of(toy_rows(3)), vocab_size=V)
    for name in ("forward_kl", "reverse_kl", "jensen_shannon", "total_variation"):
        assert fidelity.means[name] == pytest.approx([0, 0, 0], abs=1e-15)
    assert fidelity.means["top1_agreement"].tolist() == [1, 1, 1]


def test_calibration_shares_add_up_to_the_calibration_error():
    rng = np.random.default_rng(0)
    confidence, example = rng.random(500) ** 0.5, rng.integers(0, 20, 500)
    correct = (rng.random(500) < confidence**2).astype(float)
    confidence[0] = 1.0
    error = 0.0
    for low in np.arange(15) / 15:
        last = low + 1 / 15 > 0.999
        some = (confidence >= low) & (last | (confidence < low + 1 / 15))
        if some.any():
            error += some.mean() * abs(confidence[some].mean() - correct[some].mean())
    shares = calibration_shares(confidence, correct, example, 20)
    tokens = np.bincount(example, minlength=20)
    assert (shares * tokens).sum() / tokens.sum() == pytest.approx(error)
    assert error > 0.1  # over-confident as it was made


def test_the_calibration_error_of_a_calibrated_model_is_as_the_docstring_says():
    rng, tokens, errors, missed = np.random.default_rng(0), 3600, [], 0
    for _ in range(20):
        confidence, example = rng.random(tokens), np.arange(tokens) % 300
        correct = (rng.random(tokens) < confidence).astype(float)
        shares = calibration_shares(confidence, correct, example, 300)
        errors.append(shares.mean())
        missed += bootstrap_interval(shares, resamples=500).low > 0
    assert 0.9 < np.mean(errors) * tokens**0.5 < 1.3
    assert max(errors) * tokens**0.5 < 2 * 1.55
    assert missed > 10
    assert "mostly misses the 0 of a calibrated model" in calibration_shares.__doc__


def test_sequence_kl_of_two_tokens_is_the_sum_over_all_answers():
    """Token 1 ends an answer, which is cut after five tokens: six answers, enumerated."""
    shape = {"vocab_size": 2, "eos_token_id": 1, "pad_token_id": 0}
    student, teacher = (toy_model(8, 1, seed=seed, **shape).double().eval() for seed in (3, 4))
    written = [[0] * n + [1] for n in range(5)] + [[0] * 5]
    rows = answered_rows([[0, 1, 0]] * 6, written)
    fidelity = token_fidelity(student, teacher, rows, vocab_size=2, tokens_per_batch=16)

    def log_prob(model, answer):
        q, tokens = distributions(model, answered([0, 1, 0], answer), 2)
        return np.log(q[range(len(q)), tokens]).sum()

    log_p = np.array([log_prob(teacher, y) for y in written])
    log_q = np.array([log_prob(student, y) for y in written])
    assert np.exp(log_p).sum() == pytest.approx(1)
    assert np.exp(log_q).sum() == pytest.approx(1)
    for direction, a, b in (("forward", log_p, log_q), ("reverse", log_q, log_p)):
        exact = (np.exp(a) * (a - b)).sum()
        kl = sequence_kl(fidelity, direction)
        assert kl.log_ratio == pytest.approx(a - b)
        assert kl.tokens.tolist() == [len(y) for y in written]
        # Both estimates have the exact KL as their mean over answers drawn from a ...
        assert np.exp(a) @ kl.log_ratio == pytest.approx(exact)
        assert np.exp(a) @ kl.rao_blackwell == pytest.approx(exact)
        # ... and the second one spreads less.
        assert np.exp(a) @ (kl.rao_blackwell - exact) ** 2 < np.exp(a) @ (kl.log_ratio - exact) ** 2
        assert exact > 0.05
    halves = sequence_kl(fidelity, "forward", samples_per_example=3)
    assert halves.log_ratio == pytest.approx((log_p - log_q).reshape(2, 3).mean(1))
    with pytest.raises(ValueError, match="must be 'forward' or 'reverse', not 'both'"):
        sequence_kl(fidelity, "both")


def test_what_cannot_be_compared_is_refused(pair):
    with pytest.raises(ValueError, match="token 9 is outside the 8"):
        token_fidelity(*pair, answered_rows([[5]], [[9]]), vocab_size=8)


def test_modes_by_hand():
    p = np.array([[0.5, 0.3, 0.2]])
    q = np.array([[0.5, 0.02, 0.28]])  # 0.2 are outside; the second is below a tenth of its due
    modes = exact_modes(np.log(p), np.log(q))
    assert modes["coverage"] == pytest.approx([0.7])
    assert modes["outside_mass"] == pytest.approx([0.2])
    assert modes["forward_kl"] == pytest.approx(
        [0.3 * math.log(0.3 / 0.02) + 0.2 * math.log(0.2 / 0.28)]
    )
    kept = q[0] / 0.8
    assert modes["reverse_kl_inside"] == pytest.approx([(kept * np.log(kept / p[0])).sum()])


def test_modes_of_a_perfect_and_of_a_collapsed_model():
    p = np.exp(grammar_distribution([QUESTION] * 2))
    assert p.shape == (2, 20)
    collapsed = np.zeros(20)
    collapsed[0] = 1
    with np.errstate(divide="ignore"):
        modes = exact_modes(np.log(p), np.log([p[0], collapsed]))
    assert modes["coverage"] == pytest.approx([1, p[0, 0]])
    assert modes["outside_mass"] == pytest.approx([0, 0], abs=1e-12)
    assert modes["forward_kl"] == pytest.approx([0, math.inf], abs=1e-12)
    assert modes["reverse_kl_inside"] == pytest.approx([0, -math.log(p[0, 0])], abs=1e-12)


def test_the_distribution_of_a_model_is_its_own_logits_summed(pair):
    asked = [QUESTION, *questions("test")[:3]]
    prompts = [
        TOKENIZER.apply_chat_template([{"role": "user", "content": q}], add_generation_prompt=True)[
            "input_ids"
        ]
        for q in asked
    ]
    logp = model_distribution(pair[1], TOKENIZER, asked, prompts, tokens_per_batch=200)
    assert logp.shape == (4, 20)
    for i, j in product(range(4), (0, 7, 19)):
        text = answers(asked[i])[j][0]
        row = answered(prompts[i], TOKENIZER(text + "<|im_end|>")["input_ids"])
        probs, tokens = distributions(pair[1], row, V)
        assert logp[i, j] == pytest.approx(np.log(probs[range(len(probs)), tokens]).sum())


def test_sampled_modes_by_hand():
    right = "Sorry, there is no table for Emma at seven."
    for_another = "Sorry, there is no table for Noah at seven."
    of_another_intent = "Yes, a taxi will wait for Emma at seven."
    texts = [
        [right, for_another, of_another_intent, right],
        ["", "seven eight Emma Mia", right, right],
    ]
    finished = [[True, True, True, False], [True] * 4]
    modes = sampled_modes([QUESTION, QUESTION], texts, finished)
    assert modes["precision"].tolist() == [0.25, 0.5]
    assert modes["hallucination"].tolist() == [0.25, 0.25]
