"""How long the rows of a task are, as a base of this kind would be trained on them, without the base."""

from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from tunewise.data.doctor import at_most
from tunewise.data.encode import MASKED
from tunewise.data.task import Task
from tunewise.data.token_store import lengths
from tunewise.engine.objectives import encoder_for
from tunewise.errors import UserError
from tunewise.models.heads import TaskHead

LOOKED_AT = 20_000
"""Rows that are cut into tokens; of more, so many from the first to the last."""
CHARACTERS_A_TOKEN = 4
"""Of English, in the vocabularies of today's models: what is counted with where there is no tokenizer."""


@dataclass(frozen=True)
class RowLengths:
    """Tokens of the training rows, cut to what a run cuts them to, and the positions of them that have a label."""

    n_rows: int
    longest: int
    mean: float
    most_labels: int
    mean_labels: float
    told: str
    """The data and its rows, in words."""


def row_lengths(
    task: Task, tokenizer: PreTrainedTokenizerBase | None, model_kind: str, head: TaskHead, max_length: int
) -> RowLengths:
    """Of every row of train, or of LOOKED_AT of them; a row of one token for each four characters without a tokenizer.

    UserError where there is no row to be trained on.
    """
    n_rows = len(task.train)
    if n_rows == 0:
        raise UserError(f"{task.source} has no row to be trained on", "give other data, or leave data.train out")
    if task.reads_images:
        return RowLengths(n_rows, 1, 1.0, 1, 1.0, f"{n_rows:,} images of {task.name}")
    looked_at, labels, source = [], [], ""
    for each in task.each.values():
        few = at_most(each, LOOKED_AT).train
        if tokenizer is None:
            of_rows = [min(max_length, max(1, len(row.text) // CHARACTERS_A_TOKEN)) for row in few]
            looked_at += of_rows
            labels += of_rows if head.kind == "lm" else [1]
            source = ", told by their characters: a token has four of them (no tokenizer of this base is here)"
            continue
        rows, _ = encoder_for(each, tokenizer, model_kind, head)(few, max_length)
        looked_at += lengths(rows).tolist()
        labels += [sum(label != MASKED for label in row.labels) for row in rows]
    longest, mean = max(looked_at), float(np.mean(looked_at))
    some = f", of {len(looked_at):,} of them" if len(looked_at) < n_rows else ""
    told = f"{n_rows:,} rows of {task.name}, {mean:.0f} tokens long on average and {longest} at most{some}{source}"
    return RowLengths(n_rows, longest, mean, max(labels), float(np.mean(labels)), told)
