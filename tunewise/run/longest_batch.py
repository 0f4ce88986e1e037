"""The proof that the longest batch of a run fits into memory, tried once for all runs of one kind."""

from collections.abc import Sequence
from typing import Any

from tunewise.data.encode import Encoded
from tunewise.data.token_store import longest
from tunewise.engine.objectives import Objective
from tunewise.methods.attach import Tuned
from tunewise.models.load import Base
from tunewise.training.config import TrainConfig
from tunewise.training.proofs import Proof, check_longest_batch

_FITTED: dict[tuple[object, ...], dict[str, Proof]] = {}


def longest_batch_fits(
    base: Base, tuned: Tuned, rows: Sequence[Encoded], config: TrainConfig, objective: Objective[Any]
) -> dict[str, Proof]:
    """Tried once in this process for all runs whose longest batch takes the same memory: those of other seeds.

    UserError where it does not fit.
    """
    lengths = sorted((len(row.ids), len(row.labels)) for row in map(rows.__getitem__, longest(rows, config.batch_size)))
    method = str(tuned.method.configuration())
    key = base.fingerprint, base.dtype, str(tuned.model.device), method, config.checkpointing
    key = (*key, type(objective), objective.layout, objective.criterion, *lengths)
    if key not in _FITTED:
        _FITTED[key] = check_longest_batch(tuned, rows, config, objective)
    return _FITTED[key]
