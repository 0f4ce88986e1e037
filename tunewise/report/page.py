"""One self-contained html page from run folders: no network, no script, light and dark, readable on a phone."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tunewise import files
from tunewise.directions import LOWER_IS_BETTER
from tunewise.report import figure, words
from tunewise.report.arms import Arm, DivergedArm, are_stored_unlike, gather_arms
from tunewise.report.calibration_figure import calibration_figure, calibration_of
from tunewise.report.card import is_shipped, shipped_run
from tunewise.report.confusion import MOST_CLASSES, confusion_of, mistakes_beside
from tunewise.report.curves import learning_curves
from tunewise.report.decision import Decision, best_of, decide
from tunewise.report.dial import dial_figure
from tunewise.report.differences import differences_elsewhere, differences_of
from tunewise.report.folders import Run, majority_score
from tunewise.report.forgotten import forgotten_tasks
from tunewise.report.matrix import matrix_of
from tunewise.report.proof_table import planner_grades, proof_table
from tunewise.report.protocol import HowCompared
from tunewise.report.reproduce import command_of, digests_of, environment_of
from tunewise.report.samples import Sample, contested_items
from tunewise.report.score_rows import set_rows, source_rows
from tunewise.report.shown import Shown, shown_in
from tunewise.report.source_curves import source_curves
from tunewise.report.templating import template

GLYPHS = "●■◆▲▼✚✖⬟⬢★"  # of the marks in figures


def glyph_of(number: int) -> str:
    """The mark of the arm of this number in a text."""
    return GLYPHS[figure.shape_of(number)]


def write_page(root: Path | Shown, page: Path, *, commands: Sequence[str] = (), title: str = "") -> Path:
    """Render the runs of `root` into the file `page`: those of its comparison, or else every finished one.

    Arms are named and ordered as in the comparison that made them, where one did; `commands` are the lines that made
    the runs. UserError when there is no finished run.
    """
    shown = root if isinstance(root, Shown) else shown_in([root])
    told = {"labels": shown.labels, "samples": shown.samples, "diverged": shown.diverged, "how": shown.how}
    files.write_text(page, render(shown.runs, commands=commands, title=title, **told))
    return page


def render(
    runs: Sequence[Run],
    *,
    labels: Mapping[str, str] | None = None,
    commands: Sequence[str] = (),
    title: str = "",
    samples: Sequence[Sample] = (),
    diverged: Sequence[DivergedArm] = (),
    how: HowCompared | None = None,
) -> str:
    """The page as text."""
    arms = gather_arms(runs, labels, diverged)
    how = how or HowCompared()
    first, decision = runs[0], decide(arms, how.rule)
    learnt = next((arm for arm in (decision.pick, *arms) if arm.n_trainable), decision.pick)
    base, task = str(first.recipe.get("model", "")), str(first.metrics.get("task", ""))
    return template("page.html.jinja").render(
        title=title or f"Adapting {words.base_called(base)} to {task}",
        base=base,
        task=task,
        arms=arms,
        rows=_rows(arms),
        metric=words.in_unit(arms[0].metric),
        decision=decision,
        diverged=diverged,
        how=how,
        tiles=_tiles(arms, decision),
        shipped=shipped_run(decision.pick).folder / "adapter" if is_shipped(decision) else None,
        figures=_figures(arms, learnt),
        learnt=learnt,
        sources=source_rows(arms),
        elsewhere=set_rows(arms),
        has_figures=figure.available(),
        glyph_of=glyph_of,
        matrix=matrix_of(arms, decision.verdict),
        held=differences_of(decision.verdict, how, metric=arms[0].metric) + differences_elsewhere(arms, how),
        forgotten=forgotten_tasks(arms),
        classes=_classes(arms, decision),
        samples=samples,
        contested=contested_items(arms),
        proofs=proof_table(arms),
        grades=planner_grades(arms),
        commands=commands or [command_of(arm.runs[0]) for arm in arms],
        digests=digests_of(arms),
        environment=environment_of(runs),
        n_runs=len(runs),
        majority=majority_score(arms[0].middle.predictions()) if arms[0].metric == "accuracy" else None,
        seeds=sorted({seed for arm in arms for seed in arm.seeds}),
        made=datetime.now(UTC).strftime("%d %B %Y"),
    )  # fmt: skip


def _rows(arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """What the table shows of each arm; bars are shares of the table's largest value."""
    top = 100.0 if arms[0].metric not in LOWER_IS_BETTER else max(arm.quality.mean for arm in arms)
    return [
        {
            "arm": arm,
            "quality": words.quality(arm.metric, arm.quality),
            "base": arm.base_told if are_stored_unlike(arms) else "",
            "bar": max(0.0, 100 * arm.quality.mean / top) if top else 0.0,
        }
        for arm in arms
    ]


def _tiles(arms: Sequence[Arm], decision: Decision) -> list[tuple[str, str, str]]:
    """(figure, what it is, of which arm): the numbers to see first."""
    pick = decision.pick if decision.learnt else decision.best
    tiles = [
        (words.quality(pick.metric, pick.quality) + words.unit(pick.metric), words.metric_name(pick.metric), pick.label)
    ]
    untrained = [arm for arm in arms if arm.n_trainable == 0 and arm is not pick]
    if untrained and pick.n_trainable:
        rival = best_of(untrained)
        gain = pick.quality.mean - rival.quality.mean
        digits, what = (3, "beside") if pick.metric in LOWER_IS_BETTER else (1, "points over")
        tiles.append((f"{gain:+.{digits}f}".replace("-", "−"), f"{what} the best without training", rival.label))
    if is_shipped(decision):
        tiles.append((words.size(pick.adapter_bytes), "to store and to ship", pick.label))
    if pick.forgetting is not None:
        forgot = f"{pick.forgetting.mean:+.3f}".replace("-", "−")
        tiles.append((forgot, "nats per token forgotten", pick.label))
    return tiles


def _figures(arms: Sequence[Arm], learnt: Arm) -> dict[str, tuple[str, str]]:
    """Name -> (wide, narrow) svg; empty where matplotlib is missing. Sources are those of the arm `learnt`."""
    if not figure.available() or not any(arm.n_trainable for arm in arms):
        return {}
    wanted = {"cost": figure.quality_against_cost, "dial": dial_figure, "curves": learning_curves}
    drawn = {name: _both(draw, arms) for name, draw in wanted.items()} | {"sources": _both(source_curves, [learnt])}
    return {name: both for name, both in drawn.items() if both[0]}


def _both(draw: Callable[..., str], *arguments: Any) -> tuple[str, str]:
    """A figure as a wide page shows it, and as a phone does."""
    return draw(*arguments, narrow=False), draw(*arguments, narrow=True)


def _classes(arms: Sequence[Arm], decision: Decision) -> dict[str, Any]:
    """Confusion of the arm to take and its rival, and calibration of those and the best that trains nothing.

    Their predictions are read one arm after another, since the scores of many classes take memory.
    """
    pick, others = decision.pick, [arm for arm in arms if arm is not decision.pick]
    rival = decision.best if decision.best is not pick else best_of(others) if others else pick
    untrained = [best_of([arm for arm in arms if not arm.n_trainable])] if any(not a.n_trainable for a in arms) else []
    confusions, calibrations = [], []
    for arm in {id(arm): arm for arm in (pick, rival, *untrained)}.values():
        rows = [row for run in arm.runs for row in run.predictions()]
        found, calibration = confusion_of(rows), calibration_of(rows)
        if found and (arm is pick or arm is rival):
            confusions.append((arm, found))
        if calibration:
            calibrations.append((arm, calibration))
    drawn = _both(calibration_figure, arms, calibrations) if calibrations and figure.available() else None
    is_whole = bool(confusions) and len(confusions[0][1].classes) <= MOST_CLASSES
    return {
        "confusions": confusions,
        "is_whole": is_whole,
        "mistakes": [] if is_whole else mistakes_beside([found for _, found in confusions]),
        "calibrations": calibrations,
        "figure": drawn,
    }
