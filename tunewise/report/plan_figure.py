"""A plan as a figure of its own: memory by method, stacked by what it holds, with the device's memory as a line."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from tunewise import files
from tunewise.errors import UserError
from tunewise.planning.base_plan import Plan
from tunewise.report import words
from tunewise.report.figure import as_written, available, subplots

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("svg", "png", "pdf")
INK, QUIET, GRID, LIMIT = "#1d2126", "#646c76", "#e4e2dd", "#c0392b"
TERMS = {
    "weights": ("weights", "#4f5661"),
    "constants": ("scales of quantised weights", "#a9aeb6"),
    "gradients": ("gradients", "#5461c8"),
    "optimiser": ("moments of the optimiser", "#a3abee"),
    "activations": ("activations", "#0f7f7f"),
    "logits": ("logits", "#6cc3bd"),
    "cache": ("cache", "#8a9a3b"),
    "workspace": ("workspace", "#d0791b"),
    "process": ("the process beside its tensors", "#d8d2c4"),
}


def write_figure(plan: Plan, path: Path) -> None:
    """Draw it to `path`; errors as in `write`."""
    write(lambda: memory_by_method(plan), path)


def write(draw: Callable[[], "Figure"], path: Path) -> None:
    """A figure into `path`, in the format that its suffix says.

    UserError for another suffix, and where matplotlib is not installed.
    """
    suffix = path.suffix.lower().removeprefix(".")
    if suffix not in FORMATS:
        raise UserError(f"cannot draw to {path}", f"give the file one of these endings: {', '.join(FORMATS)}")
    if not available():
        raise UserError("a figure needs matplotlib", hint="pip install 'tunewise[plot]'")
    drawn = draw()
    with files.writing(path) as temporary:
        drawn.savefig(temporary, format=suffix, dpi=160, facecolor="white")


def memory_by_method(plan: Plan) -> "Figure":
    """Horizontal bars, the first method on top."""
    n = len(plan.methods)
    figure, (axis,) = subplots((1, 1), width=9.0, height=1.5 + 0.34 * n, colours=(INK, QUIET, GRID))
    most = max((each.memory.total for each in plan.methods), default=plan.device.memory_bytes)
    unit, name = next((u, name) for u, name in ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (1, "B")) if most >= u)
    places = range(n)
    starts = [0.0] * n
    for term, (told, colour) in TERMS.items():
        widths = [asdict(each.memory)[term] / unit for each in plan.methods]
        if any(widths):
            axis.barh(places, widths, left=starts, height=0.72, color=colour, label=told, linewidth=0)
        starts = [start + width for start, width in zip(starts, widths)]
    for place, each in zip(places, plan.methods):
        told = words.size(each.memory.total)
        axis.annotate(
            told, (each.memory.total / unit, place), (4, 0), textcoords="offset points", va="center", size=8.5,
            color=INK if each.fits else LIMIT, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0},
        )  # fmt: skip
    axis.axvline(plan.device.memory_bytes / unit, color=LIMIT, linewidth=1.4, linestyle=(0, (4, 3)))
    axis.annotate(
        as_written(f"{plan.device.name}: {words.size(plan.device.memory_bytes)}"),
        (plan.device.memory_bytes / unit, 1.0), (0, 3), xycoords=("data", "axes fraction"),
        textcoords="offset points", color=LIMIT, ha="center", va="bottom", size=8.5,
    )  # fmt: skip
    axis.set_yticks(places, [as_written(each.label) for each in plan.methods], color=INK)
    axis.set_ylim(n - 0.4, -0.6)
    axis.set_xlim(0, 1.1 * max(most, plan.device.memory_bytes) / unit)
    axis.grid(axis="y", visible=False)
    axis.set_xlabel(f"memory at the peak of a step, {name}; {as_written(words.base_called(plan.model))}")
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8.5)
    return figure
