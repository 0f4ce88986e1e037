"""`tunewise data show`: rows as the model sees them, token by token, with what is trained in colour."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunewise.cli.console import AsJson, Model, print_json, results
from tunewise.cli.data_check import File, Overrides, escaped, recipe_of
from tunewise.errors import UserError, unknown

if TYPE_CHECKING:
    from tunewise.data.doctor import Reading
    from tunewise.data.encode import Encoded
    from tunewise.data.examples import Example

PARTS = ("train", "dev", "test")
TRAINED, MASKED, CUT = "bold green", "dim", "yellow"

Number = Annotated[int, typer.Option("-n", min=1, help="How many rows.")]
Part = Annotated[str, typer.Option(help="train, dev or test.")]
Line = Annotated[
    list[int] | None,
    typer.Option(help="The line of a row in its file; may be given several times.", show_default=False),
]


def show(
    file: File,
    words: Overrides = None,
    model: Model = None,
    n: Number = 3,
    part: Part = "train",
    line: Line = None,
    as_json: AsJson = False,
) -> None:
    """Print rows as the model sees them: each token, trained ones green (‹so› where there is no colour)."""
    if part not in PARTS:
        raise unknown("part", part, PARTS)
    recipe = recipe_of(file, words or [], model)
    if recipe.data.mixture is not None:
        raise UserError(f"{file} is a mixture", f"show one of its sources: {' '.join(recipe.data.mixture.sources)}")

    from tunewise.run.examined import rows_of

    rows = rows_of(recipe.data, recipe.model, recipe.head, recipe.train.max_length)
    if rows.reading is None:
        raise UserError(f"{file} holds images, which are no tokens", "tunewise data check looks at its labels")
    read = rows.reading.parts[part]
    encoded = {row.id: row for row in read.encoded}
    chosen = [example for example in read.examples if not line or example.line in line][: None if line else n]
    if not chosen:
        lines = f"lines {', '.join(map(str, line))}" if line else "rows"
        raise UserError(
            f"{part} of {file} has no {lines}", "--part names another part; tunewise data check counts them"
        )
    if as_json:
        print_json([_told(example, encoded.get(example.id), rows.reading, part) for example in chosen])
        return
    reasons = {note.line: note.reason for note in read.ledger.rejected}
    for example in chosen:
        _print_row(example, encoded.get(example.id), rows.reading, part, reasons.get(example.line, ""))


def _print_row(example: "Example", row: "Encoded | None", reading: "Reading", part: str, reason: str) -> None:
    from rich.text import Text

    console = results(markup=True)
    if row is None:
        console.print(f"[bold]{part} line {example.line}[/]  [red]rejected[/]: {escaped(reason)}\n", soft_wrap=True)
        return
    n_trained = sum(label != -100 for label in row.labels)
    told = f"{len(row.ids):,} tokens, {n_trained:,} trained"
    if reading.way == "classified":
        told = f"{len(row.ids):,} tokens, label {', '.join(map(str, dict.fromkeys(row.labels)))}"
    elif reading.way == "read and written":
        told = f"{len(row.ids):,} tokens read, {n_trained:,} written"
    console.print(f"[bold]{part} line {example.line}[/]  [dim]{told}[/]" + (" [yellow]cut[/]" * row.truncated))
    text = Text()
    for piece, trained in pieces_of(row, reading):
        shown = piece if console.is_terminal or not trained else f"‹{piece}›"
        text.append(shown, TRAINED if trained else MASKED)
    console.print(text, soft_wrap=True)
    console.print()


def pieces_of(row: "Encoded", reading: "Reading") -> Iterator[tuple[str, bool]]:
    """(text of one token, whether it is trained), those that are written by a decoder of its own behind those read."""
    if reading.way == "one sequence":
        flags = [label != -100 for label in row.labels]
        yield from _pieces(row.ids, flags, reading)
    elif reading.way == "read and written":
        yield from _pieces(row.ids, [False] * len(row.ids), reading)
        yield "\n", False
        yield from _pieces([int(each) for each in row.labels], [True] * len(row.labels), reading)
    else:
        yield from _pieces(row.ids, [False] * len(row.ids), reading)


def _pieces(ids: Any, trained: list[bool], reading: "Reading") -> Iterator[tuple[str, bool]]:
    """Tokens with their text; those that are parts of one character come together."""
    tokenizer, waiting = reading.tokenizer, []
    for number, token in enumerate(ids):
        waiting.append(int(token))
        is_last = number + 1 == len(ids) or trained[number + 1] != trained[number]
        text = str(tokenizer.decode(waiting))
        if not text.endswith("\ufffd") or is_last:
            yield text, trained[number]
            waiting = []


def _told(example: "Example", row: "Encoded | None", reading: "Reading", part: str) -> dict[str, Any]:
    told: dict[str, Any] = {"part": part, "line": example.line, "id": example.id}
    if row is None:
        return {**told, "rejected": True}
    tokens = reading.tokenizer.convert_ids_to_tokens(list(map(int, row.ids)))
    return {**told, "truncated": row.truncated, "ids": list(row.ids), "tokens": tokens, "labels": list(row.labels)}
