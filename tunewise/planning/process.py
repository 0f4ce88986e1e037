"""What a process on a CPU holds resident beside the bytes of its tensors, as measured: `python -m bench.planner`.

The engine has the C library keep memory that is freed (`engine/backend.py`), in which activations that are kept leave
holes that later ones do not fill; and the first step brings in code, threads and what products set up.
"""

FIXED_BYTES = 60_000_000
"""Of code, threads and prepared products."""
HOLES = 0.9
"""Of the heap, over the bytes of tensors in it; the base's own weights lie in a file that is mapped."""


def held_by_process(n_bytes: int, weights: int) -> int:
    """Bytes beside those `n_bytes` of tensors, of which so many are weights."""
    return FIXED_BYTES + round(HOLES * (n_bytes - weights))
