"""The vocabulary rows that a teacher's and a student's LM heads share; the ignored label.

An LM head often has more rows than its tokenizer has tokens, for the speed of round numbers.
Qwen2.5's tokenizer has 151,665 tokens; its LM heads have 151,936 rows up to 3B and 152,064 from 7B.
The rows above are padding. They hold no token, yet a softmax gives them probability, and the two
models have different numbers of them. Padding the shorter logits with zeros does not help: exp(0)
is mass too. So both LM heads are cut to the rows that hold a token in *both* models. The softmax
over those rows alone renormalises it:

    size = shared_vocabulary_size(student_tokenizer, teacher_tokenizer, 151_936, 152_064)  # 151,665
    student_head, student_bias = cut_head(student_head, student_bias, size)                # views
    teacher_head, teacher_bias = cut_head(teacher_head, teacher_bias, size)

Every label must then be below ``size``. The fused loss cuts both heads itself, given
``vocab_size=size``.
"""

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # importing either takes seconds, and only their types are needed
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

IGNORED = -100  # the label of a token that is not trained

logger = logging.getLogger(__name__)


def check_same_tokenizer(
    student_tokenizer: "PreTrainedTokenizerBase", teacher_tokenizer: "PreTrainedTokenizerBase"
) -> int:
    """Check that an id means the same token to both models, if both have a token for it.

    One tokenizer may have more ids than the other (Qwen3 is Qwen2.5 with four tokens more). A
    warning names the tokens that are left out, since their probability is left out too. An id
    without a token is fine if neither model has one: these rows are padding inside the LM head, and
    are kept. The splitting of text into tokens is not compared: one tokenizer writes the ids that
    both models read. The token that ends an answer is compared, since each model stops at its own
    ``eos_token``.

    Returns:
        one more than the last id that has a token in both.
    Raises:
        ValueError: an id has two different tokens, or a token in one model only although the other
            has higher ids (names the first such id, with both tokens). Or the two share no id, or
            their ``eos_token`` differs.
    """
    student, teacher = _tokens_by_id(student_tokenizer), _tokens_by_id(teacher_tokenizer)
    shared_size = 1 + max(student.keys() & teacher.keys(), default=-1)
    differing = {i for i, _ in student.items() ^ teacher.items()}
    first = min(differing, default=shared_size)
    if first < shared_size or shared_size == 0:
        raise ValueError(
            f"the tokenizers differ: id {first} is {_name(student, first)} to the student and "
            f"{_name(teacher, first)} to the teacher ({len(differing):,} ids differ); distillation "
            "compares the two models id by id, so take a teacher and a student of one tokenizer"
        )
    if student_tokenizer.eos_token_id != teacher_tokenizer.eos_token_id:
        raise ValueError(
            "the tokenizers end an answer differently: the student's eos_token is "
            f"{student_tokenizer.eos_token!r}, the teacher's {teacher_tokenizer.eos_token!r}; set "
            "both to the token with which the chat template ends an answer"
        )
    for whose, tokens in (("student", student), ("teacher", teacher)):
        extra = [tokens[i] for i in sorted(differing) if i in tokens]
        if extra:
            logger.warning(
                "the %s's tokenizer goes on after id %d, where the other ends; left out: %s",
                whose,
                shared_size - 1,
                ", ".join(map(repr, extra[:5])) + (f" ... ({len(extra):,})" if extra[5:] else ""),
            )
    return shared_size


def shared_vocabulary_size(
    student_tokenizer: "PreTrainedTokenizerBase",
    teacher_tokenizer: "PreTrainedTokenizerBase",
    student_rows: int,
    teacher_rows: int,
) -> int:
    """How many rows, from the first, to keep of both LM heads; the size of the softmax.

    Args:
        student_rows, teacher_rows: rows of the two LM heads: ``config.vocab_size``, or
            ``head.shape[0]`` if the head is not sharded.
    Raises:
        ValueError: the tokenizers differ (see ``check_same_tokenizer``), or an LM head has no row
            for the last token of its own tokenizer.
    """
    shared_size = check_same_tokenizer(student_tokenizer, teacher_tokenizer)
    for whose, tokenizer, rows in (
        ("student", student_tokenizer, student_rows),
        ("teacher", teacher_tokenizer, teacher_rows),
    ):
        token, last = max(tokenizer.get_vocab().items(), key=lambda item: item[1])
        if last >= rows:
            raise ValueError(
                f"the {whose}'s head has {rows:,} rows, so none for {token!r}, id {last} of its "
                f"tokenizer: call model.resize_token_embeddings({last + 1})"
            )
    return shared_size


def cut_head(head: "Tensor", bias: "Tensor | None", size: int) -> "tuple[Tensor, Tensor | None]":
    """The first ``size`` rows of an LM head: views of the same storage, nothing is copied.

    Backward through the view gives the rows above a gradient of exactly 0.

    Args:
        head: [V, H]; bias: [V] or None.
        size: how many rows to keep, from ``shared_vocabulary_size``.
    Returns:
        head [size, H] and bias [size] or None.
    Raises:
        ValueError: head or bias has fewer rows than ``size``.
    """
    for name, tensor in (("head", head), ("bias", bias)):
        if tensor is not None and len(tensor) < size:
            raise ValueError(f"cannot keep {size:,} rows of a {name} that has {len(tensor):,}")
    return head[:size], None if bias is None else bias[:size]


def _tokens_by_id(tokenizer: "PreTrainedTokenizerBase") -> dict[int, str]:
    return {i: token for token, i in tokenizer.get_vocab().items()}


def _name(tokens: dict[int, str], i: int) -> str:
    return repr(tokens[i]) if i in tokens else "no token"
