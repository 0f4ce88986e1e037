"""Jinja templates that a stranger wrote, rendered in a sandbox: nothing changed, bounded in time and in text.

The environment is that for which chat templates are written (transformers' own: immutable sandbox, blocks trimmed,
loop controls, `{% generation %}`, `raise_exception`, `tojson` without escapes). It differs in two things: the day is
always the same, so that a row is the same text whenever it is read, and every loop, call and sum of texts is counted.
"""

from __future__ import annotations

import inspect
import json
import operator
import re
import time
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from types import MethodType
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError, nodes, pass_context
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import do_indent, make_attrgetter
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from tunewise.errors import UserError

SECONDS = 3.0
"""A conversation takes milliseconds; what takes longer than this does not end."""
CHARACTERS = 1 << 24
"""The longest text, whether it is written or only held on the way there."""
WORK = 1 << 28
"""Characters handled in all."""
DAY = datetime(2024, 7, 26)
"""What `strftime_now` tells: the day that Llama 3.1's template takes where it is told none."""
WIDE = re.compile(r"%[^a-zA-Z%]*(?:\d{5}|\*)|\{[^}]*(?:\d{5}|\{)")
"""A width in a format, of % or of `format`, that is no width of a text, or that an argument gives."""
SIZED = ("center", "ljust", "rjust", "zfill", "expandtabs")


class Unbounded(TemplateError):
    """The template does more than any conversation needs."""


@dataclass
class Meter:
    """What one rendering may still do."""

    literal: int
    """Characters of the template's own text: no more than these are written between two counts."""
    until: float = field(default_factory=lambda: time.monotonic() + SECONDS)
    left: int = WORK

    def count(self, characters: int) -> None:
        self.left -= characters
        if self.left < 0:
            raise Unbounded(f"it handles more than {WORK:,} characters")
        if time.monotonic() > self.until:
            raise Unbounded(f"it was not done after {SECONDS:g} seconds")


_METER: ContextVar[Meter] = ContextVar("meter")


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment of all chat templates."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self) -> None:
        # without the optimiser, which would carry out constants (and fill the memory) before anything is counted
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,
            finalize=_counted,
            extensions=[_Generation, loopcontrols],
        )
        self.filters.update(tojson=_json, replace=_replace, join=_join, indent=_indent)
        for name in ("batch", "center", "format", "slice", "urlize", "wordwrap", "xmlattr"):  # no template has them
            del self.filters[name]
        del self.globals["lipsum"]
        functions: dict[str, Any] = self.globals
        functions.update(raise_exception=_refuse, strftime_now=DAY.strftime, namespace=_Namespace)

    def tick(self) -> None:
        """One turn of a loop, or one call of a macro."""
        meter = _METER.get()
        meter.count(meter.literal)

    def joined(self, *parts: object) -> str:
        """The texts one behind the other, as `~` puts them."""
        return _sized("".join(map(str, parts)))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """The sum, product, power or remainder, if it is of a size that a conversation can want."""
        if operator == "+":
            return _sized(left + right)
        if operator == "**" or (operator == "*" and isinstance(left, int) and isinstance(right, int)):
            if max(abs(left), abs(right)) > 1 << 32 or (operator == "**" and abs(right) > 64):
                raise Unbounded(f"it computes {left} {operator} {right}")
        elif operator == "*":
            long, times = (right, left) if isinstance(left, int) else (left, right)
            if isinstance(times, int) and len(long) * times > CHARACTERS:
                raise Unbounded(f"it repeats a text {times:,} times")
        elif operator == "%" and isinstance(left, str) and WIDE.search(left):
            raise Unbounded(f"it writes in the format {left!r}")
        return _sized(super().call_binop(context, operator, left, right))

    def call(self, context: Context, called: Any, *args: Any, **options: Any) -> Any:
        """What a function or a text's own method gives."""
        if type(called) is MethodType and called.__self__ is self:
            return called(*args)  # `tick` and `joined`
        name, own = _method(called)
        if own is not None:
            if name in SIZED and any(isinstance(each, int) and each > 10_000 for each in args):
                raise Unbounded(f"it makes a text {args[0]:,} wide")
            if name in ("format", "format_map") and WIDE.search(own):
                raise Unbounded(f"it writes in the format {own!r}")
            if name == "replace":
                return _replace(own, *args)
            if name == "join" and len(args) == 1:
                return _join(args[0], own)
        return _sized(super().call(context, called, *args, **options))


class Sandboxed:
    """One template, compiled; UserError where it is no template."""

    def __init__(self, source: str, name: str) -> None:
        self._name = name
        environment = _environment()
        try:
            tree = environment.parse(source)
            counting = _Counting()
            counting.visit(tree)
            code = environment.compile(tree, name="chat template")
        except (TemplateSyntaxError, RecursionError) as error:
            where = f", line {error.lineno}" if isinstance(error, TemplateSyntaxError) else ""
            raise UserError(
                f"{name} is no Jinja template{where}: {error}", "correct it, or choose another with data.template"
            ) from None
        self._template = environment.template_class.from_code(environment, code, environment.make_globals(None))
        self._literal = 1 + counting.n_characters

    def render(self, variables: Mapping[str, Any]) -> str:
        """What the template writes of these variables, which are plain data. Refused says why it writes nothing."""
        token = _METER.set(Meter(self._literal))
        pieces: list[str] = []
        length = 0
        try:
            for piece in self._template.generate(dict(variables)):
                length += len(piece)
                if length > CHARACTERS:
                    raise Unbounded(f"it writes more than {CHARACTERS:,} characters")
                pieces.append(piece)
        except Exception as error:  # whatever a stranger's template stumbles over
            raise Refused(f"{self._name} refuses {_seen(variables)}: {error}") from None
        finally:
            _METER.reset(token)
        return "".join(pieces)


class Refused(UserError):
    """The template writes nothing of this conversation; the message says why."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "leave out the turn it names, or choose another template with data.template")


class _Counting(NodeTransformer):
    """Every loop and macro counts itself, and every `~` what it joins."""

    def __init__(self) -> None:
        self.n_characters = 0

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Node:
        self.n_characters += len(node.data)
        return node

    def visit_For(self, node: nodes.For) -> nodes.Node:
        node.body.insert(0, _tick(node))
        return self.generic_visit(node)

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:
        node.body.insert(0, _tick(node))
        return self.generic_visit(node)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return nodes.Call(nodes.EnvironmentAttribute("joined"), node.nodes, [], None, None, lineno=node.lineno)


class _Generation(Extension):
    """`{% generation %}` marks what an assistant said for transformers; here its text is written, no more."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)


class _Namespace(Namespace):
    """Jinja's, of names that do not begin with an underscore."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise Unbounded(f"it sets {name}")
        super().__setitem__(name, value)


@lru_cache(maxsize=1)
def _environment() -> Sandbox:
    return Sandbox()


def _tick(node: nodes.Node) -> nodes.Node:
    call = nodes.Call(nodes.EnvironmentAttribute("tick"), [], [], None, None, lineno=node.lineno)
    return nodes.ExprStmt(call, lineno=node.lineno)


@pass_context  # with a context, jinja does not carry constants out while it compiles
def _counted(context: Context, value: Any) -> Any:
    text = value if isinstance(value, str) else str(value)
    _METER.get().count(len(text))
    return text


def _sized(value: Any) -> Any:
    """The same; Unbounded for a text that is too long."""
    if isinstance(value, str) and len(value) > CHARACTERS:
        raise Unbounded(f"it makes a text of more than {CHARACTERS:,} characters")
    return value


def _replace(text: Any, old: Any = "", new: Any = "", count: int = -1) -> str:
    text, old, new = str(text), str(old), str(new)
    times = text.count(old) if count is None or count < 0 else min(count, text.count(old))
    if len(text) + times * len(new) > CHARACTERS:
        raise Unbounded(f"it makes a text of more than {CHARACTERS:,} characters")
    return _sized(text.replace(old, new, times))


def _join(parts: Any, between: Any = "", attribute: Any = None) -> str:
    texts = [str(part if attribute is None else make_attrgetter(_environment(), attribute)(part)) for part in parts]
    between = str(between)
    if sum(map(len, texts)) + len(between) * len(texts) > CHARACTERS:
        raise Unbounded(f"it makes a text of more than {CHARACTERS:,} characters")
    return _sized(between.join(texts))


def _indent(text: Any, width: Any = 4, first: bool = False, blank: bool = False) -> str:
    space = width if isinstance(width, str) else " " * min(width, CHARACTERS)
    if len(text) + len(space) * (1 + text.count("\n")) > CHARACTERS:
        raise Unbounded(f"it makes a text of more than {CHARACTERS:,} characters")
    return _sized(do_indent(text, space, first, blank))


def _method(called: Any) -> tuple[str, str | None]:
    """The name of a text's own method and the text; ("", None) of anything else."""
    try:
        called = inspect.unwrap(called)  # the sandbox wraps `format`
        name, own = operator.attrgetter("__name__", "__self__")(called)
    except AttributeError:
        return "", None
    return (name, own) if isinstance(own, str) else ("", None)


def _json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    if isinstance(indent, int) and indent > 100:
        raise Unbounded(f"it indents by {indent:,}")
    return _sized(
        json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    )


def _refuse(message: object) -> None:
    raise TemplateError(str(message))


def _seen(variables: Mapping[str, Any]) -> str:
    roles = ", ".join(str(turn.get("role")) for turn in variables.get("messages", ()))
    return f"the turns {roles}" if roles else "a conversation without turns"
