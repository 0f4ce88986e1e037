"""Denormal numbers are zero inside the block, and what they were behind it."""

import torch

from tunewise.engine.denormals import flushed, is_flushing


def test_they_are_zero_inside_and_back_behind():
    before = is_flushing()
    with flushed():
        assert is_flushing() or not torch.set_flush_denormal(True), "a processor without the switch keeps them"
        with flushed():
            pass
        assert is_flushing() or not torch.set_flush_denormal(True)
    assert is_flushing() == before
