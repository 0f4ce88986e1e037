"""What a run trains on, in the terms of the planner: its longest batch, the mean of all, and how many rows it draws."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import islice
from typing import Any

import numpy as np
import torch

from tunewise.data.encode import MASKED, Encoded
from tunewise.data.token_store import lengths
from tunewise.engine.sources import Sources
from tunewise.engine.trunk_store import caps
from tunewise.models.heads import HeadKind, TaskHead
from tunewise.models.load import Base
from tunewise.planning.work import Seen, Work
from tunewise.run.recipe import Recipe


@dataclass(frozen=True)
class TrainedOn:
    """The batches of a run."""

    longest: Work
    """The batch of the first epoch that has most tokens, shared out evenly among its rows."""
    mean_tokens: float
    """Of a row."""
    n_rows: int
    """Drawn by all steps."""
    head_kind: HeadKind
    n_labels: int

    @property
    def head(self) -> TaskHead:
        """One like that of the run, with names of its own."""
        return TaskHead(self.head_kind, tuple(map(str, range(self.n_labels))))

    def as_data(self) -> dict[str, Any]:
        """For metrics.json."""
        work = {**asdict(self.longest), "dtype": str(self.longest.dtype).removeprefix("torch.")}
        return {**work, **{each.name: getattr(self, each.name) for each in fields(self) if each.name != "longest"}}

    @classmethod
    def read(cls, told: Mapping[str, Any]) -> "TrainedOn":
        """What `as_data` tells."""
        work = {each.name: told[each.name] for each in fields(Work) if each.name in told and each.name != "seen"}
        longest = Work(**{**work, "dtype": getattr(torch, told["dtype"])})
        if told.get("seen"):
            longest = replace(longest, seen=Seen(**told["seen"]))
        return cls(longest, **{each.name: told[each.name] for each in fields(cls) if each.name != "longest"})


def from_trunk(trained: TrainedOn, rows: Sequence[Encoded]) -> TrainedOn:
    """The same of a run that keeps what leaves its frozen layers."""
    n, n_tokens = len(rows), int(lengths(rows).sum())
    seen = Seen(n, n_tokens, n * trained.longest.labels, trained.n_rows / max(1, n), "cached", *caps())
    return replace(trained, longest=replace(trained.longest, seen=seen))


def trained_on(base: Base, recipe: Recipe, rows: Sequence[Encoded], sources: Sources) -> TrainedOn:
    """The batches of a run of `recipe` on these rows, in the order in which it draws them."""
    config, n_tokens = recipe.train, lengths(rows)
    n_batches = config.accumulation * min(config.steps_per_epoch(sources.n), config.n_steps(sources.n))
    batches = list(islice(sources.batches(config.batch_size, recipe.seed, 0), n_batches))
    longest = max(batches, key=lambda batch: int(n_tokens[batch].sum()))
    n_labels = sum(label != MASKED for number in longest for label in rows[number].labels)
    work = Work(
        rows=len(longest),
        tokens=max(1, round(float(n_tokens[longest].mean()))),
        labels=max(1, round(n_labels / len(longest))),
        dtype=base.dtype,
        quantise=base.quantise,
        checkpointing=config.checkpointing,
        optimiser=config.optimiser,
        label_smoothing=config.label_smoothing,
        decays=config.weight_decay > 0,
    )
    mean_tokens = round(float(n_tokens[np.concatenate(batches)].mean()), 2)
    return TrainedOn(work, mean_tokens, config.n_drawn(sources.n), base.head.kind, len(base.head.labels))
