"""Many runs of one task under one protocol: arms × seeds, and a table of means."""

from tunewise.comparison.cluster import Ray
from tunewise.comparison.following import GridWatcher
from tunewise.comparison.grid import compare
from tunewise.comparison.intrinsic_dimension import intrinsic_dimension

__all__ = ["GridWatcher", "Ray", "compare", "intrinsic_dimension"]
