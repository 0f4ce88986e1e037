"""Every pair of arms as a table: how far their means lie apart, and whether a test tells them apart."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tunewise.directions import LOWER_IS_BETTER
from tunewise.report import words
from tunewise.report.arms import Arm
from tunewise.verdict import Verdict

STEPS = (1, 5, 50)
"""p below alpha over the first of these is told apart; over the others it is shaded more strongly."""


@dataclass(frozen=True)
class Cell:
    """One pair: mean of the row less mean of the column."""

    gap: str
    half_width: str
    p: str
    """Holm's, over all pairs of the comparison."""
    is_better: bool | None
    """Whether the row is the better one; None where the test does not tell them apart."""
    strength: int
    """How many of the matrix's levels p lies below."""


@dataclass(frozen=True)
class Matrix:
    """`rows[i][j]` is arm i beside arm j, None on the diagonal; the arms stand in the order of their means."""

    arms: tuple[Arm, ...]
    rows: tuple[tuple[Cell | None, ...], ...]
    levels: tuple[float, ...]


def matrix_of(arms: Sequence[Arm], verdict: Verdict) -> Matrix | None:
    """The pairs of `verdict`; None where there is no pair, or one seed a method and so nothing to test."""
    if not verdict.pairs or verdict.n_seeds < 2:
        return None
    tested = {label for pair in verdict.pairs for label in (pair.first, pair.second)}
    sign = -1 if arms[0].metric in LOWER_IS_BETTER else 1
    ordered = sorted((arm for arm in arms if arm.label in tested), key=lambda arm: -sign * arm.quality.mean)
    levels = tuple(verdict.alpha / step for step in STEPS)
    rows = [[None if row is column else _cell(row, column, verdict, levels) for column in ordered] for row in ordered]
    return Matrix(tuple(ordered), tuple(map(tuple, rows)), levels)


def _cell(row: Arm, column: Arm, verdict: Verdict, levels: Sequence[float]) -> Cell:
    pair = verdict.pair(row.label, column.label)
    gap = pair.gap.mean if pair.first == row.label else -pair.gap.mean
    digits = words.digits(row.metric)
    strength = sum(pair.p_holm < level for level in levels)
    is_higher = gap > 0
    return Cell(
        gap=f"{gap:+z.{digits}f}".replace("-", "−"),
        half_width=f"{pair.gap.half_width:.{digits}f}" if math.isfinite(pair.gap.half_width) else "?",
        p=words.probability(pair.p_holm),
        is_better=(is_higher != (row.metric in LOWER_IS_BETTER)) if strength else None,
        strength=strength,
    )
