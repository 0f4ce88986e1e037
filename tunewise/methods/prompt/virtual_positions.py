"""Where the virtual tokens of a prefix stand: as ids that a sequence begins with, or as columns inside a stack."""

import torch
from torch import Tensor

from tunewise.methods.base import Delta


class VirtualIds(Delta):
    """On the embedding; x holds token ids. `rows` (batch, length) is the virtual token at each position, or −1."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.rows: Tensor | None = None

    def before(self, x: Tensor) -> Tensor:
        self.rows = torch.where(x >= self.vocab_size, x - self.vocab_size, -1)
        return torch.where(x >= self.vocab_size, 0, x)


class VirtualColumns:
    """Before a sequence inside a stack. `rows` (1, length) is the virtual token at each position, or −1."""

    def __init__(self, virtual_tokens: int) -> None:
        self.virtual_tokens = virtual_tokens
        self.n_present = 0  # none where a cache holds them already
        self.rows: Tensor | None = None

    def stand_before(self, sequence: Tensor, present: bool = True) -> None:
        """Take the first places before `sequence` (batch, length, ...) in this forward pass, or none."""
        self.n_present = self.virtual_tokens if present else 0
        virtual = torch.arange(self.n_present, device=sequence.device)
        self.rows = torch.cat([virtual, virtual.new_full((sequence.shape[1],), -1)])[None]


def in_place_of(y: Tensor, values: Tensor, rows: Tensor) -> Tensor:
    """y (batch, length, ...) with a row of `values` (virtual_tokens, d) wherever `rows` (batch or 1, length) has its
    number, from 0 on; d are all the numbers that y has at a position. Both may be without a batch."""
    flat, rows = y.reshape(-1, values.shape[1]), rows.expand(y.shape[: rows.dim()]).reshape(-1)
    return _InPlaceOf.apply(flat, values.to(y.dtype), rows).view(y.shape)


class _InPlaceOf(torch.autograd.Function):
    """A product chooses the rows and, in the backward, adds up what comes back to each: indices, of which most would be
    of rows that are not there, took a sixth of a step of prefix tuning."""

    @staticmethod
    def forward(ctx, y: Tensor, values: Tensor, rows: Tensor) -> Tensor:
        chosen = (rows[:, None] == torch.arange(len(values), device=rows.device)).to(values.dtype)
        is_virtual = (rows >= 0)[:, None]
        ctx.save_for_backward(chosen, is_virtual)
        return torch.where(is_virtual, chosen @ values, y)

    @staticmethod
    def backward(ctx, *gradients: Tensor):
        (gradient,), (chosen, is_virtual) = gradients, ctx.saved_tensors
        to_y = gradient.masked_fill(is_virtual, 0) if ctx.needs_input_grad[0] else None
        return to_y, chosen.T @ gradient if ctx.needs_input_grad[1] else None, None
