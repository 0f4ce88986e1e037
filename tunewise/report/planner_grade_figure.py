"""The planner's grade as a figure: memory and time, planned against measured, with bands of 10 % and 25 %."""

from pathlib import Path
from typing import TYPE_CHECKING

from tunewise.report.figure import as_written, logarithmic, subplots
from tunewise.report.plan_figure import GRID, INK, QUIET, write
from tunewise.report.planner_grade import HARD, PlannerGrade, Point
from tunewise.report.proof_table import NAMES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

UNITS = {"train_memory_bytes": (1e6, "MB"), "train_seconds": (1.0, "s")}
BANDS = ((0.25, "#eef0f4"), (0.10, "#d9dde6"))
"""Shares by which a plan may be off, the wider ones first."""
COLOURS = (
    "#5461c8", "#0f7f7f", "#d0791b", "#b5458f", "#4f5661", "#8a9a3b", "#c0392b", "#2f86c1", "#7a5c3e", "#9a7fd1",
)  # fmt: skip
MARKERS = "os^Dv"


def write_figure(grade: PlannerGrade, path: Path) -> None:
    """Draw it to `path`; errors as in `plan_figure.write`."""
    write(lambda: planned_against_measured(grade), path)


def planned_against_measured(grade: PlannerGrade) -> "Figure":
    """A square a quantity, a dot a run, a colour a method; on the line the plan was right."""
    drawn = [quantity for quantity in HARD if any(point.quantity == quantity for point in grade.points)]
    methods = list(dict.fromkeys(point.method for point in grade.points if point.quantity in HARD))
    figure, axes = subplots((1, len(drawn)), width=4.9 * len(drawn), height=5.4, colours=(INK, QUIET, GRID))
    for quantity, axis in zip(drawn, axes):
        points = [point for point in grade.points if point.quantity == quantity]
        _scatter(axis, points, methods, *UNITS[quantity])
        (graded,) = (each for each in grade.by_quantity() if each.quantity == quantity)
        told = f"{NAMES[quantity]}: off by {100 * graded.median:.0f} %, median of {graded.n}"
        axis.set_title(told, fontsize=10, color=INK)
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False, fontsize=8.5
    )
    return figure


def _scatter(axis: "Axes", points: list[Point], methods: list[str], unit: float, name: str) -> None:
    values = [value / unit for point in points for value in (point.planned, point.measured)]
    low, high = min(values) / 1.6, max(values) * 1.6
    for share, colour in BANDS:
        axis.fill_between(
            [low, high], [low * (1 - share), high * (1 - share)], [low * (1 + share), high * (1 + share)],
            color=colour, linewidth=0, zorder=0, label=f"within {100 * share:.0f} %",
        )  # fmt: skip
    axis.plot([low, high], [low, high], color=QUIET, linewidth=0.9, zorder=1)
    for number, method in enumerate(methods):
        own = [point for point in points if point.method == method]
        axis.scatter(
            [point.measured / unit for point in own], [point.planned / unit for point in own],
            s=30, alpha=0.8, linewidths=0, zorder=3, color=COLOURS[number % len(COLOURS)],
            marker=MARKERS[number // len(COLOURS) % len(MARKERS)], label=as_written(method),
        )  # fmt: skip
    logarithmic(axis, low, high)
    axis.set_aspect("equal")
    axis.set_xlabel(f"measured, {name}")
    axis.set_ylabel(f"planned, {name}")
