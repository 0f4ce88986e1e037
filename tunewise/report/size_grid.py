"""The grid of the protocol icl-vs-ft: as a table in a terminal, as a figure, and as a page of its own.

Rows are the models that were fine-tuned, columns those that were shown the examples; a cell is the difference of their
means, in colour where Welch's test, corrected over the grid, tells them apart.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tunewise import files
from tunewise.comparison.icl_vs_ft import FINE_TUNED, IN_CONTEXT
from tunewise.report import figure, words
from tunewise.report.figure import GRID, INK, QUIET, SERIES, as_written, subplots, svg
from tunewise.report.templating import template
from tunewise.stats import mean_interval

COLOURS = {FINE_TUNED: SERIES[2], IN_CONTEXT: SERIES[3], None: GRID}
STYLES = {FINE_TUNED: "bold black on dark_cyan", IN_CONTEXT: "bold black on dark_orange", None: "dim"}
ALONE = "°"
"""Beside a difference that the test alone would tell apart, and the correction does not."""

Found = Mapping[str, Any]  # the content of icl-vs-ft.json


def difference(cell: Found, metric: str, alpha: float) -> str:
    """+3.1, with a true minus sign, and a mark where only the uncorrected p is below alpha."""
    digits = words.digits(metric)
    told = f"{cell['difference']:+.{digits}f}".replace("-", "−")
    return told + (ALONE if cell["better"] is None and cell["p"] < alpha else "")


def print_grids(console: Console, found: Found) -> None:
    """One table a domain, the means of both ways at its edges."""
    models = [each["label"] for each in found["models"]]
    for domain, cells in found["grids"].items():
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False, title_justify="left")
        table.title, table.title_style = domain, "bold"
        table.add_column("fine-tuned ↓  in context →")
        table.add_column("mean", justify="right", no_wrap=True)
        for model in models:
            table.add_column(model, justify="right", no_wrap=True)
        table.add_row("mean", "", *(_mean(found, model, IN_CONTEXT, domain) for model in models), style="dim")
        for row in models:
            told = [
                Text(difference(cell, found["metric"], found["alpha"]), STYLES[cell["better"]])
                for cell in cells
                if cell["fine_tuned"] == row
            ]
            table.add_row(row, Text(_mean(found, row, FINE_TUNED, domain), "dim"), *told)
        console.print(table)
        console.print(Text(summary(domain, cells)))
        console.print()
    console.print(Text(legend(found), style="dim"))


def summary(domain: str, cells: Sequence[Found]) -> str:
    """How many pairs each way wins on one domain, and how the pairs of one model end."""
    won = {way: sum(cell["better"] == way for cell in cells) for way in (FINE_TUNED, IN_CONTEXT)}
    same = [cell for cell in cells if cell["fine_tuned"] == cell["in_context"]]
    equal = [sum(cell["better"] == way for cell in same) for way in (FINE_TUNED, IN_CONTEXT, None)]
    name = domain[0].upper() + domain[1:]
    return (
        f"{name}: fine-tuning is better in {won[FINE_TUNED]} of {len(cells)} pairs, in-context learning in "
        f"{won[IN_CONTEXT]}; with the same model on both sides in {equal[0]} and {equal[1]}, {equal[2]} not told apart."
    )


def legend(found: Found) -> str:
    """What a cell is, in words."""
    metric, n = words.metric_name(found["metric"]), len(found["seeds"])
    return (
        f"Difference of mean {metric}, fine-tuned less in context, {found['shots']} examples, {n} "
        f"{'seed' if n == 1 else 'seeds'}. In colour where p < {found['alpha']:g} by Welch's test, corrected by Holm "
        f"over the grid; {ALONE} where the test alone would say so."
    )


def heat_map(found: Found, *, narrow: bool = False) -> str:
    """One panel a domain, stacked where it is narrow; deeper colours are larger differences. SVG text."""
    models, grids = [each["label"] for each in found["models"]], found["grids"]
    n, largest = len(models), max(abs(cell["difference"]) for cells in grids.values() for cell in cells) or 1.0
    shape = (len(grids), 1) if narrow else (1, len(grids))
    height = 0.62 * n + 1.15
    made, axes = subplots(shape, 3.9 if narrow else 10.2, height * len(grids) if narrow else height)
    for (domain, cells), axis in zip(grids.items(), axes, strict=True):
        for index, cell in enumerate(cells):
            row, column = divmod(index, n)
            depth = 0.35 if cell["better"] is None else 0.25 + 0.5 * abs(cell["difference"]) / largest
            extent = ([column - 0.47, column + 0.47], row - 0.46, row + 0.46)
            axis.fill_between(*extent, color=COLOURS[cell["better"]], alpha=depth, linewidth=0)
            told = difference(cell, found["metric"], found["alpha"])
            colour = QUIET if cell["better"] is None else INK
            axis.text(column, row, told, ha="center", va="center", color=colour, size=10.5)
        axis.set(xlim=(-0.5, n - 0.5), ylim=(n - 0.5, -0.5), xlabel="in-context learning", title=as_written(domain))
        axis.set_xticks(range(n), list(map(as_written, models)))
        axis.set_yticks(range(n), list(map(as_written, models)))
        if narrow or axis is axes[0]:
            axis.set_ylabel("fine-tuning")
        axis.grid(visible=False)
        for side in axis.spines.values():
            side.set_visible(False)
    return svg(made)


def write_size_page(found: Found, page: Path, *, commands: Sequence[str] = ()) -> Path:
    """One self-contained html page into the file `page`: the figure, every test, and the means of each model."""
    drawn = (heat_map(found), heat_map(found, narrow=True)) if figure.available() else None
    text = template("size_grid.html.jinja").render(
        found=found,
        metric=words.in_unit(found["metric"]),
        figures=drawn,
        legend=legend(found),
        summaries=[summary(domain, cells) for domain, cells in found["grids"].items()],
        ways=(IN_CONTEXT, FINE_TUNED),
        mean=lambda label, way, domain: _mean(found, label, way, domain),
        difference=lambda cell: difference(cell, found["metric"], found["alpha"]),
        probability=words.probability,
        commands=commands,
        made=datetime.now(UTC).strftime("%d %B %Y"),
    )
    files.write_text(page, text)
    return page


def _mean(found: Found, label: str, way: str, domain: str) -> str:
    scores = next(each["scores"] for each in found["models"] if each["label"] == label)[way][domain]
    return words.quality(found["metric"], mean_interval(scores))
