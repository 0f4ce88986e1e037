"""What one method takes on one device: memory, seconds, the largest batch and rows, and what would fit instead."""

from dataclasses import dataclass

from tunewise.methods.base import Method
from tunewise.models.anatomy import context_length
from tunewise.models.families import VISION
from tunewise.planning.alternatives import Alternative, alternatives
from tunewise.planning.fits import largest_rows, largest_tokens
from tunewise.planning.parameters import ParameterPlan, count_on
from tunewise.planning.rehearsals import Rehearsals
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
    largest_rows: int
    """The largest batch of rows as long as the longest; 0 where none fits."""
    largest_tokens: int | None
    """The longest rows in batches as large as asked for; None for images."""
    alternatives: tuple[Alternative, ...]
    """What would fit; () where the plan itself does."""

    @property
    def method(self) -> Method:
        return self.counted.method


def plan_method(known: Rehearsals, label: str, method: Method, work: Work, mean: Work, accumulation: int) -> MethodPlan:
    """The plan of `method`: memory by the worst step's `work`, time by a step of rows of `mean` length.

    UserError where the method does not act on this base.
    """
    shell = known.shell
    fits = known.fits(method, work)
    longest = min(context_length(shell.config) or MOST_TOKENS, MOST_TOKENS)
    rehearsed = known.of(method, work)
    return MethodPlan(
        label=label,
        counted=count_on(shell, method),
        memory=rehearsed.memory,
        fits=fits,
        row_seconds=known.row_seconds(method, mean),
        largest_rows=largest_rows(known, method, work, MOST_ROWS),
        largest_tokens=None if shell.kind == VISION else largest_tokens(known, method, work, longest),
        alternatives=() if fits else tuple(alternatives(known, method, work, accumulation)),
    )
