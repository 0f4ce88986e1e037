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
    if task.kind not in LABELLED:
        raise UserError(
            f"train.class_weights is given, and {task.name} is {task.kind.replace('_', ' ')}, which has no classes",
            "leave train.class_weights out, or name the column with the class: data.label=COLUMN",
        )
    for label in config.class_weights if config.class_weights != "balanced" else ():
        if label not in task.labels:
            raise unknown("class of train.class_weights", label, task.labels)


def weighed(asked: Asked | None, task: Task, head: HeadKind, found: TrainingRows) -> tuple[dict[str, float], Weighing]:
    """The weight of each class or tag, and what that makes of each label of these rows.

    What is answered in words has the weight of its class in all of an answer's tokens; rows that are replayed count 1.
    """
    if asked is None:
        return {}, ALIKE
    labels = list(_labels(task, head, found))
    weights = weights_of(asked, task.labels, Counter(labels))
    logger.info("class weights: %s", ", ".join(f"{label} {weight:.4g}" for label, weight in weights.items()))
    if head != "lm":
        return weights, Weighing(classes=tuple(weights.values()))
    n_replayed = len(found.rows) - len(labels)
    return weights, Weighing(rows=[weights[label] for label in labels] + [1.0] * n_replayed)


def weights_of(asked: Asked, labels: Sequence[str], counts: Mapping[str, int]) -> dict[str, float]:
    """The weight of each of these classes, which are there so many times.

    `balanced` is n / (k · count), n labels in k classes, as scikit-learn's `compute_class_weight` and King and Zeng
    2001; a class that is not there counts 1, and so does one whose weight is not told.
    """
    if asked == "balanced":
        n, k = sum(counts.values()), sum(count > 0 for count in counts.values())
        return {label: n / (k * counts[label]) if counts.get(label) else 1.0 for label in labels}
    assert not isinstance(asked, str)
    return {label: asked.get(label, 1.0) for label in labels}


def _labels(task: Task, head: HeadKind, found: TrainingRows) -> Iterator[str]:
    """The class of each row, or each tag, of the task's own rows."""
    own = islice(found.rows, found.sources.sizes[0])
    if head == "lm":
        label_of = {example.id: example.label for example in task.train}
        for row in own:
            label = label_of[row.id]
            assert label is not None, row.id
            yield label
    else:
        for row in own:
            yield from (task.labels[int(label)] for label in row.labels if label != MASKED)
