"""What a packed linear layer keeps in place of its weight, and the product with a weight that is made of it anew."""

from collections.abc import Callable, Iterator
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
    """NF4 or FP4: values[codes] · constant, the constant one for a block of so many; whole numbers: with zeros."""

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
    zeros: Tensor | None = None
    """uint8 (d_out, blocks of a row), taken off the values of a block."""
    order: Tensor | None = None
    """int64 (d_in,): which input each column is for, where they do not lie in the order of the inputs."""


@dataclass(frozen=True)
class EightBits:
    """LLM.int8(): codes · scale / 127."""

    codes: Tensor
    """int8 (d_out, d_in)."""
    scales: Tensor
    """float32 (d_out,), the largest magnitude of a row."""

    def pieces(self) -> "Iterator[EightBits]":
        """Some rows after others."""
        n = rows_at_a_time(self.codes)
        yield from map(EightBits, self.codes.split(n), self.scales.split(n))


PIECE = 1 << 22
"""Weights of an embedding or a head that are made, or rounded, at a time on a CPU: 8 MiB in bfloat16."""
PIECE_ON_GPU = 1 << 26
"""And on a GPU, which small products would not fill."""


def rows_at_a_time(weight: Tensor) -> int:
    """Of a large matrix (rows, d)."""
    piece = PIECE if weight.device.type == "cpu" else PIECE_ON_GPU
    return max(1, piece // weight.shape[1])


def widened(codes: EightBits, dtype: torch.dtype) -> Tensor:
    """The weight (d_out, d_in) that eight bits stand for, a new tensor; rounded once."""
    return codes.codes.to(dtype).mul_(codes.scales.unsqueeze(1) * (1 / 127))


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


def product_by_rows(x: Tensor, bias: Tensor | None, codes: EightBits, weight: Callable[[EightBits], Tensor]) -> Tensor:
    """The same where `weight` makes of some rows of `codes` those of W: never all of a large W at once."""
    return _ProductByRows.apply(x, bias, codes, weight)


class _ProductByRows(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, bias: Tensor | None, codes: EightBits, weight: Callable[[EightBits], Tensor]
    ) -> Tensor:
        ctx.codes, ctx.weight, ctx.dtype_of_bias = codes, weight, None if bias is None else bias.dtype
        found = x.new_empty(*x.shape[:-1], len(codes.scales))
        for part, some in zip(found.split(rows_at_a_time(codes.codes), dim=-1), codes.pieces(), strict=True):
            part.copy_(functional.linear(x, weight(some).to(x.dtype)))
        return found if bias is None else found.add_(bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (grad,), (needs_x, needs_bias, *_) = grads, ctx.needs_input_grad
        of_x = None
        if needs_x:  # sums of pieces are not rounded to 16 bits
            shares = zip(grad.split(rows_at_a_time(ctx.codes.codes), dim=-1), ctx.codes.pieces(), strict=True)
            wide = torch.promote_types(grad.dtype, torch.float32)
            of_x = sum((share @ ctx.weight(some).to(grad.dtype)).to(wide) for share, some in shares).to(grad.dtype)
        return of_x, grad.flatten(0, -2).sum(0).to(ctx.dtype_of_bias) if needs_bias else None, None, None
