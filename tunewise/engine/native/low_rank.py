"""What a low-rank change adds to the output of a linear layer, by a C++ kernel, as one autograd function."""

import ctypes
from typing import Any

import torch
from torch import Tensor

from tunewise.engine.native.attention import DTYPES
from tunewise.engine.native.rows import call, even_rows, longs

MOST = 8
"""The highest rank: large products are faster beyond it, and at it save nothing but calls."""


def with_low_rank(y: Tensor, x: Tensor, a: Tensor, b: Tensor, scaling: float) -> Tensor:
    """y + scaling · B A x: (..., d_out) as y, from x (..., d_in), both float32 or bfloat16 on a CPU, and float32
    A (r, d_in) and B (d_out, r). Inside it is float32. Needs `library()`.
    """
    return _WithLowRank.apply(y, x, a, b, scaling)


def fits(y: Tensor, x: Tensor, a: Tensor, b: Tensor) -> bool:
    """Whether the kernel takes these, and is as fast as products of its own."""
    is_low = a.dtype == b.dtype == torch.float32 and len(a) <= MOST
    return is_low and x.device.type == "cpu" and x.dtype == y.dtype and x.dtype in DTYPES


class _WithLowRank(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, a: Tensor, b: Tensor, scaling: float) -> Tensor:
        entering, before = even_rows(x), even_rows(y)
        out, inner = torch.empty(y.shape, dtype=y.dtype), torch.empty(len(entering), len(a))
        ctx.sizes = (ctypes.c_int * 3)(entering.shape[1], before.shape[1], len(a))
        ctx.scaling = ctypes.c_float(scaling)
        strides, n = longs(entering.stride(0), before.stride(0)), ctypes.c_long(len(entering))
        a, b = a.contiguous(), b.contiguous()
        call("tunewise_low_rank", x.dtype, entering, before, strides, a, b, out, inner, n, ctx.sizes, ctx.scaling)
        ctx.save_for_backward(x, a, b, inner)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, a, b, inner = ctx.saved_tensors
        entering, dy = even_rows(x), even_rows(gradients[0])
        dx = torch.empty(x.shape, dtype=x.dtype) if ctx.needs_input_grad[1] else None
        da, db = torch.empty(a.shape), torch.empty(b.shape)
        strides, n = longs(entering.stride(0), dy.stride(0)), ctypes.c_long(len(entering))
        call("tunewise_low_rank_backward", x.dtype, dy, entering, strides, a, b, inner, dx, da, db, n, ctx.sizes,
             ctx.scaling)  # fmt: skip
        return gradients[0], dx, da, db, None
