"""In-context learning against fine-tuning for every pair of model sizes, in and out of domain.

Mosbach et al. 2023, arXiv:2305.16938, table 1: as many examples for both (16, drawn anew by each of 10 seeds),
fine-tuning by the pattern and the label words that in-context learning has too, the state chosen in domain. A cell
is the mean of a fine-tuned model less that of a model that is shown the examples, with Welch's test over seeds.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tunewise import files
from tunewise.comparison.following import GridWatcher
from tunewise.comparison.grid import compare
from tunewise.directions import LOWER_IS_BETTER
from tunewise.errors import UserError
from tunewise.hub import apart, at_revision
from tunewise.models.load import load_config
from tunewise.run.record import METRICS, mapping
from tunewise.stats import ALPHA, difference_interval, holm, of_rounding, welch
from tunewise.verdict import step_of

logger = logging.getLogger(__name__)

RESULT = "icl-vs-ft.json"
IN_CONTEXT, FINE_TUNED = "in-context learning", "fine-tuning"
IN_DOMAIN = "in domain"
TRAIN = {
    "epochs": 40.0,
    "batch_size": 32,
    "learning_rate": 1e-5,
    "schedule": "constant",
    "warmup": 0.1,
    "evaluate_every": 1.0,
}
"""The paper's: AdamW, no decay of weights, 10 % of the steps up and then level, a look at dev after every epoch."""

Fields = Mapping[str, Any]  # of a recipe
Scores = dict[str, dict[str, list[float]]]
"""Way -> domain -> the metric of each seed."""


@dataclass(frozen=True)
class Cell:
    """One pair of models, which may be the same: mean(fine-tuned) − mean(in context) and what Welch's test says."""

    fine_tuned: str
    in_context: str
    difference: float
    half_width: float | None
    """Of its 95 % interval; None where a single seed tells nothing of it."""
    t: float | None
    """None where it is infinite: neither side scatters, and they differ."""
    df: float
    p: float
    p_holm: float
    """p, corrected over all pairs of the grid."""
    better: str | None
    """The way that is reliably better, by `p_holm`; None where they are not told apart."""


def icl_vs_ft(
    models: Sequence[str] | Mapping[str, Fields],
    data: str | Fields,
    *,
    out_of_domain: Fields | None = None,
    shots: int = 16,
    seeds: Sequence[int] = range(10),
    fields: Fields | None = None,
    out: str | Path = "runs/icl-vs-ft",
    progress: GridWatcher | None = None,
) -> dict[str, Any]:
    """`tunewise compare --protocol icl-vs-ft`: the content of icl-vs-ft.json, with one grid a domain.

    `models` are names, or names with recipe fields of their own, {"PATH": {"train": {"learning_rate": 1e-4}}};
    `fields` are recipe fields of all, over those of the paper (`TRAIN`, and full fine-tuning as the method), and
    `out_of_domain` the test sets from elsewhere, by name. Every model has a comparison of two arms below `out`, with
    its run folders: what is done is not carried out again. A seed that diverged is left out of its arm. Raises
    UserError where an arm has none left, for two models of one name, and for a metric that is not there.
    """
    given = models if isinstance(models, Mapping) else {model: {} for model in models}
    labels = _labels(list(models))
    root, own = Path(out), fields or {}
    common = {"path": data} if isinstance(data, str) else dict(data)
    for model in given:
        load_config(model)  # a name that is none is told before the first model is run
    found, compared = [], {}
    for label, (model, of_model) in zip(labels, given.items(), strict=True):
        logger.info("model %s", label)
        arms = _arms(shots, out_of_domain or {}, [own, of_model])
        compared = compare(
            {**common, "few_shot": shots}, model=model, methods=arms, seeds=seeds, out=root / label, progress=progress
        )
        found.append({"label": label, "model": model, "scores": scores_of(compared, root / label)})
    metric = compared["verdict"]["metric"]
    steps = steps_of(compared, root / labels[-1], metric)
    content = {
        "protocol": "icl-vs-ft",
        "source": "arXiv:2305.16938, table 1",
        "data": compared["data"],
        "out_of_domain": compared["out_of_domain"],
        "metric": metric,
        "shots": shots,
        "seeds": list(seeds),
        "alpha": ALPHA,
        "models": found,
        "grids": {
            domain: [
                asdict(cell)
                for cell in size_grid(
                    {each["label"]: each["scores"][FINE_TUNED][domain] for each in found},
                    {each["label"]: each["scores"][IN_CONTEXT][domain] for each in found},
                    lower_is_better=metric in LOWER_IS_BETTER,
                    step=step,
                )
            ]
            for domain, step in steps.items()
        },
    }
    files.write_json(root / RESULT, content)
    return content


def size_grid(
    fine_tuned: Mapping[str, Sequence[float]],
    in_context: Mapping[str, Sequence[float]],
    *,
    lower_is_better: bool = False,
    step: float = 0.0,
    alpha: float = ALPHA,
) -> list[Cell]:
    """Every pair of a fine-tuned model and one that learns in context (name -> a value a seed), row by row.

    `step` is what one item is worth: seeds that seem to scatter less than rounding to it would count as scattering so.
    """
    pairs, least = [(row, column) for row in fine_tuned for column in in_context], of_rounding(step)
    tests = [welch(fine_tuned[row], in_context[column], least) for row, column in pairs]
    corrected = holm([test.p for test in tests])
    cells = []
    for (row, column), test, p_holm in zip(pairs, tests, corrected, strict=True):
        gap = difference_interval(fine_tuned[row], in_context[column], least=least)
        tuned_wins = (gap.mean < 0) == lower_is_better
        better = None if p_holm >= alpha else FINE_TUNED if tuned_wins else IN_CONTEXT
        half_width = gap.half_width if gap.n > 1 else None
        t = test.t if abs(test.t) < float("inf") else None
        cells.append(Cell(row, column, gap.mean, half_width, t, test.df, test.p, p_holm, better))
    return cells


def steps_of(compared: Fields, root: Path, metric: str) -> dict[str, float]:
    """What one item of each domain is worth in points; all models are asked the same."""
    arm = next(arm for arm in compared["arms"] if arm["seeds"])
    run = mapping(root / arm["folder"] / f"seed{arm['seeds'][0]}" / METRICS)
    sizes = {IN_DOMAIN: run["n_test"], **run.get("n_out_of_domain", dict.fromkeys(run["out_of_domain"], 0))}
    return {domain: step_of(metric, n_items) for domain, n_items in sizes.items()}


def scores_of(compared: Fields, root: Path) -> Scores:
    """The main metric of each finished run of one model's comparison, by way and domain."""
    scores: Scores = {}
    for arm in compared["arms"]:
        if not arm["seeds"]:
            lost = arm["failed"][0]
            raise UserError(f"{root.name}: every run of {arm['label']} diverged: {lost['reason']}", lost["hint"])
        runs = [mapping(root / arm["folder"] / f"seed{seed}" / METRICS) for seed in arm["seeds"]]
        metric = next(iter(runs[0]["test"]))
        lacking = next((name for name, told in runs[0]["out_of_domain"].items() if metric not in told), None)
        if lacking is not None:
            raise UserError(
                f"{metric} cannot be told of {lacking}, whose labels are not the task's",
                "let another metric come first: data.metrics=accuracy",
            )
        scores[arm["label"]] = {IN_DOMAIN: [run["test"][metric] for run in runs]} | {
            name: [run["out_of_domain"][name][metric] for run in runs] for name in runs[0]["out_of_domain"]
        }
    return scores


def _arms(shots: int, out_of_domain: Fields, given: Sequence[Fields]) -> dict[str, Fields]:
    """The two ways as recipe fields; later ones of `given` win over earlier ones, those of `train` one by one."""
    shared: dict[str, Any] = {"method": "full", "out_of_domain": dict(out_of_domain)}
    train: dict[str, Any] = dict(TRAIN)
    for fields in given:
        shared |= {name: value for name, value in fields.items() if name != "train"}
        train |= fields.get("train", {})
        if "steps" in fields.get("train", {}):
            train.pop("epochs", None)
    shared["train"] = train
    return {IN_CONTEXT: {**shared, "method": {"name": "frozen", "shots": shots}}, FINE_TUNED: shared}


def _labels(models: Sequence[str]) -> list[str]:
    """The last part of each model's name, which names its folder."""
    if not models:
        raise UserError("no models given", "name two or more: --models facebook/opt-125m,facebook/opt-350m")
    labels = [at_revision(Path(name).name, revision.replace("/", "-")) for name, revision in map(apart, models)]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise UserError(f"two models are called {twice}", "give each once, from folders of different names")
    return labels
