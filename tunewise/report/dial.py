"""The forgetting dial as a figure: the task's metric against what was forgotten along λ, one line an arm."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median_low
from typing import Any

from tunewise.files import read_json
from tunewise.report.arms import Arm
from tunewise.report.figure import MARKERS, N_SERIES, SERIES, shape_of, subplots, svg
from tunewise.report.words import on_axis

DIAL = "dial.json"


@dataclass(frozen=True)
class Dial:
    """One arm's way from the base (λ = 0) to the tuned model (λ = 1): means over its seeds."""

    scales: tuple[float, ...]
    forgotten: tuple[float, ...]
    """By how much the retention loss lies above that of the base, nats per token."""
    scores: tuple[float, ...]
    """The main metric on test."""
    knee: float
    """The λ to take; of several seeds the middle one's."""


def dial_of(arm: Arm) -> Dial | None:
    """What the dial.json files of the arm's runs say; None where there is none, or none with a retention loss.

    Seeds whose λ are not those of the first are left out.
    """
    found = [content for run in arm.runs if (content := _content(run.folder / DIAL))]
    if not found:
        return None
    scales = _column(found[0], "scale")
    alike = [content for content in found if _column(content, "scale") == scales]
    losses = [fmean(values) for values in zip(*(_column(content, "retention") for content in alike))]
    scores = [fmean(values) for values in zip(*(_column(content, "test") for content in alike))]
    knee = median_low([content["knee"] for content in alike])
    return Dial(scales, tuple(loss - losses[0] for loss in losses), tuple(scores), knee)


def dial_figure(arms: Sequence[Arm], narrow: bool = False) -> str:
    """Quality upwards, forgetting to the right, the chosen λ ringed. SVG text, "" when no arm has a dial."""
    dials = [(index, dial) for index, arm in enumerate(arms) if (dial := dial_of(arm)) is not None]
    if not dials:
        return ""
    figure, (axis,) = subplots((1, 1), width=3.9 if narrow else 10.2, height=3.0 if narrow else 3.4)
    for index, dial in dials:
        colour, marker = SERIES[index % N_SERIES], MARKERS[shape_of(index)]
        axis.plot(dial.forgotten, dial.scores, color=colour, linewidth=1.5, marker=marker, markersize=3.5)
        at = dial.scales.index(dial.knee)
        place = (dial.forgotten[at], dial.scores[at])
        axis.plot(*place, color=colour, marker="o", markersize=11, markerfacecolor="none", markeredgewidth=1.6)
        axis.annotate(f"λ = {dial.knee:g}", place, (7, -13), textcoords="offset points", color=colour)
    axis.margins(x=0.08, y=0.12)
    axis.set_xlabel("forgetting, nats per token")
    axis.set_ylabel(on_axis(arms[0].metric))
    return svg(figure)


def _content(path: Path) -> dict[str, Any]:
    """A dial.json with a retention loss at every point; {} for none."""
    content = read_json(path) if path.is_file() else {}
    points = content.get("points", []) if isinstance(content, dict) else []
    whole = points and all(point.get("retention") is not None and point.get("test") is not None for point in points)
    return content if whole and isinstance(content, dict) else {}


def _column(content: dict[str, Any], name: str) -> tuple[float, ...]:
    return tuple(float(point[name]) for point in content["points"])
