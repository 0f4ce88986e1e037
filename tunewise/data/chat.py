"""Chat messages -> parts: the tokenizer's own chat template, rendered message by message, or a plain one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jinja2 import TemplateError

from tunewise.data.examples import Part
from tunewise.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLAIN = "Human: ... / Assistant: ..."
_ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}
_PLAIN_NAMES = {"user": "Human:", "assistant": "Assistant:", "system": "System:"}


@dataclass(frozen=True)
class Message:
    """One turn; `trained` only ever for the assistant's."""

    role: str
    content: str
    trained: bool


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


def parts_of(messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase | None) -> tuple[Part, ...]:
    """The conversation as parts. Without a chat template of the tokenizer's own, the plain one is used."""
    if tokenizer is None or not tokenizer.chat_template:
        return _plain(messages)
    turns = [{"role": message.role, "content": message.content} for message in messages]
    text = ""
    parts: list[Part] = []
    for index, message in enumerate(messages):
        if message.role == "assistant":
            # what a serving program will put before the answer, if the template has it in training too
            opened = _render(tokenizer, turns[:index], opened=True)
            whole = _render(tokenizer, turns[: index + 1])
            if whole.startswith(opened) and opened.startswith(text):
                parts.append(Part(opened[len(text) :], False))
                text = opened
        else:
            whole = _render(tokenizer, turns[: index + 1])
        if not whole.startswith(text):
            raise UserError(
                f"the tokenizer's chat template changes earlier turns when turn {index + 1} is added",
                "which part is the answer cannot be told then: use prompt and completion columns, one turn a row",
            )
        piece = whole[len(text) :]
        text = whole
        if index == len(messages) - 1:
            # many templates put a line feed behind the end token; the answer ends with the token
            end = str(tokenizer.eos_token or "")
            piece = piece.rstrip() if end and piece.rstrip().endswith(end) else piece
        parts.append(Part(piece, message.trained))
    return tuple(part for part in parts if part.text)


def _plain(messages: Sequence[Message]) -> tuple[Part, ...]:
    parts: list[Part] = []
    opening = ""
    for message in messages:
        name = opening + _PLAIN_NAMES[message.role]
        if message.trained:
            parts += [Part(name, False), Part(f" {message.content}", True)]
        else:
            parts.append(Part(f"{name} {message.content}", False))
        opening = "\n"
    return tuple(parts)


def _render(tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]], opened: bool = False) -> str:
    if not turns and not opened:
        return ""
    try:
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=opened))
    except TemplateError as error:
        roles = ", ".join(turn["role"] for turn in turns)
        raise UserError(
            f"the tokenizer's chat template refuses the turns {roles}: {error}", "leave out the turn it names"
        ) from None


def _message(item: object) -> Message:
    if not isinstance(item, Mapping):
        raise UserError(f"a message is {item!r}, not an object", 'write {"role": "user", "content": "..."}')
    given = item.get("role", item.get("from"))
    role = _ROLES.get(str(given), str(given))
    if role not in _PLAIN_NAMES:
        raise UserError(f"the role {given!r} is not supported", f"known: {', '.join([*_PLAIN_NAMES, *_ROLES])}")
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
