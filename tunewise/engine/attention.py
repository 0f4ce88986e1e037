"""Attention within packed segments, by device: the C++ kernel on a CPU; on CUDA torch's flash attention of variable
length where it is right, and else plain torch, one segment after another.

Legend: T tokens of all segments, H query heads, G key-value heads, D the width of a head, S segments.
"""

import inspect
import logging
import math
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention.varlen import varlen_attn
from torch.utils.weak import WeakTensorKeyDictionary
from transformers import PreTrainedModel

from tunewise.engine.disentangled import is_disentangled
from tunewise.engine.native import attention as native
from tunewise.engine.native.attention import DTYPES, Pattern

logger = logging.getLogger(__name__)

SAME = 0.05
"""How far flash attention and its gradients may lie from plain torch, over the largest number: bfloat16's rounding."""
TRIED = (0, 7, 40, 41)
"""The starts of the segments that it is tried on."""
_PLACED = WeakTensorKeyDictionary()  # the starts of a batch -> the same on its device, and the longest segment


def why_no_attention(model: PreTrainedModel) -> str:
    """Why packed segments cannot be attended to where `model` is, in its precision; "" where they can."""
    by_plain_torch = is_disentangled(model) or model.device.type == "cuda"
    if by_plain_torch and model.dtype in (*DTYPES, torch.float64):
        return ""
    return native.why_no_kernel(model.device, model.dtype)


def attend(q: Tensor, k: Tensor, v: Tensor, starts: Tensor, pattern: Pattern) -> Tensor:
    """softmax(scale · q kᵀ) v within segments: (T, H, D) from q (T, H, D) and k, v (T, G, D).

    `starts` (S + 1,) int32, the first token of each segment, and T, lies on the CPU wherever the others are.
    """
    if q.device.type == "cpu":
        return native.attend(q, k, v, starts, pattern)
    if why_not_flash(q.device, q.dtype, (q.shape[1], k.shape[1], q.shape[2]), pattern):
        return by_segment(q, k, v, starts, pattern)
    return flash(q, k, v, starts, pattern)


def flash(q: Tensor, k: Tensor, v: Tensor, starts: Tensor, pattern: Pattern, kernel: Any = varlen_attn) -> Tensor:
    """The same by torch's `varlen_attn`, or a `kernel` that is called as it is; no softcap and no dropout."""
    if starts not in _PLACED:
        _PLACED[starts] = starts.to(q.device, non_blocking=True), int(starts.diff().max())
    placed, longest = _PLACED[starts]
    left = pattern.window - 1  # itself is not counted there; −1 sees all
    options: dict[str, Any] = {"scale": pattern.scale, "window_size": (left, 0 if pattern.is_causal else left)}
    if q.shape[1] != k.shape[1] and "enable_gqa" in inspect.signature(kernel).parameters:  # torch 2.11 needs no leave
        options["enable_gqa"] = True
    return kernel(q, k, v, placed, placed, longest, longest, **options)


def by_segment(q: Tensor, k: Tensor, v: Tensor, starts: Tensor, pattern: Pattern) -> Tensor:
    """The same in plain torch, in any precision on any device."""
    groups = q.shape[1] // k.shape[1]
    wide = (q, k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1))
    generator = torch.Generator(q.device).manual_seed(pattern.seed)
    pieces = zip(*(tensor.transpose(0, 1).split(starts.diff().tolist(), 1) for tensor in wide), strict=True)
    made = [_segment(*piece, pattern, generator) for piece in pieces]
    return torch.cat(made, 1).transpose(0, 1)


def _segment(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, generator: torch.Generator) -> Tensor:
    """(H, n, D) of one segment from q, k, v (H, n, D)."""
    n = q.shape[1]
    seen = _seen(n, pattern, q.device) if 0 < pattern.window < n else None
    if not (pattern.softcap or pattern.dropout):
        is_causal = pattern.is_causal and seen is None
        (out,) = functional.scaled_dot_product_attention(
            q[None], k[None], v[None], seen, is_causal=is_causal, scale=pattern.scale
        )
        return out
    scores = pattern.scale * (q @ k.mT).to(torch.promote_types(q.dtype, torch.float32))
    if pattern.softcap:
        scores = pattern.softcap * (scores / pattern.softcap).tanh()
    weights = scores.masked_fill(~_seen(n, pattern, q.device), -math.inf).softmax(-1)
    if pattern.dropout:
        kept = torch.rand(weights.shape, generator=generator, device=q.device) >= pattern.dropout
        weights = weights * kept / (1 - pattern.dropout)
    return weights.to(v.dtype) @ v


def _seen(n: int, pattern: Pattern, device: torch.device) -> Tensor:
    """(n, n) whether a query (row) sees a key (column)."""
    places = torch.arange(n, device=device)
    behind = places[:, None] - places
    seen = behind >= 0 if pattern.is_causal else torch.ones_like(behind, dtype=torch.bool)
    return seen & (behind.abs() < pattern.window) if pattern.window else seen


def why_not_flash(device: torch.device, dtype: torch.dtype, sizes: tuple[int, int, int], pattern: Pattern) -> str:
    """Why flash attention is not used for heads of `sizes` (H, G, D); "" where it is."""
    if pattern.softcap or pattern.dropout:
        return "flash attention has neither softcap nor dropout here"
    return _tried(device, dtype, sizes, pattern)


@cache
def _tried(device: torch.device, dtype: torch.dtype, sizes: tuple[int, int, int], pattern: Pattern) -> str:
    """Tried and not guessed: what it says, and its gradients, have to be those of plain torch in float32."""
    heads, groups, width = sizes
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(TRIED[-1], n, width, generator=generator) for n in (heads, groups, groups, heads)]
    *inputs, outer = [tensor.to(device, dtype) for tensor in drawn]
    starts = torch.tensor(TRIED, dtype=torch.int32)
    try:
        found = _with_gradients(flash, inputs, outer, starts, pattern)
    except (RuntimeError, TypeError, ValueError) as error:
        reason = f"flash attention does not run in {dtype} on {device.type}: {_first_sentence(error)}"
    else:
        wide = [tensor.float() for tensor in inputs]
        expected = _with_gradients(by_segment, wide, outer.float(), starts, pattern)
        apart = [float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, expected, strict=True)]
        reason = "" if max(apart) < SAME else f"flash attention is {max(apart):.2g} off in {dtype} on {device.type}"
    if reason:
        logger.info("attention runs segment by segment: %s", reason)
    return reason


def _first_sentence(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0].partition(". ")[0]


def _with_gradients(way: Any, inputs: list[Tensor], outer: Tensor, starts: Tensor, pattern: Pattern) -> list[Tensor]:
    with torch.enable_grad():
        leaves = [tensor.detach().requires_grad_() for tensor in inputs]
        out = way(*leaves, starts, pattern)
        return [out.detach(), *torch.autograd.grad(out, leaves, outer)]
