"""Messages as people write them (OpenAI's, ShareGPT's, those of tools) -> one form, that of chat templates."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tunewise.errors import UserError

ROLES = {
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "bot", "model", "chatgpt", "function_call"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("tool", "observation", "function"), "tool"),
}
"""A role as it is spelled -> what chat templates call it. A function_call is an assistant's turn that calls tools."""


@dataclass(frozen=True)
class Message:
    """One turn. `trained` only for the assistant's; each of `tool_calls` is {type, function: {name, arguments}}."""

    role: str
    content: str
    trained: bool
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    name: str = ""
    """Of a tool's turn: the tool that answers."""
    reasoning: str = ""
    """What the assistant thought before it answered."""

    def plain(self) -> dict[str, Any]:
        """The message as a chat template reads it, without what it does not have."""
        beside = {"tool_calls": list(self.tool_calls), "name": self.name, "reasoning_content": self.reasoning}
        return {"role": self.role, "content": self.content, **{key: value for key, value in beside.items() if value}}


def read_messages(value: object) -> list[Message]:
    """Messages {role, content} or {from, value}, up to the assistant's last turn. UserError says what is not one.

    A content is text or a list of text items; `loss_weight: 0` (or `weight: 0`, `train: false`) leaves a turn
    untrained. An assistant may call tools, by `tool_calls` or as ShareGPT's role function_call does.
    """
    messages = all_messages(value)
    while messages and messages[-1].role != "assistant":
        messages.pop()
    if not any(message.trained for message in messages):
        raise UserError("no assistant's turn to be trained", "give it a last message with the role assistant")
    return messages


def all_messages(value: object) -> list[Message]:
    """The same with whatever turns follow the assistant's last; also of one message alone, or of JSON text of them."""
    found = as_messages(value)
    if not isinstance(found, list) or not found:
        raise UserError("no list of messages", 'write [{"role": "user", "content": "..."}, ...]')
    return [_message(item) for item in found]


def as_messages(value: object) -> object:
    """A list of messages where `value` is one, is one message, or is JSON text of either; otherwise `value`."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        value = json_of(value, value)
    return [value] if isinstance(value, Mapping) else value


def are_messages(value: object) -> bool:
    """Whether these are messages, by the first of them."""
    found = as_messages(value)
    first = found[0] if isinstance(found, list) and found else None
    return isinstance(first, Mapping) and bool({"role", "from"} & first.keys())


def tools_of(value: object) -> tuple[Mapping[str, Any], ...]:
    """Tools as chat templates read them: {type: function, function: {name, ...}}; () where there are none.

    A list of these, or of the functions alone, or JSON text of either. UserError for anything else.
    """
    found = json_of(value, value) if isinstance(value, str) else value
    if not found or (isinstance(found, str) and not found.strip()):
        return ()
    tools: list[Mapping[str, Any]] = []
    for tool in found if isinstance(found, list) else [found]:
        function = tool.get("function", tool) if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise UserError(f"a tool is {_short(tool)}, not an object with a name", 'write [{"name": "...", ...}, ...]')
        tools.append({"type": "function", "function": function})
    return tuple(tools)


def json_of(text: str, otherwise: object) -> object:
    """What this JSON text says; `otherwise` where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return otherwise


def _message(item: object) -> Message:
    if not isinstance(item, Mapping):
        raise UserError(f"a message is {_short(item)}, not an object", 'write {"role": "user", "content": "..."}')
    given = item.get("role", item.get("from"))
    role = ROLES.get(given) if isinstance(given, str) else None
    if role is None:
        raise UserError(f"the role {_short(given)} is not supported", f"known: {', '.join(ROLES)}")
    content, calls = item.get("content", item.get("value")), item.get("tool_calls") or item.get("function_call")
    if given == "function_call":
        content, calls = None, json_of(content, content) if isinstance(content, str) else content
        if not calls:
            raise UserError("a function_call calls nothing", 'write {"name": "...", "arguments": {...}}')
    tool_calls = _tool_calls(calls) if role == "assistant" and calls else ()
    text = "" if content is None and tool_calls else _text(content)
    weight = item.get("loss_weight", item.get("weight", 1))
    trained = (
        role == "assistant" and bool(text.strip() or tool_calls) and weight != 0 and item.get("train") is not False
    )
    name, reasoning = item.get("name"), item.get("reasoning_content", item.get("thinking"))
    return Message(
        role,
        text,
        trained,
        tool_calls,
        name if role == "tool" and isinstance(name, str) else "",
        reasoning if role == "assistant" and isinstance(reasoning, str) else "",
    )


def _tool_calls(calls: object) -> tuple[Mapping[str, Any], ...]:
    return tuple(_tool_call(call) for call in (calls if isinstance(calls, list) else [calls]))


def _tool_call(call: object) -> Mapping[str, Any]:
    """{type, id?, function: {name, arguments}}, the arguments an object, as templates write them out themselves."""
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(call, Mapping) or not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise UserError(
            f"a tool call is {_short(call)}, not an object with a name", 'write {"name": "...", "arguments": {...}}'
        )
    arguments = function.get("arguments", function.get("parameters"))
    if isinstance(arguments, str):
        arguments = json_of(arguments, arguments) if arguments.strip() else {}
    if not isinstance(arguments, Mapping | None):
        raise UserError(
            f"the arguments of a call of {function['name']} are {_short(arguments)}, not a JSON object",
            'write "arguments": {"name": value, ...}',
        )
    own = {"id": call["id"]} if isinstance(call.get("id"), str) else {}
    return {"type": "function", **own, "function": {"name": function["name"], "arguments": dict(arguments or {})}}


def _text(content: object) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(_item_text(item) for item in content)
    raise UserError(f"a message's content is {_short(content)}, not text", 'write "content": "..."')


def _item_text(item: object) -> str:
    if isinstance(item, Mapping) and item.get("type", "text") == "text":
        text = item.get("text", item.get("value"))
        if isinstance(text, str):
            return text
    kind = item.get("type") if isinstance(item, Mapping) else item
    raise UserError(f"a message holds {_short(kind)}, only text can be read", "leave out rows with images or sound")


def _short(value: object) -> str:
    told = repr(value)
    return told if len(told) <= 80 else f"{told[:77]}..."
