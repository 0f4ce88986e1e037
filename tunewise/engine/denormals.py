"""Numbers below 1e-38 taken for zero while a model runs on a CPU.

A model that is sure of itself has attention weights near 1e-40. Most processors handle such denormal numbers in
microcode: in the pre-training of `tiny` they cost 2.3 times the time.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def flushed() -> Iterator[None]:
    """Flush them inside the block, where the processor can; as it was behind it, for whoever else computes here."""
    before = is_flushing()
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def is_flushing() -> bool:
    """Whether this thread takes them for zero now."""
    return float(torch.tensor([2.0**-130]) * 1.0) == 0.0
