"""What of a run the planner foretells, as metrics.json calls it, and why it leaves some of it out."""

MEMORY, TIME = "train_memory_bytes", "train_seconds"
LEAST_SECONDS = 40.0
"""A training that is shorter is not kept waiting for two rehearsals, a second each."""
SHORT = f"its training took less than {LEAST_SECONDS:.0f} s, and was not to wait for the planner"
"""The one reason that is none to leave the run out later: `tunewise plan --grade` plans it."""
RESUMED = "it went on from a checkpoint"
"""Its time is that of all its steps, and its memory that of the last of them."""
