"""How many runs go side by side on this machine where nobody says: two, where that saves time and has the memory.

Two threads wait for each other at every operation, and one of them for all that Python does; two processes of one
thread each do not. But they take seconds to start, and a base each.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from tunewise.comparison.following import work_of
from tunewise.data.task import Task
from tunewise.engine.backend import backend
from tunewise.machine import free_memory, n_cores
from tunewise.methods.attach import count
from tunewise.models.load import Base
from tunewise.models.weights import bytes_at_rest
from tunewise.run import Bases, Recipe, base_of
from tunewise.run.prepare import drawn, load_for
from tunewise.run.together import lengths_of
from tunewise.training.sharing import n_body, threads_of

WORTH_SECONDS = 15.0
"""All products of the runs at full speed, from which on it is worth it; the runs take two or three times as long."""
LARGEST_BATCH = 5000 * 4.8e6
"""Tokens of a batch times parameters behind the embedding, up to which it was seen to save time."""
SHORT_SECONDS = 3.0
"""All products of a run at full speed, up to which it is short; it takes four to six times as long on one thread."""
THREADS_COUNT = 0.68
"""A run takes 1.6 times as long on one thread as on two (llama, 6 layers of width 256; float32 and bfloat16)."""
SHARE_OF_MEMORY = 0.5
"""That two processes may take of what is free."""
PROCESS_BYTES, TIMES_WEIGHTS = 1 << 30, 8
"""What one takes: code and activations, and the weights in float32 with gradients, averages, originals and the best
so far, which is what full fine-tuning takes."""


def n_at_once(arms: Mapping[str, Sequence[Recipe]], bases: Bases) -> int:
    """One or two, for the runs of these arms on the base that they share, which is loaded here.

    One where a person allows a process one thread (OMP_NUM_THREADS=1): two would take twice what was allowed.
    """
    if sum(map(len, arms.values())) < 2 or min(n_cores(), torch.get_num_threads()) < 2:
        return 1
    work = _work(arms, bases)
    if work is None or not _has_room(work.base):
        return 1
    return 2 if work.seconds > WORTH_SECONDS and work.of_a_batch < LARGEST_BATCH else 1


def are_short(arms: Mapping[str, Sequence[Recipe]], bases: Bases) -> bool:
    """Whether a run ends about as soon as a process has imported what it needs, on the base that is loaded here."""
    work = _work(arms, bases) if any(arms.values()) else None
    return work is not None and work.seconds < SHORT_SECONDS * sum(map(len, arms.values()))


@dataclass(frozen=True)
class _Work:
    """What runs ask of the CPU that their base is on."""

    base: Base
    seconds: float
    """All products of all of them at full speed."""
    of_a_batch: float
    """Tokens times parameters behind the embedding."""


def _work(arms: Mapping[str, Sequence[Recipe]], bases: Bases) -> _Work | None:
    """None on a GPU, of what has no texts, and where nobody trains."""
    first = next(recipe for of_arm in arms.values() for recipe in of_arm)
    base = base_of(first, bases)
    if base.model.device.type != "cpu" or base.tokenizer is None:
        return None
    task = drawn(load_for(first.data, first.model, first.dtype, first.head, first.quantise, base)[1], first)
    if not task.train:
        return None
    of_rows, a_token = lengths_of(first, base), n_body(base.model)
    mean = sum(of_rows) / max(1, len(of_rows))
    rows = sum(len(seeds) * _rows_read(seeds[0], task, base) for seeds in arms.values() if seeds)
    seconds = 2 * a_token * mean * rows / (1e9 * backend().gflops_in(base.model.dtype))
    return _Work(base, seconds, a_token * mean * first.train.batch_size)


def slower_by(workers: int) -> float:
    """How many times as long a run takes on the share of the cores that each of several workers has."""
    return (torch.get_num_threads() / threads_of(workers)) ** THREADS_COUNT


def _has_room(base: Base) -> bool:
    wanted = 2 * (PROCESS_BYTES + TIMES_WEIGHTS * bytes_at_rest(base.model))
    return wanted < SHARE_OF_MEMORY * (free_memory() or 0)


def _rows_read(recipe: Recipe, task: Task, base: Base) -> float:
    return sum(work_of(recipe, task, trains=count(base.model, recipe.method) > 0).values())
