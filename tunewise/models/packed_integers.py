"""Linear layers whose weight is whole numbers with a scale and a zero for each group of inputs: GPTQ, AWQ and such.

W[o, i] = (code[o, i] - zero[o, g(i)]) · scale[o, g(i)]. Whatever file it came from (`integer_checkpoints.py`), a layer
holds its codes row by row, two a byte where they have four bits or fewer, its scales as they are stored, and its zeros
where they are not all the middle of the range. Where groups are not neighbours (GPTQ's desc_act), columns lie sorted by
group, and what enters is put into that order. Products are those of the dequantised weight in the precision of the
base, which is made of float32 numbers, each rounded once; it is made anew for the backward pass.

GPTQ: Frantar et al. 2022, arXiv:2210.17323; AWQ: Lin et al. 2023, arXiv:2306.00978, section 3.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tunewise.errors import UserError
from tunewise.models.codes import FourBits, product, rows_at_a_time


@dataclass(frozen=True)
class Integers:
    """A weight (d_out, d_in) as it was quantised."""

    codes: Tensor
    """uint8 (d_out, d_in), 0 to 2^bits - 1."""
    scales: Tensor
    """(d_out, groups), of any floating-point type."""
    zeros: Tensor
    """uint8 (d_out, groups): the code that stands for 0."""
    groups: Tensor
    """int64 (d_in,): the group of each input."""
    bits: int


class IntegerLinear(nn.Linear):
    """A frozen weight (d_out, d_in) as such numbers, multiplied by as its dequantised values; the bias is as it was.

    `source_cls` is the class that it stands in the place of. Raises ValueError for groups of unlike sizes.
    """

    block: int
    """Inputs of a group; the last one may have fewer."""
    is_halved: bool
    """Whether two codes lie in a byte, the first in its upper half."""

    def __init__(
        self, whole: Integers, bias: nn.Parameter | None, dtype: torch.dtype, source_cls: type[nn.Module] = nn.Linear
    ) -> None:
        nn.Module.__init__(self)
        (self.out_features, self.in_features), self.dtype, self.source_cls = whole.codes.shape, dtype, source_cls
        order = None if (whole.groups.diff() >= 0).all() else whole.groups.argsort(stable=True)
        self.block = _size_of(whole.groups, whole.scales.shape[1])
        self.middle = 1 << whole.bits - 1
        codes = whole.codes if order is None else whole.codes.index_select(1, order)
        self.is_halved = whole.bits <= 4 and self.in_features % 2 == 0
        if self.is_halved:
            codes = codes[:, ::2] << 4 | codes[:, 1::2]
        self.weight, self.bias = nn.Parameter(codes.contiguous(), requires_grad=False), bias
        zeros = None if (whole.zeros == self.middle).all() else whole.zeros.contiguous()
        self.register_buffer("scales", whole.scales.contiguous())
        self.register_buffer("zeros", zeros)
        self.register_buffer("order", order)

    def forward(self, input: Tensor) -> Tensor:
        return product(in_order(input, self._buffers["order"]), self.bias, partial(_sorted_weight, self))


def in_order(x: Tensor, order: Tensor | None) -> Tensor:
    """(..., d_in) with its columns in this order."""
    return x if order is None else x.index_select(-1, order)


@torch.no_grad()
def weight_of(layer: IntegerLinear) -> Tensor:
    """The weight (d_out, d_in) that a layer acts with, a new tensor in the precision of the base."""
    weight, order = _sorted_weight(layer), layer._buffers["order"]
    return weight if order is None else weight.index_select(1, order.argsort())


def codes_of(layer: IntegerLinear) -> FourBits | None:
    """What a layer keeps in place of its weight, for the engine's kernel; None where it knows no such codes."""
    if not layer.is_halved or layer.block % 2 or layer.in_features % layer.block:
        return None
    zeros, scales = layer._buffers["zeros"], layer.get_buffer("scales").float()
    values = torch.arange(16, dtype=torch.float32, device=scales.device) - (layer.middle if zeros is None else 0)
    shape = torch.Size((layer.out_features, layer.in_features))
    order = layer._buffers["order"]
    return FourBits(layer.weight.data, values, layer.block, scales.flatten(), shape, layer.dtype, zeros, order)


def scales_of(layer: IntegerLinear) -> list[Tensor]:
    """What turns codes into weights: scales, and zeros and the order of the columns where it has some."""
    return [buffer for buffer in layer._buffers.values() if buffer is not None]


def keep_layout(layer: IntegerLinear) -> None:
    """Nothing: it stays as it is."""


def pack(layer: IntegerLinear, weight: Tensor) -> None:
    """UserError: what scales and zeros another weight needs is the business of the library that quantised this one."""
    raise UserError("a checkpoint of GPTQ or AWQ is not packed anew", "quantise its original: quantise=nf4")


def _sorted_weight(layer: Any) -> Tensor:
    """The weight with its columns as they lie, some rows after others."""
    shape, scales, zeros = (layer.out_features, layer.in_features), layer.scales, layer.zeros
    weight = torch.empty(shape, dtype=layer.dtype, device=scales.device)
    n = rows_at_a_time(weight)
    parts = zip(
        weight.split(n), layer.weight.data.split(n), scales.split(n),
        [layer.middle] * len(scales) if zeros is None else zeros.split(n),
    )  # fmt: skip
    for rows, codes, scale, zero in parts:
        whole = torch.stack([codes >> 4, codes & 15], dim=-1).flatten(1) if layer.is_halved else codes
        of_columns = partial(_of_columns, n=layer.in_features, block=layer.block)
        wide = whole.float().sub_(zero if zeros is None else of_columns(zero.float()))
        rows.copy_(wide.mul_(of_columns(scale.float())))
    return weight


def _of_columns(of_groups: Tensor, n: int, block: int) -> Tensor:
    """(rows, groups) -> (rows, n), each as often as its group has columns."""
    return of_groups.repeat_interleave(block, dim=1)[:, :n]


def _size_of(groups: Tensor, n_groups: int) -> int:
    counts = groups.bincount(minlength=n_groups)
    block = int(counts[0])
    if len(counts) != n_groups or (counts[:-1] != block).any() or not 0 < counts[-1] <= block:
        raise ValueError(f"its {n_groups} groups are of unlike sizes")
    return block
