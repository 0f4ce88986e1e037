"""The retention suite: base and tuned model on the same items, how far each item moved, gains and losses apart."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from tunewise.data.task import Task
from tunewise.directions import LOWER_IS_BETTER
from tunewise.errors import UserError
from tunewise.evaluation.evaluate import Evaluation
from tunewise.evaluation.metrics import Answers, metric_of
from tunewise.evaluation.own_metrics import asked_as
from tunewise.evaluation.retention import retention_loss
from tunewise.models.load import Base
from tunewise.stats import paired_bootstrap

N_RESAMPLES = 2_000
N_FOR_FLOOR = 16
"""Texts by which the noise floor is measured."""
OTHER_BATCH = 5
"""Rows of a padded batch on the other way to the same losses."""
OF_CORPORA = ("macro_f1", "mcc")
"""Metrics that one answer has not, as those that read more than answers and those of one's own; it counts as right or
wrong instead."""
LOWER_IN_HARNESS = ("perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte", "brier_score", "ter")
"""Of the harness's metrics, those of which less is better."""
OF_VALUES = ("pearson", "spearman", "rmse")
"""Metrics of values; a value counts by its error."""


@dataclass(frozen=True)
class Look:
    """What one model makes of the items of one task: the task's metric over all of them, and a value for each."""

    metric: str
    value: float
    items: Mapping[str, float]
    of_texts: bool = False
    """Whether items are losses, of which less is better."""


def look_of(task: Task, found: Evaluation) -> Look:
    """The main metric, and what it is of each item alone.

    Of metrics that one answer has not: 100 or 0 for right or wrong; of values: the absolute error, below zero, as is
    what one of one's own says of which less is better.
    """
    metric, value = next(iter(found.metrics.items()))
    values = [_item(asked_as(metric, task.metrics), row) for row in found.predictions]
    return Look(metric, value, _by_id([str(row["id"]) for row in found.predictions], values))


def _item(metric: str, row: Mapping[str, Any]) -> float:
    if "predicted" not in row:
        return float(row["loss"])
    if metric in OF_VALUES:
        return -abs(float(row["predicted"]) - float(row["expected"]))
    if "worth" in row:
        return -row["worth"] if metric in LOWER_IS_BETTER else row["worth"]
    told = metric_of(metric)
    if metric in OF_CORPORA or told.by_row is not None or told.reads not in ("predicted", "by_length"):
        return 100.0 * bool(row["correct"])
    return told.of(Answers.of([row]))


def look_at_harness(name: str, found: Mapping[str, Any]) -> Look:
    """What `harness_scores` found of one task: the first metric that its items have too, in the harness's own units.

    UserError for a group of tasks, which has no items, and for texts, whose items have no score but together.
    """
    items = found.get("items", [])
    known = [
        key for key, value in found.items() if items and isinstance(value, float) and _is_number(items[0].get(key))
    ]
    if not known:
        hint = "name one task with a score of its own for each item; texts are a file: retention=texts.jsonl"
        raise UserError(f"harness:{name} has no score for each item", hint)
    metric = known[0]
    told = [row for row in items if row.get("filter") == items[0].get("filter")]
    ids, values = [str(row["id"]) for row in told], [float(row[metric]) for row in told]
    return Look(metric, found[metric], _by_id(ids, values), of_texts=metric in LOWER_IN_HARNESS)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def look_at_texts(ids: Sequence[str], found: tuple[float, Sequence[float]]) -> Look:
    """What `retention_loss` found: nats per token over all texts, and of each."""
    return Look("loss", found[0], _by_id(ids, found[1]), of_texts=True)


def _by_id(ids: Sequence[str], values: Sequence[float]) -> dict[str, float]:
    """Items by their ids, and by their places where ids come twice."""
    unique = len(set(ids)) == len(ids)
    return {name if unique else f"{name}#{place}": value for place, (name, value) in enumerate(zip(ids, values))}


def noise_floor(base: Base, documents: Sequence[str], longest: int | None, known: Sequence[float]) -> float:
    """The most that the loss of one of a few texts moves when the base is asked on another way that is as exact.

    `known` are the losses of the documents on the first way; here they are padded, in batches of another size. A change
    of an item that is no larger may be rounding.
    """
    few = documents[:N_FOR_FLOOR]
    _, again = retention_loss(base, few, longest=longest, packing=False, batch_size=OTHER_BATCH)
    return max((abs(one - other) for one, other in zip(again, known)), default=0.0)


def paired(before: Look, after: Look, floor: float = 0.0) -> dict[str, Any]:
    """Base and tuned model side by side: `change` = tuned − base, and the items that got better and worse apart.

    An item counts as gained or lost where it moved by more than `floor`; `mean_gain` and `mean_loss` are over those, in
    the metric's own units. `interval` is the 95 % paired bootstrap of the mean over items of tuned − base.
    """
    items = [(before.items[item], after.items[item]) for item in before.items]
    sign = -1 if before.of_texts else 1
    better = [sign * (new - old) for old, new in items]
    gains, losses = [each for each in better if each > floor], [-each for each in better if each < -floor]
    old, new = zip(*items, strict=True)
    interval = paired_bootstrap(new, old, n_resamples=N_RESAMPLES)
    return {
        "metric": before.metric,
        "base": before.value,
        "tuned": after.value,
        "change": after.value - before.value,
        "n_items": len(items),
        "n_gained": len(gains),
        "n_lost": len(losses),
        "mean_gain": fmean(gains) if gains else 0.0,
        "mean_loss": fmean(losses) if losses else 0.0,
        "noise_floor": floor,
        "interval": [interval.low, interval.high],
    }
