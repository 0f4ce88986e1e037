"""Many runs of one task under one protocol: arms × seeds, and a table of means."""

from tunewise.comparison.grid import GridWatcher, compare

__all__ = ["GridWatcher", "compare"]
