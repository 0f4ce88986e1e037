"""Whether runs can be lanes of one batch: tried on a few rows, and not guessed."""

import json
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from tunewise.engine.batches import LabelledBatch
from tunewise.engine.criterion import Criterion
from tunewise.engine.joining import joint_row_losses
from tunewise.methods.alone import CannotShare, has_dropout
from tunewise.methods.lanes import Draws, Lanes
from tunewise.training.checkpoint import random_state
from tunewise.training.lane import Training

SAME = {torch.float64: 1e-6, torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.01}
"""How far gradients may lie from those of the run alone, over their norm: rounding, where sums are taken otherwise."""


def why_not_together(trainings: Sequence[Training]) -> str:
    """Why these runs cannot be lanes of one batch, whatever it would cost; "" where they can.

    What can be told beforehand is; then it is tried and not guessed: the gradients of each on two of its rows, in one
    batch with the others, have to be those that it has alone.
    """
    models = {id(training.tuned.model) for training in trainings}
    layouts = {(type(training.objective), training.objective.layout) for training in trainings}
    if len(models) > 1:
        return "they do not share a base"
    if len(layouts) > 1:
        return f"their batches are {' and '.join(sorted({layout for _, layout in layouts}))}"
    if any(training.config.checkpointing for training in trainings):
        return "activations that are computed again would draw dropout anew"
    if not all(training.rows for training in trainings):
        return "one of them has no row to train on"
    batch = trainings[0].objective.collate(trainings[0].rows[:1])
    if type(batch) is LabelledBatch and any(has_dropout(training.tuned) for training in trainings):
        return "dropout is drawn for padding too, of which a joint batch has more"
    alike: dict[tuple[str, Criterion], list[Training]] = {}
    for training in trainings:
        method = json.dumps(training.tuned.method.configuration())
        alike.setdefault((method, training.objective.criterion), []).append(training)
    one_of_each = [first for first, *_ in alike.values()]
    try:
        return _tried(one_of_each if len(one_of_each) > 1 else trainings[:2])
    except CannotShare as reason:
        return reason.message


def _tried(trainings: Sequence[Training]) -> str:
    tuned = [training.tuned for training in trainings]
    model = tuned[0].model
    was_training = model.training
    model.train()
    try:
        with Lanes(tuned, [Draws(0, model.device) for _ in tuned]) as lanes:
            asked = [_few_rows(training) for training in trainings]
            alone = [_gradients_alone(training, each, lanes) for training, each in zip(trainings, asked, strict=True)]
            try:
                batches = [batch for batch, _ in asked]
                objectives = [training.objective for training in trainings]
                by_row = joint_row_losses(objectives, lanes, range(len(tuned)), batches)
                torch.stack([of.sum() / n for of, (_, n) in zip(by_row, asked, strict=True)]).sum().backward()
            except (RuntimeError, TypeError, ValueError, IndexError) as error:
                return f"{type(model).__name__} does not run them in one batch: {error}"
            for each, expected in zip(tuned, alone, strict=True):
                distance = _distance(expected, _taken_gradients(each.trainable))
                if not distance < SAME[model.dtype]:
                    return f"{each.method.name} has other gradients beside other runs than alone ({distance:.2g})"
    finally:
        model.train(was_training)
        for each in tuned:
            _taken_gradients(each.trainable)
    return ""


def _few_rows(training: Training) -> tuple[Any, int]:
    """A batch of the two shortest rows that have labels, and how many those are."""
    ranked = sorted(training.rows, key=lambda row: len(row.ids))
    labelled = (row for row in ranked if training.objective.collate([row]).n_labels)
    batch = training.objective.collate(list(islice(labelled, 2)) or ranked[:1])
    return batch, max(1, batch.n_labels)


def _gradients_alone(training: Training, asked: tuple[Any, int], lanes: Lanes) -> list[Tensor | None]:
    """The gradients of what is trained, with nothing but this one on the base; CannotShare for a base with dropout."""
    tuned, model, draws = training.tuned, lanes.model, Draws(0, lanes.model.device)
    own = {name: model.get_parameter(name) for name in tuned.selected}
    with lanes.only(tuned), training.objective.ready(model), draws:
        before, _ = random_state(model.device)
        for parameter in own.values():
            parameter.requires_grad_(True)
        batch, n_labels = asked
        (training.objective.loss(model, batch.to(model.device)) / n_labels).backward()
        behind, _ = random_state(model.device)
        if not has_dropout(tuned) and any(not torch.equal(before[name], behind[name]) for name in before):
            raise CannotShare("the base draws dropout of its own, in an order that other runs would change")
    for parameter in own.values():
        parameter.requires_grad_(False)
    return _taken_gradients(tuned.trainable | {f"base.{name}": parameter for name, parameter in own.items()})


def _taken_gradients(trainable: Mapping[str, nn.Parameter]) -> list[Tensor | None]:
    gradients = [parameter.grad for parameter in trainable.values()]
    for parameter in trainable.values():
        parameter.grad = None
    return gradients


def _distance(expected: Sequence[Tensor | None], found: Sequence[Tensor | None]) -> float:
    """The norm of the difference, over that of what was expected; None counts as zero."""
    pairs = [
        (0.0 if a is None else a.double(), 0.0 if b is None else b.double())
        for a, b in zip(expected, found, strict=True)
        if a is not None or b is not None
    ]
    whole = sum(float((a * a).sum()) for a, _ in pairs if isinstance(a, Tensor))
    apart = sum(float(((a - b) ** 2).sum()) for a, b in pairs)
    return (apart / max(whole, 1e-30)) ** 0.5
