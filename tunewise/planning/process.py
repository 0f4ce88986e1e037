"""What a process on a CPU holds resident beside the bytes of its tensors, as measured: `python -m bench.planner`.

The engine has the C library keep memory that is freed (`engine/backend.py`), in which tensors leave holes that later
ones do not fill. The more a step takes, gives back and takes again, the more holes there are. And the first step brings
in code, threads and what products set up.
"""

FIXED_BYTES = 42_000_000
"""Of code, threads and prepared products."""
HOLES, HOLES_CHECKPOINTED = 0.235, 0.11
"""Over the bytes of all tensors that a step makes. Where activations are computed again, those of one layer are gone
before the next one's come."""


def held_by_process(bytes_taken: int, checkpointing: bool = False) -> int:
    """Bytes resident beside tensors, of a process whose steps make tensors of so many bytes, one after another."""
    return FIXED_BYTES + round((HOLES_CHECKPOINTED if checkpointing else HOLES) * bytes_taken)
