"""The forms of a conversation in a file, and how each becomes a list of messages.

    messages                        {"messages": [{"role": "user", "content": "Hi"}, ...]}
    OpenAI's fine-tuning form       the same, with tool_calls, tools, weight, lists of text parts
    ShareGPT                        {"conversations": [{"from": "human", "value": "Hi"}, ...]}
    prompt and completion           {"prompt": "Hi", "completion": "Hello"}, or lists of messages
    instruction, input and output   {"instruction": "Translate", "input": "Hallo", "output": "Hi"}

The reader never silently drops a key that changes training. An unknown key of a message is an error
unless it is null. Other keys of a row are counted, and the reader names those it ignored.
"""

from collections import Counter
from collections.abc import Collection
from typing import Any

from kd_lab.data.message_forms import as_message, described, tool_schemas
from kd_lab.data.messages import Conversation, Message

MESSAGES = "messages"
SHAREGPT = "ShareGPT conversations"
PROMPT = "prompt and completion"
INSTRUCTION = "instruction, input and output"

# The key that tells a form, most telling first, and the other keys that the form reads.
FORMS: dict[str, tuple[str, tuple[str, ...]]] = {
    "messages": (MESSAGES, ()),
    "conversations": (SHAREGPT, ()),
    "conversation": (SHAREGPT, ()),
    "prompt": (PROMPT, ("completion", "response")),
    "instruction": (INSTRUCTION, ("input", "context", "output", "response", "history")),
}
SYSTEM = ("system", "system_prompt", "system_message")
TOOLS = ("tools", "functions")
CALLS = ("tool_calls", "function_call")
OF_EVERY_FORM = (*SYSTEM, *TOOLS)
FORM_KEYS = {*FORMS, *OF_EVERY_FORM, *(key for _, keys in FORMS.values() for key in keys)}

# Keys of a row that would change what is trained, and that KD Lab does not follow.
REFUSED = {
    **dict.fromkeys(
        ("image", "images", "video", "videos", "audio", "audios"), "KD Lab distils text"
    ),
    **dict.fromkeys(
        ("chosen", "rejected", "label"),
        "preferences are not distilled; keep the good answers alone",
    ),
    **dict.fromkeys(
        ("weight", "weights", "train", "trainable", "loss", "loss_mask", "mask"),
        "weights stand at messages, not at rows",
    ),
    **dict.fromkeys(
        ("documents", "chat_template_kwargs", "chat_template"),
        "rows are rendered by the tokenizer's chat template alone",
    ),
}
KNOWN = "; ".join(
    ('"messages"', '"conversations"', '"prompt" and "completion"', '"instruction" and "output"')
)


class FormReader:
    """Reads rows of any known form, and counts the keys that it took and ignored.

    Args:
        ignore_keys: unknown keys of rows and messages that it may ignore.
    """

    def __init__(self, ignore_keys: Collection[str] = ()) -> None:
        self.ignore_keys = frozenset(ignore_keys)
        self.taken: Counter[str] = Counter()  # form -> rows
        self.passed_over: Counter[str] = Counter()  # key of another form -> rows
        self.unused: Counter[str] = Counter()  # other key -> rows

    def read(self, row: Any) -> Conversation:
        """The messages of one row.

        Raises:
            ValueError: the row is no conversation, or has a key that KD Lab does not support; names
                it.
        """
        if not isinstance(row, dict):
            raise ValueError(f'expected {{"messages": [...]}}, found {described(row)}')
        row = {key: row[key] for key in row if key not in self.ignore_keys}
        key = next((key for key in FORMS if row.get(key) is not None), None)
        if key is None:
            key = next((key for key in FORMS if key in row), None)
        if key is None:
            found = ", ".join(map(repr, row)) or "none"
            raise ValueError(f"no form that is known: it has the keys {found}; known are {KNOWN}")
        form, others = FORMS[key]
        conversation = Conversation(
            _with_system(_read(key, row, self.ignore_keys), row), _tools(row)
        )
        self.taken[form] += 1
        for other, value in row.items():
            if other in (key, *others, *OF_EVERY_FORM) or value in (None, "", [], {}):
                continue
            if other in REFUSED:
                raise ValueError(f"the row has {other!r}: {REFUSED[other]}{_way_out(other)}")
            (self.passed_over if other in FORM_KEYS else self.unused)[other] += 1
        return conversation

    def notes(self) -> list[str]:
        """Notes for the user on all rows read, a sentence each."""
        notes = []
        if {*self.taken} - {MESSAGES}:
            taken = "; ".join(f"{form}: {rows:,} rows" for form, rows in self.taken.items())
            notes.append(f"took the form {taken}")
        if self.passed_over:
            forms = " and ".join(self.taken)
            notes.append(f"took {forms} and passed over {_counted(self.passed_over)}")
        if self.unused:
            notes.append(f"did not use the keys {_counted(self.unused)}")
        return notes


def without_filled_nulls(row: dict[str, Any]) -> dict[str, Any]:
    """A row of Parquet without the nulls of keys that only other rows' tools have."""

    def trim(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: trim(of) for key, of in value.items() if of is not None}
        return [trim(item) for item in value] if isinstance(value, list) else value

    trimmed = {**row, **{key: trim(row[key]) for key in TOOLS if row.get(key) is not None}}
    for key in ("messages", "conversations", "conversation", "prompt", "completion"):
        if isinstance(row.get(key), list):
            trimmed[key] = [
                {k: trim(v) if k in CALLS else v for k, v in turn.items()}
                if isinstance(turn, dict)
                else turn
                for turn in row[key]
            ]
    return trimmed


def _read(key: str, row: dict[str, Any], ignore_keys: Collection[str]) -> list[Message]:
    if key == "prompt":
        prompt = _spoken(row["prompt"], "prompt", "user", ignore_keys)
        answer = _one_of(("completion", "response"), row)
        if answer is None:
            return prompt
        return prompt + _spoken(row[answer], answer, "assistant", ignore_keys)
    if key == "instruction":
        return _instruction(row)
    if not isinstance(row[key], list):
        raise ValueError(f"{key} must be a list, not {described(row[key])}")
    return [as_message(turn, f"{key}[{i}]", ignore_keys) for i, turn in enumerate(row[key])]


def _one_of(keys: tuple[str, ...], row: dict[str, Any]) -> str | None:
    """The one key of several synonyms that a row fills.

    Raises:
        ValueError: it fills two with different values.
    """
    given = [key for key in keys if row.get(key) not in (None, "")]
    if len(given) > 1 and any(row[key] != row[given[0]] for key in given):
        raise ValueError(f"the row has {' and '.join(map(repr, given))}, which differ: keep one")
    return given[0] if given else None


def _spoken(value: Any, key: str, role: str, ignore_keys: Collection[str]) -> list[Message]:
    """A prompt or completion: a text by ``role``, or a list of messages."""
    if isinstance(value, list):
        return [as_message(turn, f"{key}[{i}]", ignore_keys) for i, turn in enumerate(value)]
    if not isinstance(value, str):
        raise ValueError(f"{key} must be a string or a list of messages, not {described(value)}")
    return [as_message({"role": role, "content": value}, key)]


def _instruction(row: dict[str, Any]) -> list[Message]:
    """Alpaca's form; ``history`` is LLaMA-Factory's list of earlier [question, answer] pairs."""
    messages = []
    if not isinstance(history := row.get("history") or [], list):
        raise ValueError(f"history must be a list, not {described(history)}")
    for i, pair in enumerate(history):
        if not isinstance(pair, list) or len(pair) != 2:
            raise ValueError(f"history[{i}] must be [question, answer], not {described(pair)}")
        for role, text in zip(("user", "assistant"), pair, strict=True):
            messages.append(as_message({"role": role, "content": text}, f"history[{i}]"))
    asked = ["instruction"]
    if (context := _one_of(("input", "context"), row)) is not None:
        asked.append(context)
    texts = [as_message({"role": "user", "content": row[key]}, key)["content"] for key in asked]
    messages.append({"role": "user", "content": "\n\n".join(texts)})
    if (answer := _one_of(("output", "response"), row)) is not None:
        messages.append(as_message({"role": "assistant", "content": row[answer]}, answer))
    return messages


def _with_system(messages: list[Message], row: dict[str, Any]) -> list[Message]:
    """The messages after the row's own system text, where it has one."""
    if (key := _one_of(SYSTEM, row)) is None:
        return messages
    first = as_message({"role": "system", "content": row[key]}, key)
    if messages and messages[0]["role"] == "system":
        if messages[0]["content"] == first["content"]:
            return messages
        raise ValueError(f"the row has {key!r} beside a first message of role system: keep one")
    return [first, *messages]


def _tools(row: dict[str, Any]) -> str | None:
    """The schemas of the tools that a row offers, as JSON text."""
    offered = [key for key in TOOLS if row.get(key) not in (None, "", [])]
    if len(offered) > 1:
        raise ValueError("the row has both 'tools' and 'functions': keep one")
    return tool_schemas(offered[0], row[offered[0]]) if offered else None


def _way_out(key: str) -> str:
    return f" (remove it, or give --ignore_keys {key} if it changes nothing)"


def _counted(keys: Counter[str]) -> str:
    return ", ".join(f"{key!r} ({rows:,} rows)" for key, rows in keys.items())
