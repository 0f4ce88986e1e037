"""Chat messages -> parts: the tokenizer's own chat template, rendered message by message, or a plain one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from tunewise.data.examples import Part
from tunewise.data.messages import Message
from tunewise.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLAIN = "Human: ... / Assistant: ..."
_PLAIN_NAMES = {"user": "Human:", "assistant": "Assistant:", "system": "System:", "tool": "Tool:"}


def parts_of(
    messages: Sequence[Message],
    tokenizer: PreTrainedTokenizerBase | None,
    tools: Sequence[Mapping[str, Any]] = (),
) -> tuple[Part, ...]:
    """The conversation as parts. Without a chat template of the tokenizer's own, the plain one is used."""
    if tokenizer is None or not tokenizer.chat_template:
        return _plain(messages, tools)
    turns = [message.plain() for message in messages]
    text = ""
    parts: list[Part] = []
    for index, message in enumerate(messages):
        if message.role == "assistant":
            # what a serving program will put before the answer, if the template has it in training too
            opened = _render(tokenizer, turns[:index], tools, opened=True)
            whole = _render(tokenizer, turns[: index + 1], tools)
            if whole.startswith(opened) and opened.startswith(text):
                parts.append(Part(opened[len(text) :], False))
                text = opened
        else:
            whole = _render(tokenizer, turns[: index + 1], tools)
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


def _plain(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> tuple[Part, ...]:
    parts = [Part(f"Tools: {_json([tool['function'] for tool in tools])}", False)] if tools else []
    opening = "\n" if tools else ""
    for message in messages:
        name = opening + _PLAIN_NAMES[message.role]
        calls = "\n".join(_json(call["function"]) for call in message.tool_calls)
        content = "\n".join(filter(None, (message.content, calls)))
        if message.trained:
            parts += [Part(name, False), Part(f" {content}", True)]
        else:
            parts.append(Part(f"{name} {content}", False))
        opening = "\n"
    return tuple(parts)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _render(
    tokenizer: PreTrainedTokenizerBase,
    turns: list[dict[str, Any]],
    tools: Sequence[Mapping[str, Any]],
    opened: bool = False,
) -> str:
    if not turns and not opened:
        return ""
    try:
        return str(
            tokenizer.apply_chat_template(
                turns, tools=[dict(tool) for tool in tools] or None, tokenize=False, add_generation_prompt=opened
            )
        )
    except TemplateError as error:
        roles = ", ".join(turn["role"] for turn in turns)
        raise UserError(
            f"the tokenizer's chat template refuses the turns {roles}: {error}", "leave out the turn it names"
        ) from None
