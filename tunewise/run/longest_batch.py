"""The proof that the longest batch of a run fits into memory: tried once for all runs of one kind, and not at all where
twice a generous estimate is free."""

from collections.abc import Sequence
from typing import Any

from tunewise.data.encode import Encoded
from tunewise.data.token_store import longest
from tunewise.engine.objectives import Objective
from tunewise.machine import free_memory
from tunewise.methods.attach import Tuned
from tunewise.models.load import Base
from tunewise.models.weights import bytes_at_rest
from tunewise.training.config import TrainConfig
from tunewise.training.proofs import Proof, check_longest_batch, longest_batch

TIMES_KEPT, TIMES_WEIGHTS, TIMES_TRAINED = 3, 16, 16
"""For an estimate that no method comes near: all that goes into and out of the linear layers is kept so many times;
what a method makes of the weights is so many times as large; a trained number takes so many bytes, with its gradient,
both averages, and copies of the best and the last state."""

BYTES_AT_MOST = "bytes_at_most"
"""In a proof that nothing was tried for."""
_FITTED: dict[tuple[object, ...], dict[str, Proof]] = {}


def longest_batch_fits(
    base: Base, tuned: Tuned, rows: Sequence[Encoded], config: TrainConfig, objective: Objective[Any]
) -> dict[str, Proof]:
    """Tried once in this process for all runs whose longest batch takes the same memory: those of other seeds. Where
    the estimate is told, nothing was tried.

    UserError where it does not fit.
    """
    of_longest = [rows[number] for number in longest(rows, config.batch_size)]
    lengths = sorted((len(row.ids), len(row.labels)) for row in of_longest)
    method = str(tuned.method.configuration())
    key = base.fingerprint, base.dtype, str(tuned.model.device), method, config.checkpointing
    key = (*key, type(objective), objective.layout, objective.criterion, *lengths)
    if key not in _FITTED:
        at_most, free = bytes_at_most(base, tuned, of_longest), free_memory() or 0
        if tuned.model.device.type == "cpu" and objective.layout == "packed" and 2 * at_most < free:
            _FITTED[key] = longest_batch(tuned, of_longest)
            _FITTED[key]["longest_batch_fits"] |= {BYTES_AT_MOST: at_most, "bytes_free": free}
        else:
            _FITTED[key] = check_longest_batch(tuned, rows, config, objective)
    return _FITTED[key]


def bytes_at_most(base: Base, tuned: Tuned, batch: Sequence[Encoded]) -> int:
    """More than a step over these rows, packed, can take."""
    anatomy, each = tuned.anatomy, base.dtype.itemsize
    n_virtual = len(tuned.prefix_ids) + tuned.method.virtual_positions(anatomy)
    n_tokens = sum(len(row.ids) + len(row.labels) + n_virtual for row in batch)
    kept = TIMES_KEPT * sum(site.d_in + site.d_out for site in anatomy.sites) * each
    logits = 16 * anatomy.head.d_out if anatomy.head else 0  # as float32, with their gradients
    weights = TIMES_WEIGHTS * bytes_at_rest(tuned.model)
    return n_tokens * (kept + logits) + weights + TIMES_TRAINED * tuned.n_trainable
