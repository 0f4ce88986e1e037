"""The sources of a mixture: how fast the way to take learns each of them."""

from collections.abc import Sequence

from tunewise.report.arms import Arm
from tunewise.report.curves import windowed
from tunewise.report.figure import INK, N_SERIES, SERIES, subplots, svg


def source_losses(arm: Arm) -> dict[str, tuple[list[float], list[float]]]:
    """Source -> (steps, nats per label token), averaged over the seeds and windows; {} where the logs do not tell."""
    found: dict[str, dict[int, list[float]]] = {}
    for run in arm.runs:
        for entry in run.log:
            for name, told in (entry.get("by_source") or {}).items():
                found.setdefault(name, {}).setdefault(int(entry["step"]), []).append(float(told["loss"]))
    return {name: windowed(by_step) for name, by_step in found.items()}


def source_curves(arms: Sequence[Arm], *, narrow: bool = False) -> str:
    """The training loss of the sources of the first of `arms`, at most as many as there are colours. SVG text or ""."""
    told = source_losses(arms[0])
    drawn = [(name, *curve) for name, curve in told.items() if len(curve[0]) > 1][:N_SERIES]
    if not drawn:
        return ""
    figure, (axis,) = subplots((1, 1), width=3.9 if narrow else 7.2, height=2.7 if narrow else 3.1)
    for index, (name, steps, losses) in enumerate(drawn):
        axis.plot(steps, losses, color=SERIES[index], linewidth=1.7, solid_capstyle="round")
        axis.annotate(name, (steps[-1], losses[-1]), (4, 0), textcoords="offset points", color=INK, va="center", size=8)
    lowest, highest = (of(loss for _, _, losses in drawn for loss in losses) for of in (min, max))
    if lowest > 0 and highest > 20 * lowest:
        axis.set_yscale("log")
    axis.set_xlabel("step")
    axis.set_ylabel("training loss, nats per label token")
    return svg(figure)
