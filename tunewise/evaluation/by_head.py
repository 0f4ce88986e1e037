"""A classifier's answers: the class, the value or the tags that its head gives."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tunewise.data.encode import MASKED, Encoded
from tunewise.engine.batches import by_length
from tunewise.engine.from_trunk import from_trunk
from tunewise.engine.joining import join
from tunewise.engine.objectives import Labels, objective_for
from tunewise.engine.packed_reading import rows_of
from tunewise.engine.trunk import Trunk
from tunewise.evaluation.questions import LabelledRows
from tunewise.methods.lanes import Lanes
from tunewise.models.load import Base


@torch.no_grad()
def answers_by_head(
    base: Base,
    asked: LabelledRows,
    prefix_ids: Sequence[int] = (),
    batch_size: int = 32,
    trunk: Trunk | None = None,
    packing: bool = True,
) -> tuple[list[dict[str, Any]], float]:
    """For each row what was expected and predicted; and the loss, in nats a label (the squared error of values).

    Texts stand behind one another without padding where this base runs so, unless `packing` is off.
    """
    objective = objective_for(base, prefix_ids, packing=packing)
    assert isinstance(objective, Labels), base.head
    objective = from_trunk(objective, trunk, asked.rows, batch_size)
    rows: list[dict[str, Any]] = [{} for _ in asked.rows]
    losses: list[float] = []
    n_labels = 0
    for indices in by_length([len(row.ids) for row in asked.rows], batch_size):
        batch = objective.collate([asked.rows[i] for i in indices]).to(base.model.device)
        with objective.ready(base.model):
            logits = objective.logits(base.model, batch)
        losses += objective.losses(logits, batch).tolist()
        n_labels += batch.n_labels
        for place, i in enumerate(indices):
            row = asked.rows[i]
            told = _told(base, row, objective.of_row(logits, batch, place))
            rows[i] = {"id": row.id, "prompt": asked.shown[i], **told}
    return rows, math.fsum(losses) / max(1, n_labels)


@torch.no_grad()
def answers_by_head_of_lanes(
    base: Base, lanes: Lanes, asked: Mapping[int, LabelledRows], objectives: Mapping[int, Labels], batch_size: int
) -> dict[int, tuple[list[dict[str, Any]], float]]:
    """The same for each of these lanes, whose rows its objective lays out; all objectives are of one layout.

    Of texts so many are read at a time as have the tokens of one packed row, of images `batch_size`.
    """
    found: dict[int, list[dict[str, Any]]] = {number: [{} for _ in of_lane.rows] for number, of_lane in asked.items()}
    losses: dict[int, list[float]] = {number: [] for number in asked}
    n_labels = dict.fromkeys(asked, 0)
    every = [(number, i) for number, of_lane in asked.items() for i in range(len(of_lane.rows))]
    rows = [asked[number].rows[i] for number, i in every]
    n_tokens = [len(objectives[number].prefix_ids) + len(row.ids) for (number, _), row in zip(every, rows, strict=True)]
    n_labels_of, n_classes = [len(row.labels) for row in rows], max(1, len(base.head.labels))
    passes = rows_of(n_tokens, n_labels_of, n_classes) if base.tokenizer else by_length(n_tokens, batch_size)
    for indices in passes:
        held: dict[int, list[int]] = {}
        for index in sorted(indices):  # lane by lane
            held.setdefault(every[index][0], []).append(index)
        batches = [objectives[number].collate([rows[i] for i in of_lane]) for number, of_lane in held.items()]
        pad_id = base.tokenizer.pad_token_id if base.tokenizer else 0
        joined, parts = join(batches, list(held), [False] * len(held), pad_id)
        batch, objective = joined.to(base.model.device), objectives[next(iter(held))]
        with objective.ready(base.model), lanes.at(parts):
            logits = objective.logits(base.model, batch)
        by_row = objective.losses(logits, batch).tolist()
        for place, index in enumerate(i for of_lane in held.values() for i in of_lane):
            number, i = every[index]
            losses[number].append(by_row[place])
            told = _told(base, rows[index], objective.of_row(logits, batch, place))
            found[number][i] = {"id": rows[index].id, "prompt": asked[number].shown[i], **told}
        for number, own in zip(held, batches, strict=True):
            n_labels[number] += own.n_labels
    return {number: (found[number], math.fsum(losses[number]) / max(1, n_labels[number])) for number in asked}


def _told(base: Base, row: Encoded, logits: Tensor) -> dict[str, Any]:
    labels = base.head.labels
    if base.head.kind == "value":
        return {"expected": repr(row.labels[0]), "predicted": repr(round(logits.item(), 6))}
    if base.head.kind == "tags":
        expected = " ".join(labels[int(label)] for label in row.labels if label != MASKED)
        predicted = " ".join(labels[number] for number in logits.argmax(-1).tolist())
    else:
        expected, predicted = labels[int(row.labels[0])], labels[int(logits.argmax())]
    told: dict[str, Any] = {"expected": expected, "predicted": predicted, "correct": predicted == expected}
    if base.head.kind == "classes":
        scores = logits.log_softmax(-1).tolist()
        told["scores"] = {label: round(score, 6) for label, score in zip(labels, scores, strict=True)}
    return told
