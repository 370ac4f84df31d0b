"""The row that one conversation becomes: to train on, to answer, or to test on.

A kind names the part of a conversation that is rendered (``used``), and makes its ``row`` from the
token ids. It is a value: with a tokenizer and conversations, it decides the rows to the bit.
"""

from collections import Counter
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any

from datasets import Features, List, Value

from kd_lab.data.messages import Conversation
from kd_lab.data.rendering import (
    ChatTemplate,
    Piece,
    Unusable,
    token_ids,
    training_chat_template,
)
from kd_lab.data.trained_turns import ControlTokens, Turns, question, read_turns, up_to_last_answer
from kd_lab.vocabulary import IGNORED

if TYPE_CHECKING:  # importing transformers takes seconds, and only its type is needed
    from transformers import PreTrainedTokenizerBase


IDS = List(Value("int32"))
TRAINING_ROW = Features({"input_ids": IDS, "labels": IDS, "prompt_length": Value("int32")})
QUESTION = {"prompt_ids": IDS, "reference": Value("string")}

NO_REFERENCE = "no answer to compare with"
CUT = "a row is cut at max_length"

Row = dict[str, Any]


@dataclass
class Made:
    """Rows, and counts of the conversations that were dropped or changed."""

    rows: list[Row] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)  # reason -> conversations
    noted: Counter[str] = field(default_factory=Counter)  # what was changed -> how often


@dataclass(frozen=True)
class TrainingRows:
    """A row of ``TRAINING_ROW`` a conversation, cut to ``max_length`` tokens.

    With ``prompts_suffice`` a conversation without an answer is a row too, for answers that are
    written during training. Nothing of it is trained, and its ``prompt_length`` is its length.
    """

    max_length: int | None = None
    prompts_suffice: bool = False

    def __post_init__(self) -> None:
        _check_length("max_length", self.max_length)

    def features(self, of: Features) -> Features:
        """The columns of the rows of conversations with the columns ``of``."""
        return TRAINING_ROW

    def used(self, turns: Turns) -> Turns:
        """The part that is rendered; raises Unusable where there is none."""
        if self.prompts_suffice and not any(turns.trained):
            return question(turns)
        return up_to_last_answer(turns)

    def row(self, turns: Turns, pieces: list[Piece], ids: list[list[int]]) -> Row:
        """The row; raises Unusable where ``max_length`` leaves none."""
        if any(piece.trained for piece in pieces):
            return training_row(pieces, ids, self.max_length)
        input_ids = [*chain(*ids)]
        if self.max_length is not None and len(input_ids) > self.max_length:
            raise Unusable(f"a prompt of more than max_length {self.max_length} tokens")
        labels = [IGNORED] * len(input_ids)
        return {"input_ids": input_ids, "labels": labels, "prompt_length": len(input_ids)}


@dataclass(frozen=True)
class Prompts:
    """A prompt a conversation: ``messages``, ``tools`` if any, and the columns of ``QUESTION``.

    The prompt is all before the last assistant turn; ``reference`` is that turn's content, or None.
    """

    max_prompt_length: int | None = None

    def __post_init__(self) -> None:
        _check_length("max_prompt_length", self.max_prompt_length)

    def features(self, of: Features) -> Features:
        """The columns of the rows of conversations with the columns ``of``."""
        return Features({**_conversation_columns(of), **QUESTION})

    def used(self, turns: Turns) -> Turns:
        """The part that is rendered; raises Unusable where there is none."""
        return question(turns)

    def row(self, turns: Turns, pieces: list[Piece], ids: list[list[int]]) -> Row:
        """The row; raises Unusable where it is longer than ``max_prompt_length``."""
        reference = turns.messages[-1]["content"] if turns.trained[-1] else None
        return {
            "messages": question(turns).messages,
            "tools": turns.tools,
            "prompt_ids": _prompt_ids(ids, self.max_prompt_length),
            "reference": reference,
        }


@dataclass(frozen=True)
class HeldOutRows:
    """The training row of a conversation that ends with an answer, and its prompt beside it.

    ``reference`` is the answer as text; with tool calls it is the chat template's text.
    """

    max_prompt_length: int
    max_length: int

    def __post_init__(self) -> None:
        _check_length("max_prompt_length", self.max_prompt_length)
        _check_length("max_length", self.max_length)

    def features(self, of: Features) -> Features:
        """The columns of the rows of conversations with the columns ``of``."""
        return Features({**_conversation_columns(of), **QUESTION, **TRAINING_ROW})

    def used(self, turns: Turns) -> Turns:
        """The part that is rendered; raises Unusable where there is none."""
        if not (turns.trained and turns.trained[-1]):
            raise Unusable(NO_REFERENCE)
        return turns

    def row(self, turns: Turns, pieces: list[Piece], ids: list[list[int]]) -> Row:
        """The row; raises Unusable where it is longer than one of the two lengths."""
        *before, last = turns.messages
        written = last["content"]
        if last.get("extra"):  # the last trained piece is words and the token that ends them
            written = pieces[-1].text.removesuffix(turns.end_token)
        return {
            "messages": before,
            "tools": turns.tools,
            "prompt_ids": _prompt_ids(ids[:-1], self.max_prompt_length),
            "reference": written,
            **training_row(pieces, ids, self.max_length),
        }


RowKind = TrainingRows | Prompts | HeldOutRows


class RowWriter:
    """A tokenizer with its chat template and control tokens: all that rows are written with."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        """Raises ValueError where the chat template does not fit; see ``training_chat_template``"""
        self.tokenizer = tokenizer
        self.template = ChatTemplate(tokenizer, training_chat_template(tokenizer))
        self.control = ControlTokens(tokenizer)

    def write(self, kind: RowKind, conversations: list[Conversation]) -> Made:
        """The rows of conversations, tokenised in one call."""
        made, rendered = Made(), []
        for conversation in conversations:
            try:
                turns = read_turns(conversation.messages, conversation.tools, self.control)
                used = kind.used(turns)
                pieces = self.template.pieces(used.messages, used.tools, used.trained, used.asks)
            except Unusable as reason:
                made.dropped[str(reason)] += 1
            else:
                rendered.append((turns, pieces))
        ids_of_all = token_ids([pieces for _, pieces in rendered], self.tokenizer)
        for (turns, pieces), ids in zip(rendered, ids_of_all, strict=True):
            try:
                row = kind.row(turns, pieces, ids)
            except Unusable as reason:
                made.dropped[str(reason)] += 1
                continue
            made.rows.append(row)
            made.noted.update(turns.noted)
            if "input_ids" in row and len(row["input_ids"]) < sum(map(len, ids)):
                made.noted[CUT] += 1
        return made


def training_row(pieces: list[Piece], ids: list[list[int]], max_length: int | None) -> Row:
    """The row of one conversation, cut to ``max_length`` and to its last trained token.

    Raises:
        Unusable: no trained token lies within ``max_length``.
    """
    input_ids: list[int] = []
    labels: list[int] = []
    prompt_length, end = None, 0
    for piece, piece_ids in zip(pieces, ids, strict=True):
        start = len(input_ids)
        if piece.trained and (max_length is None or start < max_length):
            prompt_length, end = start, start + len(piece_ids)
        input_ids += piece_ids
        labels += piece_ids if piece.trained else [IGNORED] * len(piece_ids)
    if prompt_length is None:
        raise Unusable(f"no trained token within max_length {max_length}")
    return {
        "input_ids": input_ids[:end][:max_length],
        "labels": labels[:end][:max_length],
        "prompt_length": prompt_length,
    }


def _prompt_ids(ids: list[list[int]], limit: int | None) -> list[int]:
    prompt_ids = [*chain(*ids)]
    if limit is not None and len(prompt_ids) > limit:
        raise Unusable(f"a prompt of more than max_prompt_length {limit} tokens")
    return prompt_ids


def _conversation_columns(of: Features) -> dict[str, Any]:
    return {name: of[name] for name in ("messages", "tools") if name in of}


def _check_length(name: str, length: int | None) -> None:
    if length is not None and length < 1:
        raise ValueError(f"{name} must be at least 1, not {length}")
