"""Messages in the form that chat templates take, and marks that show what a template leaves out.

A template may leave out a part: Llama 3.1's leaves out the words beside a tool call, and few write
``reasoning_content``. To find the written parts, we render the same conversation with a mark in the
place of each part. We then look which marks come out.
"""

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from kd_lab.data.messages import template_message

if TYPE_CHECKING:
    from kd_lab.data.messages import Message

# Parts of a message that name it or tie it to another: a template loses no words by leaving them.
NAMES = ("name", "tool_call_id")


class Marked(NamedTuple):
    """A conversation with a mark in the place of each part that a template ought to write."""

    messages: list[dict[str, Any]]
    schemas: list[Any] | None
    marks: dict[str, str]  # mark -> what it stands for


def template_messages(
    messages: Sequence["Message"], arguments_as_text: bool = False
) -> list[dict[str, Any]]:
    """The messages with the keys of ``extra``; the arguments of tool calls as objects, or as JSON.

    OpenAI's form has the arguments as JSON text. A template that writes them as JSON would put that
    text between quotation marks.
    """
    taken = [template_message(message) for message in messages]
    for message in taken:
        for call in message.get("tool_calls") or []:
            function = _function(call)
            arguments = function.get("arguments")
            if arguments_as_text and isinstance(arguments, dict):
                function["arguments"] = json.dumps(arguments, ensure_ascii=False)
            elif not arguments_as_text and isinstance(arguments, str):
                function["arguments"] = _parsed(arguments)
    return taken


def tool_schemas(tools: str | None) -> list[Any] | None:
    """The schemas of a row's tools; None where it offers none."""
    return (json.loads(tools) or None) if tools else None


def marked(messages: list[dict[str, Any]], schemas: list[Any] | None) -> Marked:
    """The conversation with marks: in contents, thoughts, tool calls and the names of tools."""
    marks: dict[str, str] = {}

    def mark(what: str) -> str:
        name = f"mark{len(marks)}mark"
        marks[name] = what
        return name

    marked_messages = []
    for message in messages:
        role, copy = message["role"], dict(message)
        if copy["content"].strip():
            beside = " beside a tool call" if copy.get("tool_calls") else ""
            copy["content"] = mark(f"the content of a message of the {role}{beside}")
        for key, value in message.items():
            if key in ("role", "content", *NAMES) or not value:
                continue
            if key == "tool_calls":
                copy[key] = [_marked_call(call, mark) for call in value]
            elif isinstance(value, str | list | dict):
                copy[key] = mark(f"{key} in a message of the {role}")
        marked_messages.append(copy)
    marked_schemas = None
    if schemas is not None:
        marked_schemas = [_with_function(tool, {"name": mark("its tools")}) for tool in schemas]
    return Marked(marked_messages, marked_schemas, marks)


def _marked_call(call: Any, mark: Callable[[str], str]) -> Any:
    what = "a tool call"
    changes: dict[str, Any] = {"name": mark(what)}
    arguments = _function(call).get("arguments")
    if isinstance(arguments, dict) and arguments:
        changes["arguments"] = {next(iter(arguments)): mark(what)}
    elif isinstance(arguments, str) and arguments.strip():
        changes["arguments"] = json.dumps({"argument": mark(what)})
    return _with_function(call, changes)


def _function(call: Any) -> dict[str, Any]:
    """The name and arguments of a tool call or tool, in OpenAI's form or in the bare one."""
    if not isinstance(call, dict):
        return {}
    inner = call.get("function")
    return inner if isinstance(inner, dict) else call


def _with_function(call: Any, changes: dict[str, Any]) -> Any:
    if not isinstance(call, dict):
        return call
    if isinstance(call.get("function"), dict):
        return {**call, "function": {**call["function"], **changes}}
    return {**call, **changes}


def _parsed(arguments: str) -> Any:
    """The object of a JSON text; a text of anything else stays as it is."""
    try:
        parsed = json.loads(arguments)
    except ValueError:
        return arguments
    return parsed if isinstance(parsed, dict) else arguments
