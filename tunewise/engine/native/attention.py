"""Attention over packed segments by the C++ kernel, as one autograd function.

Legend: T tokens of all segments, H query heads, G key-value heads, D the width of a head, S segments.
"""

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

from tunewise.engine.native.build import library

DTYPES = (torch.float32, torch.bfloat16)


@dataclass(frozen=True)
class Pattern:
    """Which keys of its own segment a query sees, and how scores are scaled."""

    scale: float
    is_causal: bool = True
    window: int = 0
    """0 sees all; w > 0 the last w keys, itself among them (and, where not causal, the next w − 1)."""
    softcap: float = 0.0
    """c > 0 turns a score x into c tanh(x / c)."""
    dropout: float = 0.0
    """The share of the weights behind the softmax that is dropped."""
    seed: int = 0
    """What is dropped."""


def attend(q: Tensor, k: Tensor, v: Tensor, starts: Tensor, pattern: Pattern) -> Tensor:
    """softmax(scale · q kᵀ) v within segments: (T, H, D) from q (T, H, D) and k, v (T, G, D).

    `starts` (S + 1,) int32 holds the first token of each segment, and T. float32 or bfloat16 on a CPU; softmax and sums
    are float32. Needs `library()`.
    """
    return _Attention.apply(q, k, v, starts, pattern)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, starts: Tensor, pattern: Pattern) -> Tensor:
        q, k, v = (dense(tensor) for tensor in (q, k, v))
        out = torch.empty(q.shape, dtype=q.dtype)
        lse = torch.empty(q.shape[:2], dtype=torch.float32)
        native = library()
        assert native is not None, "ask library() first"
        native.tunewise_attention_forward(*_addresses(q.dtype, q, k, v, out, lse), *_rest(starts, pattern, q, k, v))
        ctx.save_for_backward(q, k, v, lse, starts)
        ctx.pattern = pattern
        return out

    @staticmethod
    def backward(ctx, *gradients: Tensor):
        q, k, v, lse, starts = ctx.saved_tensors
        dout = dense(gradients[0])
        dq, dk, dv = (torch.empty(tensor.shape, dtype=tensor.dtype) for tensor in (q, k, v))
        native = library()
        assert native is not None
        native.tunewise_attention_backward(
            *_addresses(q.dtype, q, k, v, dout, lse, dq, dk, dv), *_rest(starts, ctx.pattern, q, k, v, dout)
        )
        return dq, dk, dv, None, None


def dense(tensor: Tensor) -> Tensor:
    """The same, its last dimension without gaps; any strides of the others will do."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _addresses(dtype: torch.dtype, *tensors: Tensor) -> tuple[object, ...]:
    assert dtype in DTYPES, dtype
    return (ctypes.c_int(dtype == torch.bfloat16), *(ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors))


def _rest(starts: Tensor, pattern: Pattern, *tensors: Tensor) -> tuple[object, ...]:
    """Strides, starts, sizes and scales as the kernel takes them."""
    q, k = tensors[:2]
    assert starts.dtype == torch.int32
    assert q.shape[0] == k.shape[0]
    strides = [stride for tensor in tensors for stride in tensor.stride()[:2]]
    sizes = [len(starts) - 1, q.shape[1], k.shape[1], q.shape[2], pattern.is_causal, pattern.window, pattern.seed]
    scales = [pattern.scale, pattern.softcap, pattern.dropout]
    return (
        (ctypes.c_long * len(strides))(*strides),
        ctypes.c_void_p(starts.data_ptr()),
        (ctypes.c_int * len(sizes))(*sizes),
        (ctypes.c_float * len(scales))(*scales),
    )
