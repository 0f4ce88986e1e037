"""Attention of packed segments behind a prefix they share and a context of their own, by the C++ kernel; no gradients.

Legend: T tokens of all segments, S segments, H query heads, G key-value heads, D the width of a head, P tokens of the
prefix, N rows of keys and values.
"""

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from tunewise.engine.native.attention import DTYPES, LANES, Pattern, dense
from tunewise.engine.native.build import library


@dataclass(frozen=True)
class Prefix:
    """Keys and values that all segments see, laid out once as the kernel reads them."""

    keys: Tensor
    """(G, D, P padded) float32, zeros behind P."""
    values: Tensor
    """(G, P, D padded) float32, zeros behind D."""

    @classmethod
    def of(cls, k: Tensor, v: Tensor) -> "Prefix":
        """From k and v (P, G, D)."""
        keys, values = k.float().permute(1, 2, 0), v.float().transpose(0, 1)
        return cls(_widened(keys), _widened(values))

    @property
    def n(self) -> int:
        return self.values.shape[1]


def _widened(tensor: Tensor) -> Tensor:
    return functional.pad(tensor, (0, -tensor.shape[-1] % LANES)).contiguous()


def attend_behind(q: Tensor, k: Tensor, v: Tensor, segments: Tensor, prefix: Prefix | None, pattern: Pattern) -> Tensor:
    """softmax(scale · q kᵀ) v, each query over the prefix, its segment's context and its segment up to itself.

    q (T, H, D) and k, v (N, G, D), float32 or bfloat16 on a CPU -> (T, H, D). `segments` (S, 5) int32: the first query,
    how many there are, the row of k of the first of their own keys, the first row of the context and its length.
    Queries of segments stand behind one another; those behind the last segment come out as zeros. A window counts
    backwards through all of it. Raises ValueError for a pattern that is not causal or drops weights.
    """
    if not pattern.is_causal or pattern.dropout:
        raise ValueError("a prefix is shared by causal attention without dropout alone")
    q, k, v = (dense(tensor.detach()) for tensor in (q, k, v))
    assert q.dtype in DTYPES, q.dtype
    assert segments.dtype == torch.int32, segments.dtype
    n_queries = int(segments[-1, :2].sum())
    out = torch.empty(q.shape, dtype=q.dtype)
    out[n_queries:] = 0
    strides = [stride for tensor in (q, k, v) for stride in tensor.stride()[:2]]
    n, keys_width, values_width = (prefix.n, prefix.keys.shape[2], prefix.values.shape[2]) if prefix else (0, 0, 0)
    sizes = [len(segments), q.shape[1], k.shape[1], q.shape[2], pattern.window, n, keys_width, values_width]
    native = library()
    assert native is not None, "ask library() first"
    native.tunewise_prefix_attention(
        ctypes.c_int(q.dtype == torch.bfloat16),
        *(ctypes.c_void_p(tensor.data_ptr()) for tensor in (q, k, v)),
        ctypes.c_void_p(prefix.keys.data_ptr() if prefix else None),
        ctypes.c_void_p(prefix.values.data_ptr() if prefix else None),
        ctypes.c_void_p(out.data_ptr()),
        (ctypes.c_long * len(strides))(*strides),
        ctypes.c_void_p(segments.data_ptr()),
        (ctypes.c_int * len(sizes))(*sizes),
        (ctypes.c_float * 2)(pattern.scale, pattern.softcap),
    )
    return out
