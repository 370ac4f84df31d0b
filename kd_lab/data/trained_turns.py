"""Which answers of a conversation are trained, and what must not stand inside a message.

An answer is trained if it has words or a tool call, is not marked as context, and follows a user
turn. All other messages are context.

A control token of the tokenizer inside a message would be read as control. It could be an end token
in the middle of an answer, or a whole forged turn in a user's words. Such a conversation is left
out. An answer that already ends with the end token, as much data has it, gets no second one.
"""

import re
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from kd_lab.data.messages import is_trained
from kd_lab.data.rendering import Unusable
from kd_lab.data.template_messages import template_messages, tool_schemas

if TYPE_CHECKING:  # importing transformers takes seconds, and only its type is needed
    from transformers import PreTrainedTokenizerBase

    from kd_lab.data.messages import Message

EMPTY = "an empty answer is not trained"
ENDED = "an answer already ends with the end token, which is written once"
NO_ANSWER = "no assistant turn"
UNASKED = "an answer before any user turn is context, not trained"


class Turns(NamedTuple):
    """A conversation, ready to be rendered."""

    messages: list["Message"]
    tools: str | None
    trained: list[bool]  # of each message
    noted: Counter[str]  # what was changed or is not trained -> how often
    end_token: str  # that ends an answer
    asks: bool = False  # whether an answer is to come


class ControlTokens:
    """The special tokens of a tokenizer, and a search for them in messages.

    Tokens that are added but not special, such as Qwen's ``<tool_call>``, are no control tokens.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        added = tokenizer.added_tokens_decoder.values()
        special = {token.content for token in added if token.special}
        special |= {str(token) for token in tokenizer.all_special_tokens}
        longest_first = sorted(special - {""}, key=lambda token: (-len(token), token))
        self.anywhere = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        self.end = str(tokenizer.eos_token)
        self.ends = re.compile(rf"(?:{re.escape(self.end)}\s*)+\Z")

    def without_end(self, content: str) -> str:
        """An answer without end tokens at its end, and the white space after them."""
        return self.ends.sub("", content) if self.end in content else content

    def check(self, text: str, where: str) -> None:
        """Refuse a text with a control token.

        Raises:
            Unusable: names the token and ``where`` it is.
        """
        if found := self.anywhere.search(text):
            raise Unusable(f"the control token {found[0]} inside {where}")


def read_turns(messages: list["Message"], tools: str | None, control: ControlTokens) -> Turns:
    """The conversation with one end to each answer, and which answers are trained.

    Raises:
        Unusable: a control token stands inside a message or a tool.
    """
    noted: Counter[str] = Counter()
    kept: list[Message] = []
    trained: list[bool] = []
    asked = False
    for message in messages:
        role, content, extra = message["role"], message["content"], message.get("extra")
        asked = asked or role == "user"
        if role == "assistant":
            shorter = control.without_end(content)
            if shorter != content:
                noted[ENDED] += 1
                message, content = {**message, "content": shorter}, shorter
        control.check(content, f"a message of the {role}")
        calls = False
        if extra:
            [rendered] = template_messages([message])
            control.check(_strings(rendered), f"a message of the {role}")
            calls = bool(rendered.get("tool_calls"))
        learnt = is_trained(message)
        if learnt and not (calls or content.strip()):
            noted[EMPTY] += 1
            learnt = False
        elif learnt and not asked:
            noted[UNASKED] += 1
            learnt = False
        kept.append(message)
        trained.append(learnt)
    if tools:
        control.check(_strings(tool_schemas(tools)), "a tool")
    return Turns(kept, tools, trained, noted, control.end)


def up_to_last_answer(turns: Turns) -> Turns:
    """The trained part of a conversation: all up to the last answer that is trained.

    Raises:
        Unusable: no answer is trained; says why.
    """
    if not any(turns.trained):
        raise Unusable(_nothing_trained(turns))
    end = len(turns.trained) - turns.trained[::-1].index(True)
    return turns._replace(messages=turns.messages[:end], trained=turns.trained[:end])


def question(turns: Turns) -> Turns:
    """All before the last assistant turn, or the whole conversation if another spoke last.

    Raises:
        Unusable: no user speaks in it.
    """
    end = len(turns.messages)
    if end and turns.messages[-1]["role"] == "assistant":
        end -= 1
    if not any(message["role"] == "user" for message in turns.messages[:end]):
        raise Unusable("no user turn")
    return turns._replace(messages=turns.messages[:end], trained=turns.trained[:end], asks=True)


def _nothing_trained(turns: Turns) -> str:
    roles = [message["role"] for message in turns.messages]
    if "user" not in roles:
        return "no user turn"
    if "assistant" not in roles[roles.index("user") :]:
        return NO_ANSWER if "assistant" not in roles else "no assistant turn after a user turn"
    if turns.noted[EMPTY]:
        return "an empty answer, and no other to train"
    return "only answers that are marked as context"


def _strings(value: object) -> str:
    """All strings in a value, one a line. (JSON would escape characters that we search for.)"""
    if isinstance(value, dict):
        return "\n".join(_strings(part) for pair in value.items() for part in pair)
    if isinstance(value, list):
        return "\n".join(map(_strings, value))
    return value if isinstance(value, str) else ""
