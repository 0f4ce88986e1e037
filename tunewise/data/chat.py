"""Chat messages, as rows spell them -> turns with a role, a content, and whether they are trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tunewise.errors import UserError

_ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}
_KNOWN = ("user", "assistant", "system")


@dataclass(frozen=True)
class Message:
    """One turn; `trained` only ever for the assistant's."""

    role: str
    content: str
    trained: bool

    def plain(self) -> dict[str, Any]:
        """The message as a chat template reads it."""
        return {"role": self.role, "content": self.content}


def read_messages(value: object) -> list[Message]:
    """Messages {role, content} or {from, value}, up to the assistant's last turn. UserError says what is not one.

    A content is text or a list of text items; `loss_weight: 0` (or `weight: 0`) leaves a turn untrained.
    """
    if not isinstance(value, list) or not value:
        raise UserError("no list of messages", 'write [{"role": "user", "content": "..."}, ...]')
    messages = [_message(item) for item in value]
    while messages and messages[-1].role != "assistant":
        messages.pop()
    if not any(message.trained for message in messages):
        raise UserError("no assistant's turn to be trained", "give it a last message with the role assistant")
    return messages


def _message(item: object) -> Message:
    if not isinstance(item, Mapping):
        raise UserError(f"a message is {item!r}, not an object", 'write {"role": "user", "content": "..."}')
    given = item.get("role", item.get("from"))
    role = _ROLES.get(str(given), str(given))
    if role not in _KNOWN:
        raise UserError(f"the role {given!r} is not supported", f"known: {', '.join([*_KNOWN, *_ROLES])}")
    content = _text(item.get("content", item.get("value")))
    weight = item.get("loss_weight", item.get("weight", 1))
    return Message(role, content, role == "assistant" and bool(content.strip()) and weight != 0)


def _text(content: object) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(_item_text(item) for item in content)
    raise UserError(f"a message's content is {content!r}, not text", 'write "content": "..."')


def _item_text(item: object) -> str:
    if isinstance(item, Mapping) and item.get("type", "text") == "text":
        text = item.get("text", item.get("value"))
        if isinstance(text, str):
            return text
    kind = item.get("type") if isinstance(item, Mapping) else item
    raise UserError(f"a message holds {kind!r}, only text can be read", "leave out rows with images or sound")
