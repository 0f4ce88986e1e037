"""How far each arm's probabilities can be believed: a reliability diagram an arm, and its error in words."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from tunewise.calibration import Bin, expected_calibration_error, probabilities, reliability
from tunewise.report.arms import Arm
from tunewise.report.figure import GRID, N_SERIES, QUIET, SERIES, as_written, subplots, svg

N_BINS = 10  # few test items would leave finer bins all but empty
BIGGEST_DOT = 130.0


@dataclass(frozen=True)
class Calibration:
    """The confidences of one arm's answers on test, all seeds together, beside how often they were right."""

    bins: tuple[Bin, ...]
    error: float
    """Expected calibration error, 0 to 1."""
    confidence: float
    accuracy: float

    @property
    def told(self) -> str:
        """ "sure of 93.1 %, right in 90.2 %: off by 3.4 points on average"."""
        gap = self.confidence - self.accuracy
        lean = "too sure" if gap > 0.005 else "too careful" if gap < -0.005 else "neither too sure nor too careful"
        return (
            f"{100 * self.confidence:.1f} % sure on average and right in {100 * self.accuracy:.1f} %, so {lean}; "
            f"expected calibration error {100 * self.error:.1f} points"
        )


def calibration_of(rows: Iterable[Mapping[str, Any]]) -> Calibration | None:
    """The calibration of predictions that have a score, a log-probability, for each class; None for others.

    The confidence of an answer is the softmax of its scores over the classes, at the class it chose.
    """
    confidences, corrects = [], []
    for row in rows:
        if "scores" not in row:
            return None
        confidences.append(max(probabilities(list(row["scores"].values()))))
        corrects.append(bool(row["correct"]))
    if not confidences:
        return None
    return Calibration(
        tuple(reliability(confidences, corrects, N_BINS)),
        expected_calibration_error(confidences, corrects, N_BINS),
        fmean(confidences),
        fmean(corrects),
    )


def calibration_figure(arms: Sequence[Arm], found: Sequence[tuple[Arm, Calibration]], *, narrow: bool = False) -> str:
    """One square an arm of `found`: how often it was right against how sure it was, a dot a bin, its area the share of
    the answers. On the diagonal both are the same. `arms` give the colours. SVG text."""
    shape = (len(found), 1) if narrow else (1, max(3, len(found)))
    figure, axes = subplots(
        shape, width=3.9 if narrow else 10.2, height=3.0 * len(found) if narrow else 3.3, share=True
    )
    for axis, (arm, calibration) in zip(axes, found):
        colour, bins = SERIES[arms.index(arm) % N_SERIES], calibration.bins
        most = max(each.n for each in bins)
        axis.plot((0, 100), (0, 100), color=QUIET, linewidth=1.0, linestyle=(0, (4, 3)), zorder=1)
        sure, right = [100 * each.confidence for each in bins], [100 * each.accuracy for each in bins]
        axis.vlines(sure, sure, right, color=colour, linewidth=1.2, alpha=0.5)
        sizes = [8.0 + BIGGEST_DOT * each.n / most for each in bins]
        axis.scatter(sure, right, s=sizes, color=colour, linewidths=0, zorder=3)
        axis.set_title(as_written(arm.label), fontsize=9.5, color=colour)
        axis.set_xlabel("confidence, %")
        axis.set_xlim(-4, 104)
        axis.set_ylim(-4, 104)
        for side in ("left", "bottom"):
            axis.spines[side].set_color(GRID)
        if narrow or axis is axes[0]:
            axis.set_ylabel("right, %")
    for axis in axes[len(found) :]:
        axis.set_visible(False)
    return svg(figure)
