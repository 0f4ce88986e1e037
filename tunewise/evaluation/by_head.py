"""A classifier's answers: the class, the value or the tags that its head gives."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tunewise.data.encode import MASKED, Encoded
from tunewise.engine.batches import by_length
from tunewise.engine.from_trunk import from_trunk
from tunewise.engine.objectives import Labels, objective_for
from tunewise.engine.trunk import Trunk
from tunewise.evaluation.questions import LabelledRows
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
