"""`tunewise chat`: the base and what was made of it, asked the same and shown side by side."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunewise.cli.console import AsJson, Data, Model, print_json, progress_lines, results
from tunewise.cli.who import System, Words, targets_and_overrides

if TYPE_CHECKING:
    from tunewise.run.showcase import Said, Showcase

NEW, LEAVE = "/new", ("/quit", "/exit")
NARROWEST = 24
"""Columns of characters that an answer needs to stand beside others."""

Question = Annotated[
    list[str] | None,
    typer.Option(
        "--ask", help='Ask this and leave: a text, or {"premise": "...", "hypothesis": "..."}. May be given again.',
        show_default=False,
    ),
]  # fmt: skip


def chat(
    words: Words = None,
    model: Model = None,
    data: Data = None,
    ask: Question = None,
    free: Annotated[
        bool, typer.Option("--free", help="Say what is typed as it is, not by the task's template.")
    ] = False,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Of a written answer.", show_default="the task's; 100 with --free")
    ] = None,
    system: System = "",
    as_json: AsJson = False,
) -> None:
    """Talk to a base and to what was made of it, side by side; from a terminal, a pipe (a question a line) or --ask."""
    targets, overrides = targets_and_overrides(words, model)

    from tunewise.report.named import named
    from tunewise.run.showcase import showcase

    told: list[dict[str, Any]] = []
    free = free or (not targets and data is None)
    with (
        progress_lines().status("loading") as status,
        showcase(
            {name: each.folder for name, each in named(targets).items()},
            model=model,
            data=data,
            free=free,
            system=system,
            max_new_tokens=max_new_tokens,
            overrides=overrides,
        ) as shown,
    ):
        status.stop()
        for question in _questions(shown, ask or ()):
            with progress_lines().status("thinking"):
                said = shown.ask(question)
            told.append({"question": question, "answers": [_as_data(one) for one in said]})
            if not as_json:
                _show(question, said, is_typed=_is_typed(ask))
    if as_json:
        print_json(told)


def _questions(shown: "Showcase", asked: Sequence[str]) -> Iterator[str | Mapping[str, object]]:
    """Those of the command line, of a pipe, or of a person, until there are no more."""
    if asked or not sys.stdin.isatty():
        from tunewise.data.typed import question_in

        for text in map(str.strip, asked or sys.stdin):
            if text in LEAVE:
                return
            if text == NEW:
                shown.begin_again()
            elif text:
                yield question_in(text)
        return
    who = ", ".join(shown.names)
    kept = f"; {NEW} begins a new conversation" if shown.is_conversation else ""
    progress_lines().print(f"asked are {who}{kept}; Ctrl-D leaves", soft_wrap=True)
    with suppress(EOFError, KeyboardInterrupt):
        yield from _typed(shown)
    sys.stderr.write("\n")


def _typed(shown: "Showcase") -> Iterator[Mapping[str, object]]:
    with suppress(ImportError):
        import readline  # noqa: F401  # input() then knows the arrow keys
    while True:
        told: dict[str, object] = {}
        for name in shown.columns:
            without = " (or nothing)" if name in shown.may_be_empty else ""
            told[name] = input(f"{name}{without}> " if len(shown.columns) > 1 else "> ").strip()
            if told[name] in (NEW, *LEAVE):
                break
        if set(LEAVE) & set(told.values()):
            return
        if NEW in told.values():
            shown.begin_again()
        elif any(told.values()):
            yield told


def _is_typed(asked: Sequence[str] | None) -> bool:
    return not asked and sys.stdin.isatty()


def _as_data(said: "Said") -> dict[str, Any]:
    probabilities = {name: round(share, 6) for name, share in said.probabilities.items()}
    return {"who": said.speaker, "text": said.text, **({"probabilities": probabilities} if probabilities else {})}


def _show(question: str | Mapping[str, object], said: Sequence["Said"], *, is_typed: bool) -> None:
    """The answers in columns, or below one another where these would be too narrow."""
    from rich.table import Table

    console = results()
    if not is_typed:
        asked = [question] if isinstance(question, str) else [f"{name}: {text}" for name, text in question.items()]
        console.print("\n".join(f"> {text}" for text in asked), soft_wrap=True)
    texts = [_told(one) for one in said]
    is_long = any(len(text) > NARROWEST or "\n" in text for text in texts)
    side_by_side = is_long and console.width >= NARROWEST * len(said)
    table = Table(show_header=side_by_side, show_edge=False, pad_edge=False, show_lines=is_long and not side_by_side)
    if side_by_side:
        table.expand = True
        for one in said:
            table.add_column(one.speaker, ratio=1, overflow="fold")
        table.add_row(*texts)
    else:
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for one, text in zip(said, texts, strict=True):
            table.add_row(one.speaker, text)
    console.print(table)
    console.print()


def _told(said: "Said") -> str:
    """The answer, and how sure it is of that."""
    share = said.probabilities.get(said.text)
    return (said.text or "(nothing)") + ("" if share is None else f"  {100 * share:.0f} %")
