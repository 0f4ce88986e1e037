"""What a person sees of a generation run: rows and cost while it goes on, and the table of what became of all."""

import time
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from tunewise.teacher.budget import Budget

SECONDS_BETWEEN_LINES = 30.0  # where nobody watches


class TeacherProgress:
    """Told of rows and cost. On a terminal a live bar; elsewhere a line now and then. Use it as a context manager."""

    def __init__(self, console: Console, n: int | None) -> None:
        self._console, self._last_line = console, time.monotonic()
        self._bar = Progress(
            TextColumn("rows"),
            BarColumn(bar_width=None),
            TextColumn("{task.completed:.0f}" + (f"/{n}" if n else "")),
            TextColumn("{task.fields[told]}", style="dim"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=n, told="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def __call__(self, n_rows: int, budget: Budget) -> None:
        """So many rows are kept, and so much was spent."""
        told = f"{budget.n_answered:,} answers, {budget.used:,} tokens"
        self._bar.update(self._task, completed=n_rows, told=told)
        if not self._console.is_terminal and time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._console.print(f"{n_rows} rows  {told}", soft_wrap=True)
            self._last_line = time.monotonic()


def print_summary(console: Console, found: dict[str, Any]) -> None:
    """What a run made, what it took, and what became of every proposal."""
    table = Table("proposed", "", "share", box=None)
    table.columns[1].justify = table.columns[2].justify = "right"
    for what, row in found["proposals"].items():
        table.add_row(Text(what, "bold"), f"{row['proposed']:,}", "")
        table.add_row("  kept", f"{row['kept']:,}", f"{row['acceptance']:.1%}", style="green")
        for why, n in row["rejected"].items():
            table.add_row(f"  {why}", f"{n:,}", f"{n / row['proposed']:.1%}")
    console.print(table)
    about = "about " if found["tokens_estimated"] else ""
    cost = "" if found["cost"] is None else f", cost {about}{found['cost']:.4f}"
    console.print(
        f"{found['teacher']}: {found['answered']:,} answers, {found['sent_again']:,} requests sent again; "
        f"{about}{found['prompt_tokens']:,} tokens read, {found['completion_tokens']:,} written{cost}",
        soft_wrap=True,
    )
    if found["stopped"]:
        console.print(Text.assemble(("stopped:", "yellow"), f" {found['stopped']}"), soft_wrap=True)
    console.print(f"wrote {found['folder']}/rows.jsonl: {found['rows']:,} of {found['wanted']:,} rows", soft_wrap=True)
