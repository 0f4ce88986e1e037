"""What stands between matrix products, each one pass of a C++ kernel and one autograd function.

float32 or bfloat16 on a CPU, float32 inside; needs `library()`.
"""

import ctypes
from typing import Any

import torch
from torch import Tensor

from tunewise.engine.native.attention import DTYPES
from tunewise.engine.native.build import library
from tunewise.engine.native.pretended import is_pretended, tell


def rms_norm(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    """x · gain / √(mean(x²) + eps) over the last dimension: (..., d) from x (..., d) and gain (d,), in x's dtype."""
    return run(_RMSNorm, x, gain, eps)


def gelu_tanh(x: Tensor) -> Tensor:
    """The tanh form of GELU, (..., d) in x's dtype: in a quarter of the time that torch takes for it."""
    return run(_GeluTanh, x)


def gated(gate: Tensor, up: Tensor, activation: str) -> Tensor:
    """act(gate) · up, (..., d) each; `activation` is silu (SwiGLU) or gelu_tanh (GeGLU)."""
    return run(_Gated, gate, up, activation == "gelu_tanh")


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x cos + (−x₂, x₁) sin: (1, H, T, D) from x (1, H, T, D), its halves x₁, x₂, and cos, sin (1, T, D)."""
    return run(_Rotated, x, cos, sin)


def cross_entropies(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """The cross-entropy in nats of each label, (N,) float32, from logits (N, C) and labels (N,) in [0, C).

    `smoothing` is the share of each label that is spread over all C.
    """
    return run(_CrossEntropies, logits, labels, smoothing)


def run(function: type[torch.autograd.Function], *given: Any) -> Any:
    """`function` of these; where no gradient is wanted, without what autograd does about it, which takes longer than a
    row of few numbers does."""
    return function.apply(*given) if torch.is_grad_enabled() else function.forward(_Forgetful(), *given)


class _Forgetful:
    """Stands where autograd keeps what the backward needs."""

    def save_for_backward(self, *_: object) -> None:
        pass


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, eps: float) -> Tensor:
        rows, wide = even_rows(x), gain.float().contiguous()
        out = torch.empty(x.shape, dtype=x.dtype)
        inverse = torch.empty(len(rows))
        call(
            "tunewise_rms_norm",
            x.dtype,
            rows,
            ctypes.c_long(rows.stride(0)),
            wide,
            out,
            inverse,
            *_sizes(rows),
            ctypes.c_float(eps),
        )
        ctx.save_for_backward(x, gain, inverse)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, gain, inverse = ctx.saved_tensors
        rows, dy = even_rows(x), gradients[0].contiguous()
        dx = torch.empty(x.shape, dtype=x.dtype)
        dgain = torch.empty(gain.shape) if ctx.needs_input_grad[1] else None
        wide = gain.float().contiguous()
        stride, sizes = ctypes.c_long(rows.stride(0)), _sizes(rows)
        call("tunewise_rms_norm_backward", x.dtype, dy, rows, stride, wide, inverse, dx, dgain, *sizes)
        return dx, None if dgain is None else dgain.to(gain.dtype), None


class _GeluTanh(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        rows, out = even_rows(x), torch.empty(x.shape, dtype=x.dtype)
        call("tunewise_gelu_tanh", x.dtype, rows, ctypes.c_long(rows.stride(0)), out, *_sizes(rows))
        ctx.save_for_backward(x)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        rows, dy, dx = even_rows(x), gradients[0].contiguous(), torch.empty(x.shape, dtype=x.dtype)
        call("tunewise_gelu_tanh_backward", x.dtype, dy, rows, ctypes.c_long(rows.stride(0)), dx, *_sizes(rows))
        return dx


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, is_gelu: bool) -> Tensor:
        left, right = even_rows(gate), even_rows(up)
        out = torch.empty(gate.shape, dtype=gate.dtype)
        strides = longs(left.stride(0), right.stride(0))
        call("tunewise_gated", gate.dtype, is_gelu, left, right, strides, out, *_sizes(left))
        ctx.save_for_backward(gate, up)
        ctx.is_gelu = is_gelu
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        gate, up = ctx.saved_tensors
        left, right, dy = even_rows(gate), even_rows(up), gradients[0].contiguous()
        dgate, dup = (torch.empty(tensor.shape, dtype=tensor.dtype) for tensor in (gate, up))
        strides = longs(left.stride(0), right.stride(0))
        sizes = _sizes(left)
        call("tunewise_gated_backward", gate.dtype, ctx.is_gelu, dy, left, right, strides, dgate, dup, *sizes)
        return dgate, dup, None


class _Rotated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin, back=False)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return _turn(gradients[0], *ctx.saved_tensors, back=True), None, None


def _turn(x: Tensor, cos: Tensor, sin: Tensor, *, back: bool) -> Tensor:
    x = x if x.stride(-1) == 1 else x.contiguous()
    _, n_heads, n_tokens, width = x.shape
    out = torch.empty(n_tokens, n_heads, width, dtype=x.dtype)
    strides = longs(x.stride(2), x.stride(1))
    call("tunewise_rotate", x.dtype, back, x, strides, cos.contiguous(), sin.contiguous(), out,
          ctypes.c_long(n_tokens), n_heads, width)  # fmt: skip
    return out.transpose(0, 1)[None]


class _CrossEntropies(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
        logits, ctx.smoothing = logits.contiguous(), ctypes.c_float(smoothing)
        losses, lse = torch.empty(2, len(logits))
        call("tunewise_cross_entropy", logits.dtype, logits, labels, losses, lse, *_sizes(logits), ctx.smoothing)
        ctx.save_for_backward(logits, labels, lse)
        return losses

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        logits, labels, lse = ctx.saved_tensors
        slopes, dlogits = gradients[0].contiguous(), torch.empty(logits.shape, dtype=logits.dtype)
        sizes = *_sizes(logits), ctx.smoothing
        call("tunewise_cross_entropy_backward", logits.dtype, logits, labels, slopes, lse, dlogits, *sizes)
        return dlogits, None, None


def even_rows(tensor: Tensor) -> Tensor:
    """(N, d): the same memory where rows lie evenly apart, whatever their distance."""
    flat = tensor.flatten(0, -2) if tensor.dim() != 2 else tensor
    return flat if flat.stride(-1) == 1 else flat.contiguous()


def _sizes(rows: Tensor) -> tuple[ctypes.c_long, int]:
    return ctypes.c_long(rows.shape[0]), rows.shape[1]


def longs(*numbers: int) -> ctypes.Array[ctypes.c_long]:
    return (ctypes.c_long * len(numbers))(*numbers)


def call(name: str, dtype: torch.dtype, *arguments: Any) -> None:
    """Call a kernel; tensors go as their addresses, None as a null pointer, plain integers as C's int."""
    assert dtype in DTYPES, dtype
    tensors = [argument for argument in arguments if isinstance(argument, Tensor)]
    if any(map(is_pretended, tensors)):
        tell(tensors)
        return
    native = library()
    assert native is not None, "ask library() first"
    kernel = getattr(native, name)  # looked up by [name] it would be made anew at every call
    kernel(dtype == torch.bfloat16, *(ctypes.c_void_p(a.data_ptr()) if isinstance(a, Tensor) else a for a in arguments))
