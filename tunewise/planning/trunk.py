"""Which way a run would take with the layers below everything trained: at every step, or once for each row."""

from dataclasses import dataclass
from typing import Any

from tunewise.engine.from_trunk import route_for, why_live
from tunewise.engine.objectives import Images, Labels, Objective, Writing
from tunewise.engine.trunk import Trunk
from tunewise.methods.attach import Tuned
from tunewise.planning.rows import unlike_rows
from tunewise.planning.work import Seen, Work

LENGTHS = (9, 6)
"""Tokens of the rows that a trunk is tried on."""


@dataclass(frozen=True)
class TrunkPlan:
    """The route that is planned."""

    reason: str = "train.trunk=live"
    """Why the layers run at every step; "" where what leaves them is kept."""
    layers: int = 0
    """Of the trunk."""
    memory_bytes: int = 0
    """Of what leaves it, of all rows: in memory, in mapped files, and what there is no room for."""
    mapped_bytes: int = 0
    missing_bytes: int = 0

    @property
    def is_cached(self) -> bool:
        return not self.reason

    @property
    def missing(self) -> float:
        """The share of rows whose trunk runs at every step all the same."""
        return self.missing_bytes / max(1, self.memory_bytes + self.mapped_bytes + self.missing_bytes)


def try_trunk(tuned: Tuned, objective: Objective[Any]) -> tuple[Trunk | None, str]:
    """The trunk of a narrow sibling that can be run, from which its losses can be had; or why there is none."""
    if isinstance(objective, Images):
        return None, "of images a plan counts with every layer at every step"
    head = objective.base.head.kind if isinstance(objective, Labels | Writing) else "lm"
    rows = unlike_rows([Work(rows=1, tokens=n, labels=4) for n in LENGTHS], head, tuned.anatomy.kind)
    route = route_for(tuned, objective, rows, "cached")
    return (None, route.reason) if route.reason else (route.trunk, "")


def plan_of(trunk: Trunk | None, why_not: str, seen: Seen, storage: str) -> TrunkPlan:
    """Whether a run that sees these rows keeps what leaves its trunk; how much that is, is not told yet."""
    if trunk is None:
        return TrunkPlan(why_not)
    return TrunkPlan(why_live(trunk, seen.how, storage, seen.rows, seen.passes), trunk.n_layers)


def with_bytes(plan: TrunkPlan, seen: Seen, n_bytes: int) -> TrunkPlan:
    """The same, with so many bytes of all rows put where there is room for them."""
    in_memory = min(n_bytes, seen.memory_bytes)
    mapped = min(n_bytes - in_memory, seen.disk_bytes)
    return TrunkPlan(plan.reason, plan.layers, in_memory, mapped, n_bytes - in_memory - mapped)
