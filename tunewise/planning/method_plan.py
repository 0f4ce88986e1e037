"""What one method takes on one device: memory, seconds, the largest batch and rows, and what would fit instead."""

from collections.abc import Sequence
from dataclasses import dataclass

from tunewise.errors import UserError
from tunewise.methods.base import Method
from tunewise.models.anatomy import context_length
from tunewise.models.families import VISION
from tunewise.planning.alternatives import Alternative, alternatives
from tunewise.planning.fits import largest_rows, largest_tokens
from tunewise.planning.parameters import ParameterPlan, count_on
from tunewise.planning.rehearsals import Rehearsals
from tunewise.planning.trunk import TrunkPlan
from tunewise.planning.work import Memory, Work

MOST_ROWS = 4096
"""No batch is larger; nor are rows longer than this many tokens where a base does not say what it can read."""
MOST_TOKENS = 131_072


@dataclass(frozen=True)
class MethodPlan:
    """One line of a plan."""

    label: str
    """The method as it was asked for, as in lora rank=64."""
    counted: ParameterPlan
    memory: Memory
    """At the peak of the worst step."""
    fits: bool
    row_seconds: float | None
    """Of a row of mean length, forward and backward; None where the device's speed is not known."""
    once_seconds: float | None
    """Of running every row through the frozen trunk, where what leaves it is kept; else 0."""
    trunk_plan: TrunkPlan
    largest_rows: int
    """The largest batch of rows as long as the longest; 0 where none fits."""
    largest_tokens: int | None
    """The longest rows in batches as large as asked for; None for images."""
    alternatives: tuple[Alternative, ...]
    """What would fit; () where the plan itself does."""

    @property
    def method(self) -> Method:
        return self.counted.method


@dataclass(frozen=True)
class Steps:
    """The steps of a run."""

    worst: Work
    mean: Work
    """Of rows of mean length, by which time goes."""
    accumulation: int = 1
    """Batches a step."""


def plan_method(known: Rehearsals, label: str, method: Method, steps: Steps, others: Sequence[str] = ()) -> MethodPlan:
    """The plan of `method`; `others` are offered in its place where it does not fit.

    UserError where the method does not act on this base, or trains nothing.
    """
    shell, work, counted = known.shell, steps.worst, count_on(known.shell, method)
    if not counted.n_trainable:
        raise UserError(f"{label} trains nothing", "no step is taken, so there is nothing to plan: leave it out")
    fits = known.fits(method, work)
    longest = min(context_length(shell.config) or MOST_TOKENS, MOST_TOKENS)
    return MethodPlan(
        label=label,
        counted=counted,
        memory=known.of(method, work).memory,
        fits=fits,
        row_seconds=known.row_seconds(method, steps.mean),
        once_seconds=known.once_seconds(method, steps.mean),
        trunk_plan=known.of(method, work).trunk_plan,
        largest_rows=largest_rows(known, method, work, MOST_ROWS),
        largest_tokens=None if shell.kind == VISION else largest_tokens(known, method, work, longest),
        alternatives=() if fits else tuple(alternatives(known, method, work, steps.accumulation, others)),
    )
