"""What a process on a CPU holds resident beside the bytes of its tensors, as measured: `python -m bench.planner`.

The engine has the C library keep memory that is freed (`engine/backend.py`); small objects that stay where large tensors
were leave holes between them that later ones do not fill. The more a step takes, gives back and takes again, the more
holes there are. And the first step brings in code, threads and what products set up.
"""

FIXED_BYTES = 45_000_000
"""Of code, threads and prepared products."""
HOLES = 0.25
"""Over the bytes of all tensors that a step makes."""


def held_by_process(bytes_taken: int) -> int:
    """Bytes resident beside tensors, of a process whose steps make tensors of so many bytes, one after another."""
    return FIXED_BYTES + round(HOLES * bytes_taken)
