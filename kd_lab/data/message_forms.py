"""One message in any known spelling, and its standard form: role, content, and extra fields.

    {"role": "user", "content": "Hi"}                          as it is
    {"from": "human", "value": "Hi"}                           ShareGPT's
    {"role": "assistant", "content": null, "tool_calls": [..]}  OpenAI's
    {"role": "assistant", "content": "Hi", "weight": 0}        context, not trained

Every function takes ``where``, such as ``messages[2]``, and names it in its errors.
"""

import json
from collections.abc import Collection
from typing import Any

from kd_lab.data.messages import ROLES, Message
from kd_lab.json_text import from_json

SYNONYMS = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(
        ("assistant", "gpt", "chatgpt", "bing", "bard", "claude", "model", "bot", "ai"), "assistant"
    ),
    **dict.fromkeys(
        ("tool", "function", "observation", "ipython", "tool_response", "function_response"), "tool"
    ),
}
CALLING = ("function_call", "tool_call")  # ShareGPT's roles of a turn that is a call, in JSON
WEIGHTS = ("weight", "train", "trainable", "training", "loss")  # 0 or false: context, not trained
THOUGHTS = ("reasoning_content", "reasoning", "thinking")
PASSED_ON = ("name", "tool_call_id")  # the chat template may write them
HARMLESS = ("id", "message_id", "timestamp")
OF_A_CALL = ("id", "type", "index", "function", "name", "arguments")
READ = ("role", "from", "content", "value", "tool_calls", "function_call", *WEIGHTS, *THOUGHTS)


def as_message(turn: Any, where: str, ignore_keys: Collection[str] = ()) -> Message:
    """The message of one turn.

    Raises:
        ValueError: it is no message, or has a key that KD Lab does not support; begins with
            ``where``.
    """
    if not isinstance(turn, dict):
        raise ValueError(f"{where} must be an object, not {described(turn)}")
    turn = {key: turn[key] for key in turn if key not in ignore_keys}
    said, text = _either(turn, "role", "from", where), _either(turn, "content", "value", where)
    role, calls = _role(turn[said], f"{where}.{said}"), _calls(turn, where)
    if isinstance(turn[said], str) and turn[said].lower() in CALLING:
        if calls:
            raise ValueError(f"{where} has tool calls beside a {text} that is one")
        calls, content = _calls_in_text(turn[text], f"{where}.{text}"), ""
    elif turn[text] is None and calls:
        content = ""
    else:
        content = _content(turn[text], f"{where}.{text}")
    message: Message = {"role": role, "content": content}
    extra = {key: turn[key] for key in PASSED_ON if turn.get(key) is not None}
    if calls:
        extra["tool_calls"] = calls
    if (thoughts := _thoughts(turn, where)) is not None:
        extra["reasoning_content"] = thoughts
    if (calls or thoughts) and role != "assistant":
        raise ValueError(f"{where} is of role {role}, and only assistants call tools and think")
    if extra:
        message["extra"] = _encodable(json.dumps(extra, ensure_ascii=False))
    if _is_context(turn, role, where):
        message["trained"] = False
    for key, value in turn.items():
        if key not in (*READ, *PASSED_ON, *HARMLESS) and value not in (None, "", [], {}):
            raise ValueError(
                f"{where} has {key!r}, which is not known: remove it, or give --ignore_keys {key} "
                "if it changes nothing"
            )
    return message


def tool_schemas(key: str, value: Any) -> str:
    """The tools of a row, as JSON text: from OpenAI's list, or from such a list in JSON text.

    Raises:
        ValueError: it is no list of objects; names the key.
    """
    if isinstance(value, str):
        try:
            value = from_json(value)
        except ValueError as error:
            raise ValueError(f"{key} must be a list, or one in JSON text: {error}") from error
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        raise ValueError(f"{key} must be a list of objects, not {described(value)}")
    if key == "functions":
        value = [{"type": "function", "function": tool} for tool in value]
    return _encodable(json.dumps(value, ensure_ascii=False))


def described(value: Any) -> str:
    """A JSON value in words: its kind, or the value itself if it is a number, true or false."""
    names = {dict: "an object", list: "a list", str: "a string", type(None): "null"}
    return names.get(type(value), f"{value!r}")


def _either(turn: dict[str, Any], key: str, synonym: str, where: str) -> str:
    """The one of two keys that a turn fills; content may be missing beside tool calls.

    Raises:
        ValueError: it has neither, or both with different meanings.
    """
    given = [name for name in (key, synonym) if name in turn]
    filled = [name for name in given if turn[name] is not None] or given
    roles = SYNONYMS if key == "role" else {}
    means = [roles.get(str(turn[name]).lower(), turn[name]) for name in filled]
    if means and means[0] != means[-1]:
        raise ValueError(f"{where} has {key!r} and {synonym!r}, which differ: keep one")
    if filled:
        return filled[0]
    if key == "content" and (turn.get("tool_calls") or turn.get("function_call")):
        turn[key] = None
        return key
    raise ValueError(f"{where} has no key {key!r}")


def _role(said: Any, where: str) -> str:
    if isinstance(said, str):
        if said.lower() in CALLING:
            return "assistant"
        if (role := SYNONYMS.get(said.lower())) is not None:
            return role
    raise ValueError(f"{where} is {said!r}, not {', '.join(ROLES)}")


def _content(value: Any, where: str) -> str:
    """The text of a message: a string, or a list of text parts joined."""
    if isinstance(value, list):
        parts = []
        for i, part in enumerate(value):
            kind = part.get("type") if isinstance(part, dict) else None
            if kind in ("text", "input_text", "output_text") and isinstance(part.get("text"), str):
                parts.append(part["text"])
            elif kind is not None:
                raise ValueError(f"{where}[{i}] is a part of type {kind}: KD Lab distils text")
            else:
                raise ValueError(
                    f"{where} must be a string, not a list (or a list of text parts, and [{i}] is "
                    f"{described(part)})"
                )
        value = "".join(parts)
    if not isinstance(value, str):
        raise ValueError(f"{where} must be a string, not {described(value)}")
    return _encodable(value)


def _encodable(text: str) -> str:
    text.encode()  # JSON can say half of a character; a UnicodeError says where
    return text


def _calls(turn: dict[str, Any], where: str) -> list[dict[str, Any]]:
    """The tool calls of a turn; their arguments are objects, as chat templates want them."""
    calls = turn.get("tool_calls")
    if turn.get("function_call") is not None:  # OpenAI's older form, of one call
        if calls:
            raise ValueError(f"{where} has both 'tool_calls' and 'function_call': keep one")
        calls = [{"type": "function", "function": turn["function_call"]}]
    if calls in (None, []):
        return []
    if not isinstance(calls, list):
        raise ValueError(f"{where}.tool_calls must be a list, not {described(calls)}")
    return [_call(call, f"{where}.tool_calls[{i}]") for i, call in enumerate(calls)]


def _call(call: Any, where: str) -> dict[str, Any]:
    if isinstance(call, dict) and "function" not in call and "name" in call:
        call = {"type": "function", "function": call}
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise ValueError(f"{where} must have a function with a name")
    for key, value in {**call, **function}.items():
        if key not in OF_A_CALL and value not in (None, "", [], {}):
            raise ValueError(
                f"{where} has {key!r}, which is not known: its keys are name, arguments"
            )
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = from_json(arguments or "{}")
        except ValueError as error:
            raise ValueError(f"{where}: its arguments are not JSON: {error}") from error
    if not isinstance(arguments, dict | None):
        raise ValueError(f"{where}: its arguments must be an object, not {described(arguments)}")
    named = {"name": function["name"], "arguments": arguments or {}}
    return {"type": "function", "function": named} | ({"id": call["id"]} if call.get("id") else {})


def _calls_in_text(text: Any, where: str) -> list[dict[str, Any]]:
    """The calls of a ShareGPT turn, whose value is a call or a list of them in JSON."""
    try:
        calls = from_json(text) if isinstance(text, str) else text
    except ValueError as error:
        raise ValueError(f"{where} must be a call in JSON text: {error}") from error
    return [
        _call(call, f"{where}[{i}]")
        for i, call in enumerate(calls if isinstance(calls, list) else [calls])
    ]


def _thoughts(turn: dict[str, Any], where: str) -> str | None:
    given = [key for key in THOUGHTS if turn.get(key) not in (None, "")]
    if not given:
        return None
    if len(given) > 1 or not isinstance(turn[given[0]], str):
        raise ValueError(f"{where}: {' and '.join(map(repr, given))} must be one string")
    return str(turn[given[0]])


def _is_context(turn: dict[str, Any], role: str, where: str) -> bool:
    """Whether a turn is marked as not to be trained."""
    context = False
    weights = {key: turn[key] for key in WEIGHTS if turn.get(key) is not None}
    for key, weight in weights.items():
        if weight not in (0, 1):
            raise ValueError(f"{where}.{key} must be 0 or 1 (or false or true), not {weight!r}")
        if weight and role != "assistant":
            raise ValueError(f"{where}.{key} is {weight!r}, but only answers are trained")
        context |= not weight and role == "assistant"
    if len({bool(weight) for weight in weights.values()}) > 1:
        raise ValueError(f"{where} has {' and '.join(map(repr, weights))}, which differ: keep one")
    return context
