"""What a packed linear layer keeps in place of its weight, and the product with a weight that is made of it anew."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Constants:
    """Constants of blocks in 8 bits: values[codes] · scale + mean, the scale one for so many."""

    codes: Tensor
    """uint8 (blocks,)."""
    values: Tensor
    """float32 (256,), what the codes stand for."""
    block: int
    """How many have a scale in common."""
    scales: Tensor
    """float32."""
    mean: Tensor
    """float32, one number."""


@dataclass(frozen=True)
class FourBits:
    """NF4 or FP4: values[codes] · constant, the constant one for a block of so many."""

    packed: Tensor
    """uint8, two codes a byte, the first in the upper half."""
    values: Tensor
    """float32 (16,), what the codes stand for."""
    block: int
    constants: Tensor | Constants
    """float32 (blocks,), or these in 8 bits."""
    shape: torch.Size
    dtype: torch.dtype
    """What the weight is rounded to: the one it was packed from."""


@dataclass(frozen=True)
class EightBits:
    """LLM.int8(): codes · scale / 127."""

    codes: Tensor
    """int8 (d_out, d_in)."""
    scales: Tensor
    """float32 (d_out,), the largest magnitude of a row."""


def product(x: Tensor, bias: Tensor | None, weight: Callable[[], Tensor]) -> Tensor:
    """W x + b, (..., d_out); `weight` makes W (d_out, d_in), and makes it again for the backward pass.

    Neither W nor x is kept in between.
    """
    return _Product.apply(x, bias, weight)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, weight: Callable[[], Tensor]) -> Tensor:
        ctx.weight, ctx.dtype_of_bias = weight, None if bias is None else bias.dtype
        return functional.linear(x, weight().to(x.dtype), None if bias is None else bias.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (grad,), (needs_x, needs_bias, _) = grads, ctx.needs_input_grad
        return (
            grad @ ctx.weight().to(grad.dtype) if needs_x else None,
            grad.flatten(0, -2).sum(0).to(ctx.dtype_of_bias) if needs_bias else None,
            None,
        )
