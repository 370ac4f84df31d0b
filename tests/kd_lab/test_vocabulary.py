"""Heads of different size, tokenizers that agree, nearly agree, or don't."""

import logging

import pytest
import tiktoken
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AddedToken, ByT5Tokenizer, PreTrainedTokenizerFast
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from kd_lab.divergences import forward_kl, jensen_shannon, reverse_kl
from kd_lab.vocabulary import check_same_tokenizer, cut_head, shared_vocabulary_size
from tests.helpers import qwen_vocabulary
from tests.helpers.qwen_vocabulary import NUM_TOKENS, ROWS_FROM_7B, ROWS_UP_TO_3B


def word_tokenizer(vocab: dict[str, int], eos: str = "</s>") -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(vocab, unk_token="w0")), eos_token=eos
    )


def words(count: int, **changed: int) -> dict[str, int]:
    """</s>, w1, w2 ... up to id count - 1, and the ``changed`` tokens besides."""
    return {"</s>": 0} | {f"w{i}": i for i in range(1, count)} | changed


# --- the true vocabulary -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("Hello", [9707]),
        (" world", [1879]),
        ("<|im_start|>user\n", [151644, 872, 198]),
        ("<|im_end|>", [151645]),
        ("<|endoftext|>", [151643]),
        ("<|file_sep|>", [151664]),
    ],
)
def test_the_rebuilt_tokenizer_gives_qwens_ids(qwen_tokenizer, text, ids):
    assert qwen_tokenizer.encode(text) == ids


def test_the_rebuilt_tokenizer_agrees_with_tiktoken(qwen_tokenizer):
    # tiktoken merges by rank alone, so it checks the pairs that were rebuilt from the ranks.
    reference = tiktoken.Encoding(
        "qwen",
        pat_str=PRETOKENIZE_REGEX,
        mergeable_ranks=qwen_vocabulary.mergeable_ranks(),
        special_tokens={},
    )
    text = (
        "Knowledge distillation, in 2024: KL(p‖q) = Σ p·log(p/q)?! naïve café — straße\n\n\t"
        "def forward_kl(p, q):\n    return (p * (p / q).log()).sum(-1)  # nats\r\n"
        "知识蒸馏：教师与学生。 Дистилляция знаний. التقطير المعرفي "
        "🤖👩‍🔬 1234567890 antidisestablishmentarianism"
    )
    assert qwen_tokenizer.encode(text) == reference.encode(text)
    assert qwen_tokenizer.decode(qwen_tokenizer.encode(text)) == text


def test_the_rebuilt_vocabulary_is_whole(qwen_tokenizer):
    assert sorted(qwen_tokenizer.get_vocab().values()) == list(range(NUM_TOKENS))
    assert qwen_tokenizer.eos_token == "<|im_end|>"
    assert qwen_tokenizer.pad_token == "<|endoftext|>"


@pytest.mark.parametrize(
    ("student_rows", "teacher_rows"), [(ROWS_UP_TO_3B, ROWS_FROM_7B), (ROWS_FROM_7B, NUM_TOKENS)]
)
def test_qwen_heads_keep_the_151665_rows_that_hold_a_token(
    qwen_tokenizer, student_rows, teacher_rows
):
    size = shared_vocabulary_size(
        qwen_tokenizer, qwen_vocabulary.qwen_tokenizer(), student_rows, teacher_rows
    )
    assert size == 151_665


def test_two_full_vocabularies_are_read_once_and_not_token_by_token(qwen_tokenizer):
    class Counted:
        """A tokenizer that has no other methods than these."""

        eos_token, eos_token_id = qwen_tokenizer.eos_token, qwen_tokenizer.eos_token_id
        times_read = 0

        def get_vocab(self):
            self.times_read += 1
            return qwen_tokenizer.get_vocab()

    student, teacher = Counted(), Counted()
    assert check_same_tokenizer(student, teacher) == NUM_TOKENS
    assert (student.times_read, teacher.times_read) == (1, 1)


def test_qwen3_is_qwen25_with_more_tokens(qwen_tokenizer, caplog):
    teacher = qwen_vocabulary.qwen_tokenizer()
    teacher.add_tokens(["<tool_response>", "</tool_response>", "<think>", "</think>"])
    with caplog.at_level(logging.WARNING):
        size = shared_vocabulary_size(qwen_tokenizer, teacher, ROWS_UP_TO_3B, ROWS_UP_TO_3B)
    assert size == NUM_TOKENS
    [warning] = caplog.messages
    assert "teacher" in warning
    assert "after id 151664" in warning
    assert "'<think>'" in warning


def test_a_renamed_special_token_is_a_different_tokenizer(qwen_tokenizer):
    # As in DeepSeek-R1-Distill-Qwen, whose 151,643 ordinary tokens are Qwen2.5's.
    teacher = qwen_vocabulary.qwen_tokenizer(end_of_text="<｜end▁of▁sentence｜>")
    with pytest.raises(
        ValueError,
        match=r"id 151643 is '<\|endoftext\|>' to the student and '<｜end▁of▁sentence｜>'",
    ):
        shared_vocabulary_size(qwen_tokenizer, teacher, ROWS_UP_TO_3B, ROWS_FROM_7B)


def test_another_end_of_answer_is_refused(qwen_tokenizer):
    base = qwen_vocabulary.qwen_tokenizer()
    base.eos_token = "<|endoftext|>"  # as Qwen2.5 without -Instruct
    with pytest.raises(
        ValueError, match=r"student's eos_token is '<\|endoftext\|>', the teacher's '<\|im_end\|>'"
    ):
        check_same_tokenizer(base, qwen_tokenizer)
    base.eos_token = "<|im_end|>"  # what the message asks for
    assert check_same_tokenizer(base, qwen_tokenizer) == NUM_TOKENS


# --- small tokenizers --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        (words(30), words(7) | words(30, w7=8, w8=7), "id 7 is 'w7' to the student and 'w8'"),
        (words(30), words(29, other=29), "id 29 is 'w29' to the student and 'other' to the"),
        (words(30, late=32), words(30, x=31, late=32), "id 31 is no token to the student and 'x'"),
        (words(30, x=30, late=32), words(30, late=32), "id 30 is 'x' to the student and no token"),
    ],
)  # fmt: skip
def test_the_first_token_that_differs_is_named(student, teacher, message):
    with pytest.raises(ValueError, match=message):
        check_same_tokenizer(word_tokenizer(student), word_tokenizer(teacher))


def test_the_number_of_differences_is_told():
    with pytest.raises(ValueError, match=r"\(2 ids differ\)"):
        check_same_tokenizer(
            word_tokenizer(words(30)), word_tokenizer(words(30) | {"w7": 8, "w8": 7})
        )


def test_tokenizers_without_a_common_id_are_refused():
    high = {"</s>": 10, "w0": 11}
    with pytest.raises(ValueError, match="id 0 is '</s>' to the student and no token to the"):
        check_same_tokenizer(word_tokenizer(words(3)), word_tokenizer(high))


@pytest.mark.parametrize("longer", ["student", "teacher"])
def test_tokens_at_the_end_of_one_are_left_out_with_a_warning(longer, caplog):
    short, long = word_tokenizer(words(30)), word_tokenizer(words(37))
    pair = (long, short) if longer == "student" else (short, long)
    assert check_same_tokenizer(*pair) == 30
    [warning] = caplog.messages
    assert f"the {longer}'s tokenizer" in warning
    assert "'w30', 'w31', 'w32', 'w33', 'w34' ... (7)" in warning


def test_an_id_without_a_token_in_both_stays(caplog):
    holed = words(30, late=35)
    assert check_same_tokenizer(word_tokenizer(holed), word_tokenizer(holed)) == 36
    assert not caplog.messages


def test_added_tokens_count_in_fast_and_slow_tokenizers():
    slow, slow_too = ByT5Tokenizer(extra_ids=0), ByT5Tokenizer(extra_ids=0)
    ids = slow.get_vocab()
    fast = word_tokenizer(ids)
    assert check_same_tokenizer(slow, fast) == len(ids)
    for tokenizer in (slow, slow_too):
        tokenizer.add_tokens([AddedToken("<|tool|>" if tokenizer is slow else "<|call|>")])
    with pytest.raises(ValueError, match=rf"id {len(ids)} is '<\|tool\|>' to the student"):
        check_same_tokenizer(slow, slow_too)


@pytest.mark.parametrize(
    ("student_rows", "teacher_rows", "whose"), [(29, 41, "student"), (37, 28, "teacher")]
)
def test_a_head_smaller_than_its_tokenizer_is_refused(student_rows, teacher_rows, whose):
    rows = min(student_rows, teacher_rows)
    with pytest.raises(ValueError, match=f"the {whose}'s head has {rows} rows, so none for 'w29'"):
        shared_vocabulary_size(
            word_tokenizer(words(30)), word_tokenizer(words(30)), student_rows, teacher_rows
        )


# --- cutting -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("student_rows", "teacher_rows", "size"),
    [(37, 41, 30), (41, 37, 37), (ROWS_UP_TO_3B, ROWS_FROM_7B, NUM_TOKENS)],
)
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("divergence", [forward_kl, reverse_kl, jensen_shannon])
def test_cut_heads_give_the_divergence_given_a_real_token(
    student_rows, teacher_rows, size, with_bias, divergence
):
    """The dense reference: both full softmaxes, each conditioned on "the token is a real one"."""
    generator = torch.Generator().manual_seed(0)
    positions, width = 5, 8

    def model(rows):
        hidden = torch.randn(positions, width, generator=generator, dtype=torch.float64)
        head = torch.randn(rows, width, generator=generator, dtype=torch.float64)
        bias = torch.randn(rows, generator=generator, dtype=torch.float64) if with_bias else None
        return hidden, head, bias

    def full_logp(hidden, head, bias):
        p = (hidden @ head.T + (0 if bias is None else bias)).softmax(-1)
        return (p[:, :size] / p[:, :size].sum(-1, keepdim=True)).log()

    def cut_logp(hidden, head, bias):
        return torch.nn.functional.linear(hidden, *cut_head(head, bias, size)).log_softmax(-1)

    student, teacher = model(student_rows), model(teacher_rows)
    expected = divergence(full_logp(*teacher), full_logp(*student))
    torch.testing.assert_close(divergence(cut_logp(*teacher), cut_logp(*student)), expected)


def test_padding_with_zero_logits_would_give_another_divergence():
    # What the cut avoids: exp(0) is mass: a student that equals its teacher would seem to differ.
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(30, generator=generator, dtype=torch.float64)
    padded = torch.cat([logits, torch.zeros(7, dtype=torch.float64)]).log_softmax(-1)
    cut = logits.log_softmax(-1)
    assert forward_kl(cut, cut) == 0
    assert forward_kl(torch.cat([cut, torch.full((7,), -torch.inf)]), padded) > 0.1


@pytest.mark.parametrize(
    ("rows", "size"), [(37, 30), (ROWS_UP_TO_3B, NUM_TOKENS), (ROWS_FROM_7B, NUM_TOKENS)]
)
def test_a_cut_head_is_a_view_and_padding_gets_no_gradient(rows, size):
    generator = torch.Generator().manual_seed(0)
    head = torch.randn(rows, 8, generator=generator, requires_grad=True)
    bias = torch.randn(rows, generator=generator, requires_grad=True)
    kept_head, kept_bias = cut_head(head, bias, size)
    assert kept_head.shape == (size, 8)
    assert kept_bias.shape == (size,)
    assert kept_head.data_ptr() == head.data_ptr()
    assert kept_bias.data_ptr() == bias.data_ptr()

    hidden = torch.randn(5, 8, generator=generator)
    teacher_logp = torch.randn(5, size, generator=generator).log_softmax(-1)
    student_logp = torch.nn.functional.linear(hidden, kept_head, kept_bias).log_softmax(-1)
    forward_kl(teacher_logp, student_logp).sum().backward()
    for grad in (head.grad, bias.grad):
        assert grad[:size].abs().amin() > 0
        assert torch.equal(grad[size:], torch.zeros_like(grad[size:]))


@pytest.mark.parametrize(("head_rows", "bias_rows", "name"), [(29, 41, "head"), (37, 29, "bias")])
def test_cutting_below_what_is_there_is_refused(head_rows, bias_rows, name):
    with pytest.raises(ValueError, match=f"cannot keep 30 rows of a {name} that has 29"):
        cut_head(torch.zeros(head_rows, 2), torch.zeros(bias_rows), 30)
