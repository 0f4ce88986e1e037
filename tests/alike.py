"""Figures that were reached by other batches, lanes or threads are the same but for rounding."""

import math
from typing import Any

TOLERANCE = 1e-3


def alike(one: Any, other: Any, tolerance: float = TOLERANCE) -> bool:
    """Whether two values as json has them are of one shape, with equal words and numbers that differ no more."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(alike(one[name], other[name], tolerance) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(alike(*pair, tolerance) for pair in zip(one, other, strict=True))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=0.0, abs_tol=tolerance)
    return one == other
