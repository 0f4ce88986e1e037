"""Many runs of one task under one protocol: arms × seeds, and a table of means."""

from tunewise.comparison.cluster import Ray
from tunewise.comparison.following import GridWatcher
from tunewise.comparison.grid import carry_out_comparison, compare
from tunewise.comparison.intrinsic_dimension import intrinsic_dimension
from tunewise.comparison.protocol import build_comparison
from tunewise.comparison.remedies import remedies

__all__ = [
    "GridWatcher",
    "Ray",
    "build_comparison",
    "carry_out_comparison",
    "compare",
    "intrinsic_dimension",
    "remedies",
]
