"""Which chat template a task is written by: the tokenizer's own, a named plain one, or a file; and what it writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunewise.data.sandbox import Refused, Sandboxed
from tunewise.errors import UserError, missing, unknown

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NAMED = Path(__file__).parent / "chat_templates"
PLAIN, OWN_NAME = "plain", "own"
OWN = "the tokenizer's own chat template"
SENTINEL = "\ue0f0\ue0f1\ue0f2"
"""Stands for a content where its place is looked for; nobody writes these characters."""

Turn = Mapping[str, Any]
"""A message as templates read it: role and content, and tool_calls or name where there are any."""


@dataclass(frozen=True)
class Around:
    """What a template writes around an answer: between the generation prompt and it, and behind it, of which `end` is
    the part up to the token that ends the turn, "" where there is no such token."""

    lead: str
    tail: str
    end: str
    goes_on: bool
    """Whether what is written begins with the generation prompt."""


@dataclass(frozen=True)
class ChatTemplate:
    """A template with the special tokens of the tokenizer it writes for."""

    name: str
    source: str
    with_tools: str = ""
    """Another source for conversations with tools, where the tokenizer has one."""
    special: Mapping[str, Any] = field(default_factory=dict)
    """bos_token, eos_token, ... as templates read them."""
    tokens: tuple[str, ...] = ()
    """The texts that are one token each, whatever stands around them."""

    def render(self, turns: Sequence[Turn], tools: Sequence[Turn] = (), *, opened: bool = False) -> str:
        """The conversation as text, `opened` with what a serving program puts before an answer.

        Raises Refused where the template does not want these turns.
        """
        return self._render(turns, tools, opened, self._in_items)

    def _render(self, turns: Sequence[Turn], tools: Sequence[Turn], opened: bool, in_items: bool) -> str:
        messages = [dict(turn) for turn in turns]
        if in_items:
            messages = [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in messages]
        variables = {"messages": messages, "tools": list(tools) or None, "documents": None}
        source = self.with_tools if tools and self.with_tools else self.source
        return _compiled(source, self.name).render({**self.special, **variables, "add_generation_prompt": opened})

    @cached_property
    def _in_items(self) -> bool:
        """Whether it reads contents as lists of items, as those of models that see images do, and passes over text."""
        return not self._shows(in_items=False) and self._shows(in_items=True)

    def _shows(self, *, in_items: bool) -> bool:
        try:
            return SENTINEL in self._render([{"role": "user", "content": SENTINEL}], (), False, in_items)
        except Refused:
            return False

    def end_in(self, tail: str) -> str:
        """The beginning of `tail` up to the first token that is one for itself; "" where there is none."""
        found = [(tail.index(token), -len(token), token) for token in self.tokens if token in tail]
        if not found:
            return ""
        at, _, token = min(found)
        return tail[: at + len(token)]

    def end_of_answer(self, tail: str) -> str:
        """The same with the tokens that follow that one without anything between them."""
        end = self.end_in(tail)
        while end and (token := next((token for token in self.tokens if tail.startswith(token, len(end))), "")):
            end += token
        return end

    @cached_property
    def around(self) -> Around:
        """Learned from a conversation of two turns."""
        asked, answered = {"role": "user", "content": "a"}, {"role": "assistant", "content": SENTINEL}
        try:
            opened, whole = self.render([asked], opened=True), self.render([asked, answered])
        except Refused:
            return Around("", "", "", False)
        before, _, tail = whole.partition(SENTINEL)
        goes_on = before.startswith(opened)
        return Around(before[len(opened) :] if goes_on else "", tail, self.end_of_answer(tail), goes_on)


def chat_template(asked: str | None, tokenizer: PreTrainedTokenizerBase | None) -> ChatTemplate:
    """The template that `asked` names: `own`, one of `named()`, or a .jinja file; None takes the tokenizer's own, or
    `plain`.

    UserError where there is no such template, or it is none.
    """
    name, source, with_tools = _source(asked, tokenizer)
    return template_of_source(name, source, tokenizer, with_tools)


def template_of_source(
    name: str, source: str, tokenizer: PreTrainedTokenizerBase | None, with_tools: str = ""
) -> ChatTemplate:
    """The template with this text, as it writes for this tokenizer; UserError for a text that is none."""
    special: dict[str, Any] = {}
    tokens: tuple[str, ...] = ()
    if tokenizer is not None:
        special = dict(tokenizer.special_tokens_map)
        added = (str(token) for token in tokenizer.added_tokens_decoder.values())
        tokens = tuple(dict.fromkeys(token for token in added if token.strip()))
    _compiled(source, name)
    return ChatTemplate(name, source, with_tools, special, tokens)


def named() -> tuple[str, ...]:
    """The names of the plain templates."""
    return tuple(sorted(path.stem for path in NAMED.glob("*.jinja")))


def _source(asked: str | None, tokenizer: PreTrainedTokenizerBase | None) -> tuple[str, str, str]:
    """(what it is called, its text, its text for conversations with tools or "")."""
    own = None if tokenizer is None else tokenizer.chat_template
    if asked == OWN_NAME and not own:
        raise UserError("the model's tokenizer has no chat template of its own", f"choose one: {', '.join(named())}")
    if asked in (None, OWN_NAME) and own:
        if isinstance(own, str):
            return OWN, own, ""
        if "default" not in own:
            raise UserError(
                f"the tokenizer has chat templates named {', '.join(own)}, and none of them is the default",
                "write one of them into a file: data.template=FILE.jinja",
            )
        return OWN, own["default"], own.get("tool_use", "")
    asked = asked or PLAIN
    if asked in named():
        return f"the template {asked}", (NAMED / f"{asked}.jinja").read_text("utf-8"), ""
    if not asked.endswith((".jinja", ".jinja2", ".j2", ".txt")):
        raise unknown("chat template", asked, (OWN_NAME, *named()))
    path = Path(asked)
    if not path.is_file():
        raise missing(path)
    return asked, path.read_text("utf-8"), ""


@lru_cache(maxsize=32)
def _compiled(source: str, name: str) -> Sandboxed:
    return Sandboxed(source, name)
