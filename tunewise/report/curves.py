"""Learning curves: the score on dev and the training loss over the steps, averaged over the seeds of each arm."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import TYPE_CHECKING

from tunewise.directions import LOWER_IS_BETTER
from tunewise.report.arms import Arm
from tunewise.report.figure import N_SERIES, SERIES, subplots, svg
from tunewise.report.words import on_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class DevCurve:
    """What dev said while training: mean, least and largest over the seeds at each step, and which states were kept."""

    steps: tuple[int, ...]
    means: tuple[float, ...]
    lows: tuple[float, ...]
    highs: tuple[float, ...]
    kept: tuple[tuple[int, float], ...]
    """(step, score) of the best state, one a seed."""


def dev_curve(arm: Arm) -> DevCurve | None:
    """The evaluations on dev that the logs of the arm's runs hold, in the units of the metric; None for none.

    A step that not every seed reached (patience) has the mean of those that did. A log turns a loss so that higher is
    better; here it is a loss again.
    """
    sign = -1.0 if arm.metric in LOWER_IS_BETTER else 1.0
    by_step: dict[int, list[float]] = {}
    kept = []
    for run in arm.runs:
        evaluations = [(int(e["step"]), sign * float(e["dev"]), e.get("best")) for e in run.log if "dev" in e]
        for step, score, _ in evaluations:
            by_step.setdefault(step, []).append(score)
        kept += [(step, score) for step, score, is_best in evaluations if is_best][-1:]
    if not by_step:
        return None
    steps = sorted(by_step)
    found = [by_step[step] for step in steps]
    means, lows, highs = (tuple(map(of, found)) for of in (fmean, min, max))
    return DevCurve(tuple(steps), means, lows, highs, tuple(kept))


def smoothed_losses(arm: Arm, n_points: int = 60) -> tuple[list[float], list[float]]:
    """(steps, losses): the training loss averaged over the seeds and then over windows."""
    by_step: dict[int, list[float]] = {}
    for run in arm.runs:
        for entry in run.log:
            step, loss = entry.get("step"), entry.get("loss")
            if isinstance(step, int) and isinstance(loss, int | float):
                by_step.setdefault(step, []).append(float(loss))
    return windowed(by_step, n_points)


def windowed(by_step: Mapping[int, Sequence[float]], n_points: int = 60) -> tuple[list[float], list[float]]:
    """(steps, means) of values at each step, averaged over windows of steps, for a readable curve."""
    steps = sorted(by_step)
    width = max(1, len(steps) // n_points)
    windows = [steps[start : start + width] for start in range(0, len(steps), width)]
    means = [fmean(fmean(by_step[s]) for s in window) for window in windows]
    return [float(median(window)) for window in windows], means


def learning_curves(arms: Sequence[Arm], *, narrow: bool = False) -> str:
    """Dev score and training loss over steps, a panel each, as far as the logs have them. SVG text, "" for neither."""
    scores = [(index, curve) for index, arm in enumerate(arms) if (curve := dev_curve(arm)) is not None]
    losses = [(index, *smoothed_losses(arm)) for index, arm in enumerate(arms)]
    losses = [curve for curve in losses if len(curve[1]) > 1]
    n_panels = bool(scores) + bool(losses)
    if not n_panels:
        return ""
    shape = (n_panels, 1) if narrow else (1, n_panels)
    figure, axes = subplots(shape, width=3.9 if narrow else 10.2, height=2.7 * n_panels if narrow else 3.1)
    if scores:
        _draw_scores(axes[0], arms, scores)
    if losses:
        _draw_losses(axes[-1], losses)
    for axis in axes:
        axis.set_xlabel("step")
        axis.margins(x=0.03)
    return svg(figure)


def _draw_scores(axis: "Axes", arms: Sequence[Arm], curves: Sequence[tuple[int, DevCurve]]) -> None:
    metric = arms[0].metric
    for index, arm in enumerate(arms):
        known = [run.metrics["dev"][metric] for run in arm.runs if metric in (run.metrics.get("dev") or {})]
        if known and arm.n_trainable == 0:
            axis.axhline(fmean(known), color=SERIES[index % N_SERIES], linewidth=1.4, linestyle=(0, (4, 3)), zorder=1)
    for index, curve in curves:
        colour = SERIES[index % N_SERIES]
        marker = "o" if len(curve.steps) == 1 else ""
        axis.plot(curve.steps, curve.means, color=colour, linewidth=1.7, solid_capstyle="round", marker=marker)
        axis.fill_between(curve.steps, curve.lows, curve.highs, color=colour, alpha=0.13, linewidth=0)
        axis.plot(*zip(*curve.kept), color=colour, marker="o", markersize=4.5, linestyle="", zorder=3)
    axis.set_ylabel(on_axis(metric, " on dev"))


def _draw_losses(axis: "Axes", curves: Sequence[tuple[int, list[float], list[float]]]) -> None:
    for index, steps, losses in curves:
        axis.plot(steps, losses, color=SERIES[index % N_SERIES], linewidth=1.7, solid_capstyle="round")
    drawn = [loss for _, _, losses in curves for loss in losses]
    if min(drawn) > 0 and max(drawn) > 20 * min(drawn):
        axis.set_yscale("log")
    axis.set_ylabel("training loss, nats per label token")
