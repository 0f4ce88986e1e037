"""Many runs of one task under one protocol: arms × seeds, and a table of means."""

from tunewise.comparison.grid import GridWatcher, compare
from tunewise.comparison.intrinsic_dimension import intrinsic_dimension
from tunewise.comparison.remedies import remedies

__all__ = ["GridWatcher", "compare", "intrinsic_dimension", "remedies"]
