"""`tunewise data check`: what becomes of every row of a file, what is wrong with it, and what to do about that."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunewise.cli.console import AsJson, Model, print_json, results
from tunewise.errors import unknown

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from tunewise.data.doctor import Examination, Finding, Shown
    from tunewise.data.doctor.account import Account
    from tunewise.data.doctor.lengths import Lengths
    from tunewise.run import Recipe

NOT_FIT = 1
STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan"}
N_SHOWN = {"error": 3, "warning": 1, "note": 1}

File = Annotated[
    str,
    typer.Argument(metavar="FILE", help="What --data of `tunewise train` takes, or a recipe.yaml.", show_default=False),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[FIELD=VALUE]...", help="As in `tunewise train`: data.text=review train.max_length=1024.",
        show_default=False,
    ),
]  # fmt: skip


def check(file: File, words: Overrides = None, model: Model = None, as_json: AsJson = False) -> None:
    """Account for every row, and look for what makes training go wrong without a word; exits with 1 on errors."""
    recipe = recipe_of(file, words or [], model)

    from tunewise.run.examined import examine_data

    found = {
        name: examine_data(data, recipe.model, recipe.head, recipe.train.max_length)
        for name, data in recipe.data.each.items()
    }
    told = {name: each.told() for name, each in found.items()}
    if as_json:
        print_json(told if recipe.data.mixture else told[""])
    else:
        for number, each in enumerate(found.values()):
            print_examination(results(markup=True), each, gap=number > 0)
    if not all(each.is_fit for each in found.values()):
        raise typer.Exit(NOT_FIT)


def recipe_of(file: str, words: list[str], model: str | None) -> "Recipe":
    """The recipe of a run on this data, by the method that `tunewise train` takes where none is named."""
    from tunewise.cli.recipes import gather
    from tunewise.config import read_yaml

    is_recipe = file.endswith((".yaml", ".yml")) and "sources" not in read_yaml(file)  # which are of a mixture
    fields = gather([file, *words] if is_recipe else words, {"model": model, "data": None if is_recipe else file})

    from tunewise.config import parse
    from tunewise.run import Recipe

    for name in (word.partition("=")[0].partition(".")[0] for word in words):
        if name not in Recipe.model_fields:  # other fields of the file are those of other verbs
            raise unknown("field", name, Recipe.model_fields)
    return parse(Recipe, {name: value for name, value in fields.items() if name in Recipe.model_fields})


def print_examination(console: "Console", found: "Examination", gap: bool = False) -> None:
    """Verdict, account, findings, lengths; behind a `gap` where another one stands before."""
    from rich.padding import Padding
    from rich.text import Text

    if gap:
        console.print()
    n_of = {kind: sum(finding.severity == kind for finding in found.findings) for kind in STYLES}
    told = ", ".join(f"{n} {kind}{'s' * (n != 1)}" for kind, n in n_of.items() if n) or "nothing found"
    by = f" by {found.model}" if found.model else ""
    if found.is_fit:
        verdict = f"[bold green]✓[/] [bold]{escaped(found.data)}[/] can be trained on{by}: {told}"
    else:
        verdict = f"[bold red]✗[/] [bold]{escaped(found.data)}[/] is not fit to be trained on{by}: {told}"
    console.print(verdict)
    console.print(Padding(Text(found.detected, style="dim"), (0, 0, 0, 2)))
    console.print()
    console.print(account_table(found.account))
    if found.findings:
        console.print()
        console.print(findings_table(found))
    if found.lengths is not None:
        console.print()
        print_lengths(console, found.lengths)


def account_table(account: "Account") -> "Table":
    """The sum, and what was cut and rejected."""
    table = _grid()
    proof = "[green]✓ it adds up[/]" if account.proved else "[bold red]✗ it does not add up[/]"
    table.add_row("[dim]rows[/]", f"{account.sum_told().replace(' rows', '', 1)}   {proof}")
    for part in ("train", "dev", "test"):
        cut = [row for row in account.cut if row.part == part]
        if cut:
            gone = sorted(row.tokens - row.kept for row in cut)
            n_hit = sum(row.trained_lost > 0 for row in cut)
            hit = f"[yellow]{n_hit:,} answers hit[/]" if n_hit else "no answer hit"
            by = f"by {gone[len(gone) // 2]:,} (up to {gone[-1]:,})"
            table.add_row("[dim]cut[/]", f"{len(cut):,} of {part} to {cut[0].kept:,} tokens, {by}; {hit}")
    for reason, rows in list(account.by_reason.items())[:3]:
        lines = ", ".join(f"{row.part} {row.line}".strip() for row in rows[:4]) + (", …" if len(rows) > 4 else "")
        such_as = ": " if len({row.reason for row in rows}) == 1 else ", such as: "
        table.add_row("[dim]rejected[/]", f"{len(rows):,}{such_as}{escaped(reason)} [dim](line {lines})[/]")
    if len(account.by_reason) > 3:
        table.add_row("", f"[dim]and {len(account.by_reason) - 3} reasons more; --json lists all rows[/]")
    return table


def findings_table(found: "Examination") -> "Table":
    """Each finding with what to do, and rows that show it."""
    table = _grid()
    for finding in found.findings:
        style = STYLES[finding.severity]
        table.add_row(f"[{style}]{finding.severity}[/]", f"[bold]{finding.code}[/]  {escaped(finding.message)}")
        table.add_row("", f"[green]→[/] {escaped(finding.remedy)}")
        for line in () if finding.code == "rejected-rows" else _rows_of(finding):  # the account has its rows
            table.add_row("", line)
    return table


def print_lengths(console: "Console", lengths: "Lengths") -> None:
    """Percentiles, and the table of contexts."""
    from rich.table import Table

    console.print(
        f"[dim]tokens a training row[/]  {lengths.median:,} median, {lengths.p95:,} at 95 %, {lengths.p99:,} at 99 %, "
        f"{lengths.longest:,} the longest"
    )
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for heading in ("context", "cut", "rejected", "hit", "trained", "tokens", "padded", ""):
        table.add_column(heading, justify="left" if not heading else "right")
    for each in lengths.at:
        marks = ["← train.max_length"] * (each.context == lengths.max_length)
        marks += ["beyond the base"] * (lengths.context is not None and each.context > lengths.context)
        hit = f"[yellow]{each.answers_hit:,}[/]" if each.answers_hit else "0"
        table.add_row(
            f"{each.context:,}", f"{each.cut:,}", f"{each.rejected:,}", hit, f"{each.trained_share:.1%}",
            f"{each.tokens:,}", f"× {each.padded_tokens / max(1, each.tokens):.2f}", f"[dim]{' '.join(marks)}[/]",
        )  # fmt: skip
    console.print(table)


def escaped(text: str) -> str:
    """Text whose brackets are no markup."""
    from rich.markup import escape

    return escape(text)


def _rows_of(finding: "Finding") -> Iterator[Any]:
    from rich.text import Text

    for row in finding.rows[: N_SHOWN[finding.severity]]:
        yield Text(_told(row), style="dim", no_wrap=True, overflow="ellipsis")
        if row.twin is not None:
            yield Text(f"  = {_told(row.twin)}", style="dim", no_wrap=True, overflow="ellipsis")


def _told(row: "Shown") -> str:
    return f"{row.part} line {row.line}: {row.excerpt}".lstrip()


def _grid() -> "Table":
    from rich.table import Table

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(min_width=8)
    table.add_column(ratio=1)
    return table
