"""Messages: role, content, and the other fields of a message.

Most messages are ``{"role": "user", "content": "Hello"}`` and nothing more. Two fields exist only
in data that needs them, so plain conversations stay plain:

    trained    False: an answer that is context and not learnt (``"weight": 0`` in OpenAI's form)
    extra      JSON text of what the chat template renders beside the content: ``tool_calls``,
               ``reasoning_content``, ``name``, ``tool_call_id``

A conversation is a row of the column ``messages``. A row that offers tools also has the column
``tools``: JSON text of their schemas, for the chat template.
"""

import json
import unicodedata
from collections.abc import Iterable
from typing import Any, NamedTuple, NotRequired, TypedDict

ROLES = ("system", "user", "assistant", "tool")


class Message(TypedDict):
    """One message of a conversation."""

    role: str
    content: str
    trained: NotRequired[bool | None]
    extra: NotRequired[str | None]


class Conversation(NamedTuple):
    """A row of a data set: its messages, and the tools that it offers."""

    messages: list[Message]
    tools: str | None = None  # JSON text of the tools' schemas


def is_trained(message: Message) -> bool:
    """Whether a student learns this message: an answer that is not marked as context."""
    return message["role"] == "assistant" and message.get("trained") is not False


def template_message(message: Message) -> dict[str, Any]:
    """The message as a chat template takes it: role, content, and the keys of ``extra``."""
    extra = message.get("extra")
    plain = {"role": message["role"], "content": message["content"]}
    return plain | json.loads(extra) if extra else plain


def json_row(messages: list[Message], tools: str | None = None) -> dict[str, Any]:
    """A conversation as a JSON object in OpenAI's fine-tuning form, which kd-lab can read."""
    turns = []
    for message in messages:
        turn = template_message(message)
        if message.get("trained") is False:
            turn["weight"] = 0
        turns.append(turn)
    return {"messages": turns} | ({"tools": json.loads(tools)} if tools else {})


def prompt_key(messages: Iterable[Message]) -> str:
    """The first prompt of a conversation, however it is written: all up to the answer to a user.

    Conversations with different keys also differ as wholes, so comparing keys is enough.
    """
    texts, asked = [], False
    for message in messages:
        if message["role"] == "assistant" and asked:
            break
        asked |= message["role"] == "user"
        texts.append(message["content"])
    return " ".join(unicodedata.normalize("NFKC", " ".join(texts)).casefold().split())
