"""Many runs of one task under one protocol: arms × seeds, and a table of means."""

from tunewise.comparison.grid import GridWatcher, carry_out_comparison, compare
from tunewise.comparison.intrinsic_dimension import intrinsic_dimension
from tunewise.comparison.protocol import build_comparison

__all__ = ["GridWatcher", "build_comparison", "carry_out_comparison", "compare", "intrinsic_dimension"]
