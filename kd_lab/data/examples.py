r"""Conversations in, token ids and labels out: which tokens a student is trained on.

Trained are the assistant's words of every turn and the token that ends them; never the system's or
the user's turns, the headers, the line break after an answer, or padding. So that this holds to the
token under any chat template, a conversation is rendered up to each border, and what lies between
two borders is tokenised apart:

    <|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n    what a model is prompted with
    Hi there<|im_end|>                                          trained
    \n<|im_start|>user\nThanks<|im_end|>\n<|im_start|>assistant\n
    Any time<|im_end|>                                          trained

No token straddles a border (an answer that begins with a line break would otherwise share one with
its header), so ``input_ids[:prompt_length]`` is exactly what generation starts from.
"""

import logging
from collections import Counter
from collections.abc import Callable
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
from datasets import Dataset, Features, List, Value
from jinja2 import TemplateError
from rich.console import Console
from rich.progress import track

from kd_lab.vocabulary import IGNORED

if TYPE_CHECKING:  # importing transformers takes seconds, and only its type is needed
    from transformers import PreTrainedTokenizerBase

    from kd_lab.data.messages import Message

logger = logging.getLogger(__name__)

BATCH = 1000  # conversations tokenised at a time

IDS = List(Value("int32"))
MESSAGES = List({"role": Value("string"), "content": Value("string")})
TRAINING_ROW = Features({"input_ids": IDS, "labels": IDS, "prompt_length": Value("int32")})
PROMPT_ROW = Features({"messages": MESSAGES, "prompt_ids": IDS, "reference": Value("string")})

PROBE = [
    {"role": "user", "content": "One?"},
    {"role": "assistant", "content": "Two."},
    {"role": "user", "content": "Three?"},
    {"role": "assistant", "content": "Four."},
]


class Examples(NamedTuple):
    """Rows, and how many conversations gave none."""

    rows: Dataset
    dropped: dict[str, int]  # reason -> conversations


class Piece(NamedTuple):
    """A stretch of a rendered conversation."""

    text: str
    trained: bool


class RewrittenTurn(ValueError):
    """The chat template writes a turn differently once others follow it."""


def training_examples(
    conversations: Dataset, tokenizer: "PreTrainedTokenizerBase", max_length: int | None = None
) -> Examples:
    """One training row per conversation (a row of the column ``messages``).

    Columns: ``input_ids`` and ``labels`` (``labels[i]`` is ``input_ids[i]`` where it is trained and
    -100 elsewhere; not shifted), and ``prompt_length``, the index of the first trained token of the
    last assistant turn: ``input_ids[:prompt_length]`` prompts a model to write that turn anew.

    A row ends with its last trained token, and is cut to ``max_length`` tokens. Dropped and counted
    are conversations of which the cut leaves no trained token, without an assistant turn, with an
    empty message, or whose turns do not alternate (perhaps a system message, then user and
    assistant in turn).

    Raises:
        ValueError: the chat template does not fit (see ``training_chat_template``) or refuses a
            conversation; or no row is left.
    """
    if max_length is not None and max_length < 1:
        raise ValueError(f"max_length must be at least 1, not {max_length}")
    template = training_chat_template(tokenizer)

    def tokenize(batch: list[list["Message"]], dropped: Counter[str]) -> dict[str, list[Any]]:
        usable = []
        for messages in batch:
            if problem := _problem(messages, answered=True):
                dropped[problem] += 1
            else:
                usable.append(_pieces(messages, tokenizer, template))
        rows: dict[str, list[Any]] = {name: [] for name in TRAINING_ROW}
        for pieces, ids in zip(usable, _token_ids(usable, tokenizer), strict=True):
            if (row := _training_row(pieces, ids, max_length)) is None:
                dropped[f"no trained token within max_length {max_length}"] += 1
            else:
                for name, value in row.items():
                    rows[name].append(value)
        return rows

    return _examples(conversations, tokenize, TRAINING_ROW)


def generation_prompts(
    conversations: Dataset,
    tokenizer: "PreTrainedTokenizerBase",
    max_prompt_length: int | None = None,
) -> Examples:
    """One prompt per conversation: all that comes before its last assistant turn.

    Columns: ``messages`` (those of the prompt), ``prompt_ids`` (with the header of the answer to
    come: the same ids as ``input_ids[:prompt_length]`` of the training row) and ``reference`` (the
    answer that was left out; None where the conversation ends with the user).

    Dropped and counted are unusable conversations, as in ``training_examples``, and those whose
    prompt has more than ``max_prompt_length`` tokens: cut short, it would ask something else.

    Raises:
        ValueError: as ``training_examples``.
    """
    if max_prompt_length is not None and max_prompt_length < 1:
        raise ValueError(f"max_prompt_length must be at least 1, not {max_prompt_length}")
    template = training_chat_template(tokenizer)

    def tokenize(batch: list[list["Message"]], dropped: Counter[str]) -> dict[str, list[Any]]:
        prompts, references = [], []
        for messages in batch:
            if problem := _problem(messages, answered=False):
                dropped[problem] += 1
                continue
            *before, last = messages
            is_answer = last["role"] == "assistant"
            prompts.append(before if is_answer else messages)
            references.append(last["content"] if is_answer else None)
        rendered = [_pieces(messages, tokenizer, template) for messages in prompts]
        rows: dict[str, list[Any]] = {name: [] for name in PROMPT_ROW}
        for messages, reference, ids in zip(
            prompts, references, _token_ids(rendered, tokenizer), strict=True
        ):
            prompt_ids = [*chain(*ids)]
            if max_prompt_length is not None and len(prompt_ids) > max_prompt_length:
                dropped[f"a prompt of more than max_prompt_length {max_prompt_length} tokens"] += 1
                continue
            rows["messages"].append(messages)
            rows["prompt_ids"].append(prompt_ids)
            rows["reference"].append(reference)
        return rows

    return _examples(conversations, tokenize, PROMPT_ROW)


def training_chat_template(tokenizer: "PreTrainedTokenizerBase") -> str:
    """The chat template to train with: the tokenizer's own, or TRL's training form of it.

    Some templates write a turn differently once others follow (Qwen3 drops its thoughts), so that a
    model would be trained on what it never sees when it answers. For the well-known ones of these,
    TRL has a form that does not.

    Raises:
        ValueError: there is no chat template; it rewrites turns and TRL has no training form of it;
            it does not end an answer with the tokenizer's ``eos_token``, or has no header for an
            answer to come; or the tokenizer splits a text differently when it comes in pieces.
    """
    if tokenizer.chat_template is None:
        raise ValueError(
            "the tokenizer has no chat template, as a base model's often has not: take that of the "
            "instruct model"
        )
    template = tokenizer.get_chat_template()
    try:
        pieces = _pieces(PROBE, tokenizer, template)
    except RewrittenTurn as rewritten:
        from trl.chat_template_utils import get_training_chat_template  # takes seconds

        try:
            template = get_training_chat_template(tokenizer) or template
        except ValueError:  # TRL does not know it
            raise rewritten from None
        pieces = _pieces(PROBE, tokenizer, template)
    header = pieces[1].text.partition("Two.")[0]
    prompts = {_render(PROBE[:1], tokenizer, template, asked) for asked in (False, True)}
    special = [t.content for t in tokenizer.added_tokens_decoder.values() if t.special]
    if len(prompts) == 1 and any(token in header for token in special):
        raise ValueError(
            f"the chat template writes {header!r} before an answer and not at the end of a prompt: "
            "it must heed add_generation_prompt"
        )
    [ids] = _token_ids([pieces], tokenizer)
    whole = tokenizer("".join(piece.text for piece in pieces), add_special_tokens=False)
    if [*chain(*ids)] != whole["input_ids"]:
        raise ValueError(
            "the tokenizer splits a text differently when it comes in pieces (as tokenizers that "
            "put a space before every text do), so prompts and answers cannot be told apart"
        )
    return template


def _problem(messages: list["Message"], answered: bool) -> str | None:
    """Why a conversation cannot be used, if so."""
    roles = [message["role"] for message in messages]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    if turns != [("user", "assistant")[i % 2] for i in range(len(turns))]:
        return "turns that do not alternate"
    if not turns:
        return "no user turn"
    if answered and len(turns) < 2:
        return "no assistant turn"
    if not all(m["content"].strip() for m in messages if m["role"] != "system"):
        return "an empty message"
    return None


def _pieces(
    messages: list["Message"], tokenizer: "PreTrainedTokenizerBase", template: str
) -> list[Piece]:
    """A rendered conversation, cut where answers begin and end.

    It ends with the header of an answer to come if the user spoke last, else where the last answer
    does, without the line break after it.
    """
    spoke_last = messages[-1]["role"]
    whole = _render(messages, tokenizer, template, header=spoke_last == "user")
    pieces, done = [], 0
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = _render(messages[:i], tokenizer, template, header=True)
        is_last = i + 1 == len(messages)
        after = whole if is_last else _render(messages[: i + 1], tokenizer, template, header=False)
        if not (whole.startswith(before) and whole.startswith(after)):
            raise RewrittenTurn(
                "the chat template writes a turn differently once others follow it, so what is "
                "trained would not be what a model is prompted with; take one that only adds"
            )
        turn = after[len(before) :]
        words, end, rest = turn.rpartition(tokenizer.eos_token or "\n")
        if not tokenizer.eos_token or not end or rest.strip():
            raise ValueError(
                f"the chat template ends an answer with {turn[-20:]!r}, which is not the "
                f"tokenizer's eos_token {tokenizer.eos_token!r}: set eos_token to the token that "
                "ends an answer, or a student never learns to stop"
            )
        pieces += [Piece(whole[done : len(before)], False), Piece(words + end, True)]
        done = len(before) + len(words + end)
    if spoke_last == "user":
        pieces.append(Piece(whole[done:], False))
    return pieces


def _render(
    messages: list["Message"], tokenizer: "PreTrainedTokenizerBase", template: str, header: bool
) -> str:
    try:
        rendered = tokenizer.apply_chat_template(
            messages, chat_template=template, tokenize=False, add_generation_prompt=header
        )
    except TemplateError as error:
        start = " | ".join(f"{m['role']}: {m['content']:.40}" for m in messages[:2])
        raise ValueError(f"the chat template refuses {start!r}: {error}") from error
    return str(rendered)


def _token_ids(
    rendered: list[list[Piece]], tokenizer: "PreTrainedTokenizerBase"
) -> list[list[list[int]]]:
    """The ids of each piece of each conversation, tokenised in one go."""
    texts = [piece.text for pieces in rendered for piece in pieces]
    if not texts:
        return []
    # verbose: rows longer than the model's context are cut later, which needs no warning.
    ids = iter(tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"])
    return [[next(ids) for _ in pieces] for pieces in rendered]


def _training_row(
    pieces: list[Piece], ids: list[list[int]], max_length: int | None
) -> dict[str, Any] | None:
    """The row of one conversation; None if no trained token lies within ``max_length``."""
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
        return None
    return {
        "input_ids": input_ids[:end][:max_length],
        "labels": labels[:end][:max_length],
        "prompt_length": prompt_length,
    }


def _examples(
    conversations: Dataset,
    tokenize: Callable[[list[list["Message"]], Counter[str]], dict[str, list[Any]]],
    features: Features,
) -> Examples:
    """The rows that ``tokenize`` makes of each batch; it counts what it leaves out."""
    dropped: Counter[str] = Counter()
    console = Console(stderr=True)
    starts = track(
        range(0, len(conversations), BATCH),
        "Tokenising",
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    # Not Dataset.map: it would keep a copy on disk, and find it again without counting.
    batches = [
        pa.table(
            tokenize(conversations[start : start + BATCH]["messages"], dropped),
            schema=features.arrow_schema,
        )
        for start in starts
    ]
    rows = Dataset(pa.concat_tables([features.arrow_schema.empty_table(), *batches]))
    reasons = "; ".join(f"{reason}: {count:,}" for reason, count in dropped.items())
    if not len(rows):
        raise ValueError(f"none of {len(conversations):,} conversations can be used ({reasons})")
    if dropped:
        left_out = f"{dropped.total():,} of {len(conversations):,}"
        logger.warning("left out %s conversations (%s)", left_out, reasons)
    return Examples(rows, dict(dropped))
