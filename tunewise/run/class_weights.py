"""Label smoothing and class weights of a recipe: whether its task has a use for them, and the weights of its rows."""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Literal

from tunewise.data.encode import MASKED
from tunewise.data.task import LABELLED, Task
from tunewise.errors import UserError, unknown
from tunewise.methods.selective.frozen import Frozen
from tunewise.models.heads import HeadKind
from tunewise.run.recipe import Recipe
from tunewise.run.training_rows import TEXTS, TrainingRows
from tunewise.training.weighing import ALIKE, Weighing

logger = logging.getLogger(__name__)

WITHOUT_SMOOTHING = {
    "regression": "is a regression, whose loss is the squared error of a number",
    TEXTS: "is plain text, of which the plain loss is what is wanted",
}
"""Kind of task -> why there is nothing to smooth."""
Asked = Literal["balanced"] | Mapping[str, float]


def check_loss(recipe: Recipe, task: Task) -> None:
    """UserError where the training's label smoothing or class weights make no sense for this task."""
    config = recipe.train
    if isinstance(recipe.method, Frozen):
        return  # trains nothing
    kinds = [each.kind for each in task.each.values()]
    if config.label_smoothing and all(kind in WITHOUT_SMOOTHING for kind in kinds):
        raise UserError(
            f"train.label_smoothing={config.label_smoothing:g}, and {task.name} {WITHOUT_SMOOTHING[kinds[0]]}",
            "leave train.label_smoothing out",
        )
    if config.class_weights is None:
        return
    labels = _classes(task)
    for label in config.class_weights if config.class_weights != "balanced" else ():
        if label not in labels:
            raise unknown("class of train.class_weights", label, labels)


def _classes(task: Task) -> tuple[str, ...]:
    """The classes of a task, which the sources of a mixture have to share; UserError where there are none."""
    each = task.each
    without = next((name for name, one in each.items() if one.kind not in LABELLED), None)
    if without is not None:
        named, kind = f"its source {without}" if task.mixture else task.name, each[without].kind.replace("_", " ")
        raise UserError(
            f"train.class_weights is given, and {named} is {kind}, which has no classes",
            "leave train.class_weights out, or name the column with the class: data.label=COLUMN",
        )
    first, *others = each
    unlike = next((name for name in others if set(each[name].labels) != set(each[first].labels)), None)
    if unlike is not None:
        told = "; ".join(f"{name}: {', '.join(each[name].labels)}" for name in (first, unlike))
        raise UserError(
            f"train.class_weights weighs classes that all sources have, and {task.name} has others in each ({told})",
            "leave train.class_weights out",
        )
    return each[first].labels


def weighed(asked: Asked | None, task: Task, head: HeadKind, found: TrainingRows) -> tuple[dict[str, float], Weighing]:
    """The weight of each class or tag, and what that makes of each label of these rows.

    What is answered in words has the weight of its class in all of an answer's tokens; rows that are replayed count 1.
    In a mixture `balanced` goes by how often a class is drawn, whichever source it is from.
    """
    if asked is None:
        return {}, ALIKE
    counts: dict[str, float] = {}
    labels: list[str] = []
    sources = found.sources
    for size, rate, of_source in zip(sources.sizes, sources.rates or sources.sizes, _labels(task, head, found)):
        for label, n in Counter(of_source).items():
            counts[label] = counts.get(label, 0) + n * rate / max(1, size)
        labels += of_source
    weights = weights_of(asked, _classes(task), counts)
    logger.info("class weights: %s", ", ".join(f"{label} {weight:.4g}" for label, weight in weights.items()))
    if head != "lm":
        return weights, Weighing(classes=tuple(weights.values()))
    n_replayed = len(found.rows) - len(labels)
    return weights, Weighing(rows=[weights[label] for label in labels] + [1.0] * n_replayed)


def weights_of(asked: Asked, labels: Sequence[str], counts: Mapping[str, float]) -> dict[str, float]:
    """The weight of each of these classes, which are there so many times, or have such a share of the draws.

    `balanced` is n / (k · count), n labels in k classes, as scikit-learn's `compute_class_weight` and King and Zeng
    2001; a class that is not there counts 1, and so does one whose weight is not told.
    """
    if asked == "balanced":
        n, k = sum(counts.values()), sum(count > 0 for count in counts.values())
        return {label: n / (k * counts[label]) if counts.get(label) else 1.0 for label in labels}
    assert not isinstance(asked, str)
    return {label: asked.get(label, 1.0) for label in labels}


def _labels(task: Task, head: HeadKind, found: TrainingRows) -> Iterator[list[str]]:
    """The class of each row, or each tag, of the task's own rows, source by source."""
    rows = iter(found.rows)
    for each, size in zip(task.each.values(), found.sources.sizes):
        own = islice(rows, size)
        if head == "lm":
            label_of = {example.id: str(example.label) for example in each.train}
            yield [label_of[row.id] for row in own]
        else:
            yield [each.labels[int(label)] for row in own for label in row.labels if label != MASKED]
