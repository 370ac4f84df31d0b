r"""A conversation as its chat template writes it, cut where answers begin and end.

A conversation is rendered up to each border of a trained answer. The text between two borders is a
piece, and each piece is tokenised apart:

    <|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n    what a model is prompted with
    Hi there<|im_end|>                                          trained
    \n<|im_start|>user\nThanks<|im_end|>\n<|im_start|>assistant\n
    Any time<|im_end|>                                          trained

A conversation is ``Unusable``, with its reason, if the chat template refuses it or leaves out a
part of it.
"""

from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from jinja2 import TemplateError

from kd_lab.data.template_messages import marked, template_messages, tool_schemas

if TYPE_CHECKING:  # importing transformers takes seconds, and only its type is needed
    from transformers import PreTrainedTokenizerBase

    from kd_lab.data.messages import Message

PROBE = [
    {"role": "user", "content": "One?"},
    {"role": "assistant", "content": "Two."},
    {"role": "user", "content": "Three?"},
    {"role": "assistant", "content": "Four."},
]
LONGEST_REASON = 160  # characters of a chat template's own reason

# The errors of a template: its own refusals, and operations on missing values or other types.
REFUSALS = (TemplateError, TypeError, ValueError, LookupError, AttributeError)


class Piece(NamedTuple):
    """A stretch of a rendered conversation."""

    text: str
    trained: bool


class Unusable(ValueError):
    """A conversation is left out; the message is the reason, in words that others share."""


class RewrittenTurn(Unusable):
    """The chat template writes a turn differently once others follow it."""


class NoEnd(Unusable):
    """The chat template does not end an answer with the tokenizer's ``eos_token``."""

    def __init__(self, turn: str) -> None:
        super().__init__("the chat template does not end an answer of it with the eos_token")
        self.turn = turn


class ChatTemplate:
    """A chat template with its tokenizer; take the text from ``training_chat_template``."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", text: str) -> None:
        self.tokenizer = tokenizer
        self.text = text
        self._unwritten: dict[tuple[tuple[str, bool], ...], str | None] = {}

    def pieces(
        self,
        messages: Sequence["Message"],
        tools: str | None,
        trained: Sequence[bool],
        asks: bool,
    ) -> list[Piece]:
        """A rendered conversation, cut where its ``trained`` answers begin and end.

        It ends with the header of an answer to come if it ``asks``. Else its last message must be
        trained, and it ends there, without the line break after it.

        Raises:
            Unusable: the template refuses it, rewrites a turn, ends an answer otherwise than with
                the ``eos_token``, or leaves out a part.
        """
        schemas = tool_schemas(tools)
        try:
            return self._pieces(template_messages(messages), schemas, trained, asks)
        except Unusable as refused:
            if not isinstance(refused.__cause__, TypeError):
                raise
        # Most templates take a tool call's arguments as an object, and some as its JSON text.
        as_text = template_messages(messages, arguments_as_text=True)
        return self._pieces(as_text, schemas, trained, asks)

    def render(
        self, messages: Sequence[dict[str, Any]], schemas: list[Any] | None, header: bool
    ) -> str:
        """The text of messages in the form that templates take.

        Args:
            header: whether to end with the header of an answer to come.
        Raises:
            Unusable: the template refuses them.
        """
        try:
            rendered = self.tokenizer.apply_chat_template(
                list(messages),
                tools=schemas,
                chat_template=self.text,
                tokenize=False,
                add_generation_prompt=header,
            )
        except REFUSALS as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise Unusable(f"the chat template refuses it: {reason[:LONGEST_REASON]}") from error
        return str(rendered)

    def _pieces(
        self,
        messages: list[dict[str, Any]],
        schemas: list[Any] | None,
        trained: Sequence[bool],
        asks: bool,
    ) -> list[Piece]:
        whole = self.render(messages, schemas, header=asks)
        if what := self._what_is_unwritten(messages, schemas):
            raise Unusable(f"the chat template writes nothing of {what}")
        pieces, done = [], 0
        for i in range(len(messages)):
            if not trained[i]:
                continue
            before = self.render(messages[:i], schemas, header=True)
            is_end = i + 1 == len(messages) and not asks
            after = whole if is_end else self.render(messages[: i + 1], schemas, header=False)
            if not (whole.startswith(before) and whole.startswith(after)):
                raise RewrittenTurn(
                    "the chat template writes a turn differently once others follow it"
                )
            turn = after[len(before) :]
            words, end, rest = turn.rpartition(self.tokenizer.eos_token or "\n")
            if not self.tokenizer.eos_token or not end or rest.strip():
                raise NoEnd(turn)
            pieces += [Piece(whole[done : len(before)], False), Piece(words + end, True)]
            done = len(before) + len(words + end)
        if asks:
            pieces.append(Piece(whole[done:], False))
        return pieces

    def _what_is_unwritten(
        self, messages: list[dict[str, Any]], schemas: list[Any] | None
    ) -> str | None:
        """The parts lost in rendering, if any; cached by roles."""
        if schemas or any(message.keys() - {"role", "content"} for message in messages):
            return self._lost_marks(messages, schemas)
        shape = tuple((message["role"], bool(message["content"].strip())) for message in messages)
        if shape not in self._unwritten:
            self._unwritten[shape] = self._lost_marks(messages, schemas)
        return self._unwritten[shape]

    def _lost_marks(self, messages: list[dict[str, Any]], schemas: list[Any] | None) -> str | None:
        """What a mark in its place shows to be lost; ``header`` makes no difference to it."""
        with_marks = marked(messages, schemas)
        text = self.render(with_marks.messages, with_marks.schemas, header=False)
        return next((what for mark, what in with_marks.marks.items() if mark not in text), None)


def training_chat_template(tokenizer: "PreTrainedTokenizerBase") -> str:
    """The chat template to train with: the tokenizer's own, or TRL's training form of it.

    Some templates write a turn differently once others follow (Qwen3 drops its thoughts). A model
    would then train on text that it never sees when it answers. TRL has a training form for the
    well-known ones of these.

    Raises:
        ValueError: there is no chat template. It refuses a plain conversation. It rewrites turns,
            and TRL has no training form of it. It does not end an answer with the tokenizer's
            ``eos_token``, or has no header for an answer to come. Or the tokenizer splits a text
            differently in pieces.
    """
    if tokenizer.chat_template is None:
        raise ValueError(
            "the tokenizer has no chat template, as a base model's often has not: take that of the "
            "instruct model"
        )
    template = ChatTemplate(tokenizer, str(tokenizer.get_chat_template()))
    try:
        pieces = _probe(template)
    except RewrittenTurn as rewritten:
        from trl.chat_template_utils import get_training_chat_template  # takes seconds

        try:
            training_form = get_training_chat_template(tokenizer) or template.text
            template = ChatTemplate(tokenizer, training_form)
            pieces = _probe(template)
        except ValueError:  # TRL does not know it
            raise ValueError(
                f"{rewritten}, so training would differ from the prompts of generation: take "
                "a template that only adds"
            ) from rewritten
    header = pieces[1].text.partition("Two.")[0]
    prompts = {template.render(PROBE[:1], None, header=asked) for asked in (False, True)}
    special = [t.content for t in tokenizer.added_tokens_decoder.values() if t.special]
    if len(prompts) == 1 and any(token in header for token in special):
        raise ValueError(
            f"the chat template writes {header!r} before an answer and not at the end of a prompt: "
            "it must heed add_generation_prompt"
        )
    [ids] = token_ids([pieces], tokenizer)
    whole = tokenizer("".join(piece.text for piece in pieces), add_special_tokens=False)
    if [*chain(*ids)] != whole["input_ids"]:
        raise ValueError(
            "the tokenizer splits a text differently when it comes in pieces (as tokenizers that "
            "put a space before every text do), so prompts and answers cannot be told apart"
        )
    return template.text


def token_ids(
    rendered: list[list[Piece]], tokenizer: "PreTrainedTokenizerBase"
) -> list[list[list[int]]]:
    """The ids of each piece of each conversation, tokenised in one call."""
    texts = [piece.text for pieces in rendered for piece in pieces]
    if not texts:
        return []
    # verbose: rows longer than the model's context are cut later, which needs no warning.
    encoded = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)
    ids = iter(encoded["input_ids"])
    return [[next(ids) for _ in pieces] for pieces in rendered]


def _probe(template: ChatTemplate) -> list[Piece]:
    """The pieces of a plain conversation of two turns; raises if no run can use the template."""
    try:
        return template._pieces(PROBE, None, [False, True, False, True], asks=False)
    except NoEnd as error:
        eos_token = template.tokenizer.eos_token
        raise ValueError(
            f"the chat template ends an answer with {error.turn[-20:]!r}, which is not the "
            f"tokenizer's eos_token {eos_token!r}: set eos_token to the token that ends an answer, "
            "or a student never learns to stop"
        ) from error
    except RewrittenTurn:
        raise
    except Unusable as error:
        raise ValueError(f"a plain conversation of two turns: {error}") from error
