"""One self-contained html page from run folders: no network, no script, light and dark, readable on a phone."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from tunewise import files
from tunewise.report import figure, words
from tunewise.report.arms import Arm, DivergedArm, diverged_of, gather_arms, labels_of, runs_of
from tunewise.report.decision import Decision, best_of, decide
from tunewise.report.folders import Run, majority_score
from tunewise.report.protocol import HowCompared, how_compared
from tunewise.report.samples import Sample, samples_from_predictions, samples_of
from tunewise.verdict import LOWER_IS_BETTER

GLYPHS = "●■◆▲▼✚✖⬟⬢⬧"


def write_page(root: Path, page: Path, *, commands: Sequence[str] = (), title: str = "") -> Path:
    """Render the runs of `root` into the file `page`: those of its comparison, or else every finished one.

    Arms are named and ordered as in the comparison that made them, where one did; `commands` are the lines that made
    the runs. UserError when there is no finished run.
    """
    labels = labels_of(root)
    told = {"samples": samples_of(root), "diverged": diverged_of(root), "how": how_compared(root)}
    text = render(runs_of(root), labels=labels, commands=commands, title=title, **told)
    files.write_text(page, text)
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
    environment = Environment(
        loader=PackageLoader("tunewise.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "duration": words.duration,
        "size": words.size,
        "count": words.count,
        "signed": words.signed,
    }
    base, task = str(first.recipe.get("model", "")), str(first.metrics.get("task", ""))
    return environment.get_template("page.html.jinja").render(
        title=title or f"Adapting {Path(base).name} to {task}",
        base=base,
        task=task,
        arms=arms,
        rows=_rows(arms),
        metric=words.metric_name(arms[0].metric) + words.unit(arms[0].metric).rstrip(),
        decision=decision,
        diverged=diverged,
        how=how,
        tiles=_tiles(arms, decision),
        figures=_figures(arms),
        has_figures=figure.available(),
        glyphs=GLYPHS,
        samples=samples or samples_from_predictions(_telling(arms, decision)),
        proofs=_proofs(arms),
        commands=commands or [_command(run) for run in (arm.runs[0] for arm in arms)],
        environment=_environment(runs),
        n_runs=len(runs),
        majority=majority_score(arms[0].middle.predictions()) if arms[0].metric == "accuracy" else None,
        seeds=sorted({seed for arm in arms for seed in arm.seeds}),
        made=datetime.now(UTC).strftime("%d %B %Y"),
    )


def _rows(arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """What the table shows of each arm; bars are shares of the table's largest value."""
    top = 100.0 if arms[0].metric not in LOWER_IS_BETTER else max(arm.quality.mean for arm in arms)
    return [
        {
            "arm": arm,
            "quality": words.quality(arm.metric, arm.quality),
            "bar": max(0.0, 100 * arm.quality.mean / top) if top else 0.0,
        }
        for arm in arms
    ]


def _telling(arms: Sequence[Arm], decision: Decision) -> list[Arm]:
    """The arms whose answers are worth a column: the first that trains nothing, the one to take, and the best."""
    untrained = [arm for arm in arms if arm.n_trainable == 0][:1]
    return list({id(arm): arm for arm in (*untrained, decision.pick, decision.best)}.values())


def _tiles(arms: Sequence[Arm], decision: Decision) -> list[tuple[str, str, str]]:
    """(figure, what it is, of which arm): the numbers to see first."""
    pick = decision.pick
    tiles = [
        (words.quality(pick.metric, pick.quality) + words.unit(pick.metric), words.metric_name(pick.metric), pick.label)
    ]
    untrained = [arm for arm in arms if arm.n_trainable == 0 and arm is not pick]
    if untrained and pick.n_trainable:
        rival = best_of(untrained)
        gain = pick.quality.mean - rival.quality.mean
        tiles.append((f"{gain:+.1f}".replace("-", "−"), "points over the best without training", rival.label))
    if pick.adapter_bytes:
        tiles.append((words.size(pick.adapter_bytes), "to store and to ship", pick.label))
    if pick.forgetting is not None:
        forgot = f"{pick.forgetting.mean:+.3f}".replace("-", "−")
        tiles.append((forgot, "nats per token forgotten", pick.label))
    return tiles


def _figures(arms: Sequence[Arm]) -> dict[str, tuple[str, str]]:
    """Name -> (wide, narrow) svg; empty where matplotlib is missing."""
    if not figure.available():
        return {}
    drawn = {}
    if any(arm.n_trainable for arm in arms):
        drawn["cost"] = (figure.quality_against_cost(arms), figure.quality_against_cost(arms, narrow=True))
        curves = figure.loss_curves(arms)
        if curves:
            drawn["loss"] = (curves, figure.loss_curves(arms, narrow=True))
    return drawn


def _proofs(arms: Sequence[Arm]) -> dict[str, Any]:
    """The proofs' names, and for each arm with any whether all its seeds passed each, with the largest value seen."""
    names = list(dict.fromkeys(name for arm in arms for run in arm.runs for name in run.proofs()))
    table = []
    for arm in arms:
        cells = []
        for name in names:
            found = [run.proofs()[name] for run in arm.runs if name in run.proofs()]
            # a value without a tolerance is a size or an effect, not a difference
            told = [proof["value"] for proof in found if proof.get("tolerance") is not None]
            values = [float(value) for value in told if isinstance(value, int | float)]
            passed = all(proof.get("passed") for proof in found) if found else None
            cells.append({"passed": passed, "value": max(values) if values else None})
        if any(cell["passed"] is not None for cell in cells):
            table.append((arm, cells))
    n_checked = sum(len(run.proofs()) for arm in arms for run in arm.runs)
    n_passed = sum(bool(proof.get("passed")) for arm in arms for run in arm.runs for proof in run.proofs().values())
    return {
        "names": [name.replace("_", " ") for name in names],
        "table": table,
        "passed": n_passed,
        "checked": n_checked,
    }


def _command(run: Run) -> str:
    return f"tunewise train {run.folder / 'recipe.yaml'}"


def _environment(runs: Sequence[Run]) -> dict[str, str]:
    """What all runs ran on; a value that differs between runs is shown as all its values."""
    values: dict[str, list[str]] = {}
    for run in runs:
        for name, value in run.environment.items():
            if isinstance(value, str | int | float) and str(value) not in values.setdefault(name, []):
                values[name].append(str(value))
    return {name.replace("_", " "): ", ".join(found) for name, found in values.items() if found}
