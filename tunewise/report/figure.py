"""Figures as inline SVG: quality against each cost, with the front. Needs the extra `plot` (matplotlib).

Colours are written as style-sheet variables, so that one figure serves a light and a dark page.
"""

import hashlib
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tunewise.directions import LOWER_IS_BETTER
from tunewise.report.arms import Arm
from tunewise.report.words import metric_name, on_axis, tick
from tunewise.verdict import Contender, pareto

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

# stand-ins that matplotlib accepts and no figure uses otherwise, each replaced by a variable of the page
INK, QUIET, GRID = "#010101", "#020202", "#030303"
N_SERIES = 10
SERIES = tuple(f"#0400{index:02x}" for index in range(N_SERIES))
MARKERS = "osD^vPXph*"
VARIABLES = {INK: "var(--ink)", QUIET: "var(--quiet)", GRID: "var(--line)"} | {
    colour: f"var(--series-{index})" for index, colour in enumerate(SERIES)
}


@dataclass(frozen=True)
class Panel:
    """One cost: its name with the unit, and whether it spans orders of magnitude."""

    title: str
    values: Sequence[float | None]
    log: bool = False


def shape_of(number: int) -> int:
    """Which of the ten marks the arm of this number has: of arms of one colour each has another."""
    return (number + number // N_SERIES) % len(MARKERS)


def available() -> bool:
    """Whether matplotlib is installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return False
    return True


def panels(arms: Sequence[Arm]) -> list[Panel]:
    """The costs worth a panel: seconds, trained parameters, and forgetting where it was measured."""
    trained = [arm.n_trainable > 0 for arm in arms]
    found = [
        Panel("training, seconds", [arm.train_seconds if t else None for arm, t in zip(arms, trained)]),
        Panel("trained parameters", [float(arm.n_trainable) if t else None for arm, t in zip(arms, trained)], log=True),
    ]
    if any(arm.forgetting and t for arm, t in zip(arms, trained)):
        found.append(
            Panel(
                "forgetting, nats per token",
                [arm.forgetting.mean if arm.forgetting and t else None for arm, t in zip(arms, trained)],
            )
        )
    return found


def front(arms: Sequence[Arm], panel: Panel) -> list[int]:
    """The indices of the arms that no other beats in quality or in this cost without losing in the other, cheapest
    first; what trains nothing costs nothing here."""
    contenders = [
        Contender(str(i), arm.scores, {panel.title: panel.values[i] or 0.0})
        for i, arm in enumerate(arms)
        if not arm.n_diverged
    ]
    return [int(label) for label in pareto(contenders, panel.title, lower_is_better=arms[0].metric in LOWER_IS_BETTER)]


def quality_against_cost(arms: Sequence[Arm], *, narrow: bool = False) -> str:
    """One panel a cost, quality upwards, the front ringed and joined; arms that train nothing are dashed lines across.
    SVG text."""
    drawn = panels(arms)
    shape = (len(drawn), 1) if narrow else (1, len(drawn))
    figure, axes = subplots(
        shape, width=3.9 if narrow else 10.2, height=2.75 * len(drawn) if narrow else 3.1, share=True
    )
    for panel, axis in zip(drawn, axes):
        for index, (arm, cost) in enumerate(zip(arms, panel.values)):
            colour, mean = SERIES[index % N_SERIES], arm.quality.mean
            if cost is None:
                if arm.n_trainable == 0:
                    axis.axhline(mean, color=colour, linewidth=1.4, linestyle=(0, (4, 3)), zorder=1)
                continue
            spread = arm.quality.half_width if arm.quality.n > 1 else 0.0
            axis.errorbar(
                cost, mean, yerr=spread, color=colour, marker=MARKERS[shape_of(index)], markersize=7,
                elinewidth=1.4, capsize=0, markeredgewidth=0, zorder=3,
            )  # fmt: skip
        held = [(panel.values[index], arms[index].quality.mean) for index in front(arms, panel)]
        drawn_front = [place for place in held if place[0] is not None]
        if drawn_front:
            axis.plot(
                *zip(*drawn_front), color=QUIET, linewidth=1.0, marker="o", markersize=13, markerfacecolor="none",
                markeredgewidth=1.0, zorder=2,
            )  # fmt: skip
        if panel.log:
            counts = [value for value in panel.values if value]
            axis.set_xscale("log")
            _in_decades(axis.xaxis, max(counts) / min(counts), tick)
        axis.margins(x=0.12, y=0.1)
        axis.set_xlabel(panel.title)
        if narrow or axis is axes[0]:
            axis.set_ylabel(on_axis(arms[0].metric))
    return svg(figure)


def search_for_a_dimension(found: Mapping[str, Any]) -> str:
    """The points of `tunewise.intrinsic_dimension`, each with its learning rate over those that did worse; full
    fine-tuning and the target as lines. A file of its own."""
    figure, (axis,) = subplots((1, 1), width=6.4, height=3.4)
    points, metric = found["points"], metric_name(found["metric"])
    tried = [(point["dimension"], one["value"]) for point in points for one in point["tried"]]
    dimensions, values = zip(*((point["dimension"], point["value"]) for point in points), strict=True)
    axis.plot(*zip(*tried, strict=True), color=QUIET, marker=".", linestyle="", alpha=0.6)
    axis.plot(dimensions, values, color=SERIES[0], marker="o", linewidth=1.7)
    for point in points:
        place = (point["dimension"], point["value"])
        axis.annotate(f"{point['learning_rate']:g}", place, (0, 6), textcoords="offset points", ha="center", size=8)
    for name, height, colour, dashes in (
        ("full fine-tuning", found["full"], SERIES[1], "-"),
        (f"{found['share']:.0%} of it", found["target"], SERIES[2], (0, (4, 3))),
    ):
        axis.axhline(height, color=colour, linewidth=1.4, linestyle=dashes)
        place = (0.01, height)
        axis.annotate(name, place, (0, 3), xycoords=("axes fraction", "data"), textcoords="offset points", color=colour)
    if found["dimension"]:
        axis.axvline(found["dimension"], color=GRID, linewidth=1.4, zorder=0)
    axis.set_xscale("log", base=2)
    axis.set_xticks(dimensions, [f"{d:,}" for d in dimensions], rotation=45)
    axis.margins(x=0.06, y=0.14)
    axis.set_xlabel("d, trained numbers")
    axis.set_ylabel(f"{metric} on dev, and the learning rate")
    colours = {INK: "#1c1c1c", QUIET: "#666666", GRID: "#dddddd", SERIES[0]: "#0b7a75", SERIES[1]: "#c0392b"}
    return svg(figure, {**dict.fromkeys(SERIES, "#a86100"), **colours})


def as_written(text: str) -> str:
    """A text that matplotlib draws as it is: a $ begins no formula."""
    return text.replace("$", r"\$")


def subplots(
    shape: tuple[int, int],
    width: float,
    height: float,
    share: bool = False,
    colours: tuple[str, str, str] = (INK, QUIET, GRID),
) -> "tuple[Figure, list[Axes]]":
    """A figure in the page's colours, or in those given for them, made without pyplot and so without global state."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    ink, quiet, grid = colours
    style: Any = {
        "font.size": 9.5, "axes.edgecolor": grid, "axes.labelcolor": quiet,
        "text.color": ink, "xtick.color": quiet, "ytick.color": quiet, "grid.color": grid, "axes.spines.top": False,
        "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True, "grid.linewidth": 0.7,
        "xtick.major.size": 0, "ytick.major.size": 0, "xtick.minor.size": 0, "axes.facecolor": "none",
    }  # fmt: skip
    with mpl.rc_context(style):
        figure = Figure(figsize=(width, height), layout="constrained", facecolor="none")
        axes = figure.subplots(*shape, squeeze=False, sharey=share)
    return figure, list(axes.flat)


def logarithmic(axis: "Axes", low: float, high: float) -> None:
    """Both axes from `low` to `high`, logarithmic, with plain numbers at 1, 2, 5, 10 and so on."""
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlim(low, high)
    axis.set_ylim(low, high)
    for each in (axis.xaxis, axis.yaxis):
        _in_decades(each, high / low, lambda value: f"{value:,.10g}")


def _in_decades(axis: "Axis", span: float, told: Callable[[float], str]) -> None:
    """Of a logarithmic axis whose largest number is `span` times its smallest: plain numbers, no powers of ten, which
    matplotlib would set as formulas."""
    from matplotlib.ticker import LogLocator, NullFormatter

    # as many as have room side by side, or others between where these are too few
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if span < 30 else (1, 3) if span < 300 else (1,)))
    axis.set_major_formatter(lambda value, place: told(value))
    axis.set_minor_formatter(NullFormatter())


def svg(figure: "Figure", colours: Mapping[str, str] = VARIABLES) -> str:
    """The <svg> element alone, its stand-in colours replaced, its fixed size left to the page."""
    import matplotlib as mpl

    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "tunewise"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    for stand_in, colour in colours.items():
        text = text.replace(stand_in, colour)
    text = re.sub(r' width="[\d.]+pt" height="[\d.]+pt"', "", text, count=1)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # the page's own typeface; matplotlib names one that the reader may not have
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    # matplotlib names the parts of every figure alike, and a page has many
    own = "f" + hashlib.sha256(text.encode()).hexdigest()[:8] + "-"
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{own}", text)
