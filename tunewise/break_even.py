"""Break-even: after how many queries training has cost less than showing demonstrations with every query.

By seconds as measured: T training seconds are paid back after n queries with n · (s_shown − s_tuned) ≥ T; an evaluation
reads the demonstrations once for all its queries, so this is the least that they cost. By tokens, on any machine and
with demonstrations read anew for every query: a trained token counts as three read ones, forward and backward (Kaplan
et al. 2020, arXiv:2001.08361, section 2.1: 6 N operations against 2 N), the most that any method takes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

READS_OF_A_TRAINED_TOKEN = 3


@dataclass(frozen=True)
class BreakEven:
    """A tuned arm beside one that shows demonstrations, by label; figures are means over the seeds of each."""

    tuned: str
    shown: str
    train_seconds: float
    seconds_a_query: tuple[float, float]
    """Of the tuned arm, and of the one that shows demonstrations."""
    queries: int | None
    """After so many the training is paid back in seconds; None is never."""
    train_tokens: float
    tokens_a_query: tuple[float, float]
    queries_by_tokens: int | None
    """The same in tokens read."""


def between(
    tuned: str, runs: Sequence[Mapping[str, Any]], shown: str, runs_of_shown: Sequence[Mapping[str, Any]]
) -> BreakEven:
    """The break-even of two arms by what metrics.json says of their seeds."""
    seconds, tokens = ((_mean(runs, name), _mean(runs_of_shown, name)) for name in ("seconds_a_query", "prompt_tokens"))
    train_seconds, train_tokens = _mean(runs, "train_seconds"), _mean(runs, "tokens")
    return BreakEven(
        tuned=tuned,
        shown=shown,
        train_seconds=train_seconds,
        seconds_a_query=seconds,
        queries=_queries(train_seconds, *seconds),
        train_tokens=train_tokens,
        tokens_a_query=tokens,
        queries_by_tokens=_queries(READS_OF_A_TRAINED_TOKEN * train_tokens, *tokens),
    )


def break_even_of(arms: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """For comparison.json: every tuned arm (label -> metrics.json of its seeds) beside every one that shows
    demonstrations."""
    runs = {label: of_arm for label, of_arm in arms.items() if of_arm}
    return [
        _written(between(label, of_arm, shown, of_shown))
        for label, of_arm in runs.items()
        for shown, of_shown in runs.items()
        if can_break_even(of_arm, of_shown)
    ]


def can_break_even(tuned: Sequence[Mapping[str, Any]], shown: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the first arm is trained and the second shows demonstrations, and what a query takes was measured."""
    known = all("seconds_a_query" in run for run in (*tuned, *shown))
    is_shown = all(not run["n_trainable"] and run.get("serving_tokens") for run in shown)
    return known and is_shown and all(run["n_trainable"] for run in tuned)


def _written(found: BreakEven) -> dict[str, Any]:
    """As json has it: lists, no tuples."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(found).items()}


def _queries(price: float, mine: float, theirs: float) -> int | None:
    return math.ceil(price / (theirs - mine)) if theirs > mine else None


def _mean(runs: Sequence[Mapping[str, Any]], name: str) -> float:
    return fmean(float(run[name]) for run in runs)
