"""`tunewise plan --grade`: how far the planner was from what runs measured."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunewise.cli.console import print_json, results
from tunewise.errors import UserError

RUNS = "runs"


def print_grade(folders: Sequence[str], plot: Path | None, *, as_json: bool) -> None:
    """Of the runs in these folders, or in runs/."""
    from rich.table import Table
    from rich.text import Text

    from tunewise.report.planner_grade import HARD, Graded, grade
    from tunewise.report.proof_table import NAMES

    def plan_now(model: str, method: Mapping[str, Any], told: Mapping[str, Any]) -> dict[str, Any]:
        from tunewise.run.planned import planned_now

        return planned_now(model, method, told)

    found = grade([Path(folder) for folder in folders or (RUNS,)], plan_now)
    if plot is not None:
        if not any(point.quantity in HARD for point in found.points):
            raise UserError("of no run both is known, what was planned and what was measured", "leave --plot out")
        from tunewise.report.planner_grade_figure import write_figure

        write_figure(found, plot)
    if as_json:
        print_json(found.as_data())
        return

    def table(first: str, rows: list[tuple[str, Graded]]) -> Table:
        made = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
        made.add_column(first)
        for heading in ("runs", "off by (median)", "worst", "leans"):
            made.add_column(heading, justify="right", no_wrap=True)
        for name, each in rows:
            made.add_row(name, str(each.n), percent(each.median), signed(each.worst), signed(each.lean))
        return made

    console = results()
    runs = "1 run" if found.n_runs == 1 else f"{found.n_runs} runs"
    console.print(Text(f"{runs} that trained, planned and measured", style="bold"))
    console.print(table("", [(NAMES[each.quantity], each) for each in found.by_quantity()]))
    for quantity in HARD:
        rows = [(each.method, each) for each in found.by_method() if each.quantity == quantity]
        if rows:
            console.print()
            console.print(table(NAMES[quantity], rows))
    if found.n_planned_now:
        told = f"{found.n_planned_now} were too short to wait for the planner: it has planned them now"
        console.print(Text(told, style="dim"))
    for reason, n in found.left_out.items():
        console.print(Text(f"{n} without {reason}", style="dim"))
    if plot is not None:
        console.print(f"\nfigure: {plot}", soft_wrap=True)


def percent(share: float) -> str:
    """0 %, 0.4 %, 12 %."""
    value = 100 * share
    return f"{value:.0f} %" if value >= 10 or value == 0 else f"{value:.1f} %"


def signed(share: float) -> str:
    """+12 %, −0.4 %: above 0 where too much was planned."""
    return "exact" if share == 0 else f"{'+' if share > 0 else '−'}{percent(abs(share))}"
