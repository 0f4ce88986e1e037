"""Attention over packed segments by the C++ kernel, as one autograd function.

Legend: T tokens of all segments, H query heads, G key-value heads, D the width of a head, S segments.
"""

import ctypes
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tunewise.engine.native.build import library, why_not
from tunewise.engine.native.pretended import is_pretended, tell

DTYPES = (torch.float32, torch.bfloat16)
LANES = 16
"""float32 numbers of the widest vector."""


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


def why_no_kernel(device: torch.device, dtype: torch.dtype) -> str:
    """Why the kernels do not run there in that precision; "" where they do."""
    if device.type != "cpu" or dtype not in DTYPES:
        return f"there is no kernel for {dtype} on {device.type}"
    return why_not()


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    starts: Tensor,
    pattern: Pattern,
    *,
    key_starts: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """softmax(scale · q kᵀ + bias) v within segments: (T, H, D) from q (T, H, D) and k, v (T, G, D).

    `starts` (S + 1,) int32 holds the first token of each segment, and T. With `key_starts`, keys and values are other
    tokens, (N, G, D), of as many segments; a query whose segment has none gets zeros. `bias` (H, 2 L − 1), for segments
    of at most L tokens, holds in column L − 1 + δ what is added where a key stands δ tokens behind the query; it has a
    gradient. float32 or bfloat16 on a CPU; softmax and sums are float32. Needs `library()`. Raises ValueError where the
    segments do not end with the tokens, or are too long for the bias.
    """
    if (key_starts is not None or bias is not None) and (pattern.window or pattern.softcap):
        raise ValueError("a window or a cap goes with keys of the queries' own segments and without a bias alone")
    if key_starts is not None and pattern.is_causal:
        raise ValueError("no query comes before a key of other tokens")
    keys = starts if key_starts is None else key_starts
    if (int(starts[-1]), int(keys[-1]), len(starts)) != (len(q), len(k), len(keys)):
        raise ValueError(f"segments of {int(starts[-1])} and {int(keys[-1])} tokens for {len(q)} and {len(k)}")
    if bias is not None and int(torch.stack([starts, keys]).diff().max()) > (bias.shape[1] + 1) // 2:
        raise ValueError(f"a segment is longer than a bias of {bias.shape[1]} columns tells of")
    return _Attention.apply(q, k, v, bias, starts, keys, pattern)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, *segments: Any) -> Tensor:
        q, k, v = (dense(tensor) for tensor in (q, k, v))
        if bias is not None:
            bias = functional.pad(bias.float(), (0, LANES)).contiguous()
        out = torch.empty(q.shape, dtype=q.dtype)
        lse = torch.empty(q.shape[:2], dtype=torch.float32)
        if is_pretended(q):
            tell((q, k, v, bias, out, lse), 2 * _n_multiplied(q, *segments))
        else:
            native = library()
            assert native is not None, "ask library() first"
            told = _rest(*segments, bias, q, k, v)
            native.tunewise_attention_forward(_is_bfloat16(q), *_addresses(q, k, v, bias, out, lse), *told)
        ctx.save_for_backward(q, k, v, bias, lse)
        ctx.segments = segments
        return out

    @staticmethod
    def backward(ctx, *gradients: Tensor):
        q, k, v, bias, lse = ctx.saved_tensors
        dout = dense(gradients[0])
        dq, dk, dv = (torch.empty(tensor.shape, dtype=tensor.dtype) for tensor in (q, k, v))
        dbias = torch.zeros_like(bias) if ctx.needs_input_grad[3] else None
        if is_pretended(q):
            tell((q, k, v, bias, dout, lse, dq, dk, dv), 5 * _n_multiplied(q, *ctx.segments))
        else:
            native = library()
            assert native is not None
            native.tunewise_attention_backward(
                _is_bfloat16(q),
                *_addresses(q, k, v, bias, dout, lse, dq, dk, dv, dbias),
                *_rest(*ctx.segments, bias, q, k, v, dout),
            )
        return dq, dk, dv, None if dbias is None else dbias[:, :-LANES], None, None, None


def dense(tensor: Tensor) -> Tensor:
    """The same, its last dimension without gaps; any strides of the others will do."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _n_multiplied(q: Tensor, starts: Tensor, key_starts: Tensor, pattern: Pattern) -> int:
    """Floating-point operations of one product of all pairs that see each other, as q kᵀ is; a window left out."""
    n_pairs = int((starts.diff().long() * key_starts.diff().long()).sum())
    return 2 * (n_pairs // 2 if pattern.is_causal else n_pairs) * q.shape[1] * q.shape[2]


def _is_bfloat16(q: Tensor) -> ctypes.c_int:
    assert q.dtype in DTYPES, q.dtype
    return ctypes.c_int(q.dtype == torch.bfloat16)


def _addresses(*tensors: Tensor | None) -> tuple[ctypes.c_void_p, ...]:
    return tuple(ctypes.c_void_p(None if tensor is None else tensor.data_ptr()) for tensor in tensors)


def _rest(
    starts: Tensor, key_starts: Tensor, pattern: Pattern, bias: Tensor | None, *tensors: Tensor
) -> tuple[object, ...]:
    """Strides, starts, sizes and scales as the kernel takes them."""
    q, k = tensors[:2]
    assert starts.dtype == key_starts.dtype == torch.int32
    strides = [stride for tensor in tensors for stride in tensor.stride()[:2]]
    columns = LANES if bias is None else bias.shape[1]
    of_bias = ((columns - LANES) // 2, columns)
    sizes = [len(starts) - 1, q.shape[1], *k.shape[1:], pattern.is_causal, pattern.window, pattern.seed, *of_bias]
    scales = [pattern.scale, pattern.softcap, pattern.dropout]
    return (
        (ctypes.c_long * len(strides))(*strides),
        *_addresses(starts, key_starts),
        (ctypes.c_int * len(sizes))(*sizes),
        (ctypes.c_float * len(scales))(*scales),
    )
