"""Kernels on tensors that hold nothing, and an engine without kernels."""

import torch

from tunewise.engine.native import rows
from tunewise.engine.native.attention import Pattern, attend
from tunewise.engine.native.build import library, set_aside, why_not
from tunewise.engine.native.pretended import is_pretended, listening
from tunewise.planning.recorder import recording


def test_no_kernel_is_called_and_the_listener_is_told() -> None:
    told = []
    starts = torch.tensor([0, 3, 7], dtype=torch.int32)
    with recording() as recorder, listening(lambda *each: told.append(each)):
        x, gain = torch.ones(7, 16, requires_grad=True), torch.ones(16)
        q = torch.ones(7, 4, 8, requires_grad=True)
        normed = rows.rms_norm(x, gain, 1e-6)
        normed.sum().backward()
        with torch.no_grad():
            made = attend(q, q, q, starts, Pattern(1.0, is_causal=False))
    assert is_pretended(normed)
    assert normed.shape == x.grad.shape == (7, 16)
    assert made.shape == (7, 4, 8)
    assert [n_operations for _, n_operations, _ in told] == [0, 0, 2 * 2 * (3**2 + 4**2) * 4 * 8]
    assert all(dtype == torch.float32 for *_, dtype in told)
    assert recorder.computed.flops[torch.float32] == told[-1][1]


def test_kernels_are_set_aside_inside_the_block_alone() -> None:
    before = library()
    with set_aside():
        assert library() is None
        assert why_not() == "they are set aside"
    assert library() is before
