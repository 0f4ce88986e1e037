"""A model card: README.md beside an adapter, with the front matter that the Hugging Face hub reads.

https://huggingface.co/docs/hub/model-cards; the front matter is written by huggingface_hub.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from tunewise import files
from tunewise.directions import LOWER_IS_BETTER
from tunewise.errors import UserError
from tunewise.hub import apart
from tunewise.report import words
from tunewise.report.arms import Arm
from tunewise.report.decision import Decision
from tunewise.report.folders import Run
from tunewise.report.forgotten import forgotten_tasks
from tunewise.report.proof_table import proof_table
from tunewise.report.templating import template

FILE = "README.md"
PEFT_CONFIG, CARD = "adapter_config.json", "tunewise.json"
# kind of head, and for "lm" kind of task -> the hub's name of the task
PIPELINES = {"classes": "text-classification", "value": "text-classification", "tags": "token-classification"}
TASKS = {
    "classification": "text-classification",
    "tagging": "token-classification",
    "regression": "text-classification",
}
# the hub's own names of metrics, where they differ from ours
METRICS = {"macro_f1": "f1", "mcc": "matthews_correlation", "rougeL": "rouge", "rouge1": "rouge", "rouge2": "rouge"}


def shipped_run(arm: Arm) -> Run:
    """The seed of an arm to ship: the best on dev, the first of equals; test has no say in it."""
    metric, sign = arm.metric, -1.0 if arm.metric in LOWER_IS_BETTER else 1.0
    found = [(run.metrics.get("dev") or {}).get(metric) for run in arm.runs]
    scores = [float("-inf") if score is None else sign * float(score) for score in found]
    return arm.runs[scores.index(max(scores))]


def is_shipped(decision: Decision) -> bool:
    """Whether there is an adapter to ship: of a way that is to be taken, now or so far, and that has one."""
    return decision.learnt and bool(decision.pick.adapter_bytes)


def write_card(arms: Sequence[Arm], decision: Decision) -> Path:
    """README.md beside the adapter to ship; UserError where what is to be taken trains nothing."""
    pick = decision.pick
    folder = shipped_run(pick).folder / "adapter"
    if not (folder / CARD).is_file():
        raise UserError(f"{pick.label} has no adapter, so there is no model to describe", "leave --card out")
    path = folder / FILE
    files.write_text(path, card_text(arms, decision))
    return path


def card_text(arms: Sequence[Arm], decision: Decision) -> str:
    """The card of the adapter to ship, as markdown behind its front matter."""
    pick = decision.pick
    run = shipped_run(pick)
    adapter = files.read_json(run.folder / "adapter" / CARD)
    assert isinstance(adapter, dict), run.folder
    by_peft = (run.folder / "adapter" / PEFT_CONFIG).is_file()
    base, task = adapter["base"], str(run.metrics.get("task", ""))
    return template("card.md.jinja").render(
        front_matter=_front_matter(pick, run, adapter, by_peft).to_yaml(),
        name=_model_name(pick, run),
        pick=pick,
        arms=arms,
        decision=decision,
        run=run,
        base=base,
        base_name=hub_name(base["name"]),
        task=task,
        by_peft=by_peft,
        writes=base["head"]["kind"] == "lm",
        templates=templates_of(adapter["notes"]),
        scores=scores_of(pick),
        metric=words.in_unit(pick.metric),
        qualities={arm.label: words.quality(arm.metric, arm.quality) for arm in arms},
        proofs=proof_table([pick]),
        recipe=files.read_text(run.folder / "recipe.yaml").strip(),
        environment=run.environment,
        retention=run.metrics.get("retention"),
        forgotten=forgotten_tasks([pick]),
    )


def templates_of(notes: Mapping[str, Any]) -> dict[str, Mapping[str, str]]:
    """Source of a mixture -> how it was asked and answered; "" for a task of its own."""
    asked = notes.get("sources") or {"": notes}
    return {name: told["template"] for name, told in asked.items() if told.get("template")}


def _front_matter(pick: Arm, run: Run, adapter: Mapping[str, Any], by_peft: bool) -> ModelCardData:
    head, kind = adapter["base"]["head"]["kind"], adapter["notes"].get("kind", "")
    task = str(run.metrics.get("task", ""))
    pipeline = "text-generation" if head == "lm" else PIPELINES[head]
    results = [
        EvalResult(
            task_type=TASKS.get(kind, "text-generation"), dataset_type=_slug(task), dataset_name=task,
            dataset_split="test", metric_type=METRICS.get(name, name), metric_name=words.metric_name(name),
            metric_value=round(float(value), 4),
        )
        for name, value in run.metrics["test"].items()
    ]  # fmt: skip
    return ModelCardData(
        base_model=apart(hub_name(adapter["base"]["name"]))[0],
        library_name="peft" if by_peft else "tunewise",
        pipeline_tag=pipeline,
        tags=["tunewise", "adapter", str(run.method.get("name"))],
        datasets=[_slug(task)],
        metrics=list(dict.fromkeys(METRICS.get(name, name) for name in run.metrics["test"])),
        model_name=_model_name(pick, run),
        eval_results=results,
    )


def scores_of(arm: Arm) -> list[tuple[str, str, str]]:
    """(metric, mean over the seeds with its interval, the shipped seed's own) of each test metric."""
    shipped = shipped_run(arm).metrics["test"]
    return [
        (
            words.in_unit(name),
            words.quality(name, arm.interval_of(name)),
            f"{shipped[name]:.{words.digits(name)}f}",
        )
        for name in shipped
        if all(name in run.metrics["test"] for run in arm.runs)
    ]


def _model_name(arm: Arm, run: Run) -> str:
    return _slug(
        f"{words.base_called(str(run.recipe.get('model', 'model')))}-{run.metrics.get('task', '')}-{arm.label}"
    )


def hub_name(name: str) -> str:
    """A base as the hub knows it; of a folder on disk its name, which says nothing of the machine it lies on; "" of
    none."""
    return words.base_called(name) if name and (Path(name).is_absolute() or Path(name).exists()) else name


def _slug(text: str) -> str:
    """A text as part of a name on the hub: letters, digits, dots, dashes and underscores."""
    return re.sub(r"[^\w.-]+", "-", text, flags=re.ASCII).strip("-.") or "unnamed"
