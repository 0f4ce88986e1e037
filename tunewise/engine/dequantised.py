"""Packed linear layers whose weight one kernel makes of its codes, forward and again backward."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tunewise.engine.native.attention import DTYPES
from tunewise.engine.native.dequantise import dequantised
from tunewise.models.codes import EightBits, FourBits, product, product_by_rows, widened
from tunewise.models.ends import EightBitEnd, EightBitHead
from tunewise.models.packed_integers import in_order
from tunewise.models.quantise import codes_of, dequantised_weight, packed_weights

FEW = 256
"""Rows of a head that the kernel is tried on."""


def forwards(model: PreTrainedModel) -> list[tuple[nn.Module, Callable[[Tensor], Tensor]]]:
    """The packed layers of `model`, and what multiplies by their weights.

    Of layers that are alike one is tried: they are left out unless its weight comes out as it is, bit for bit.
    """
    found, tried = [], {}
    for module in packed_weights(model).values():
        if isinstance(module, EightBitEnd):
            found += _of_end(module)
            continue
        codes = codes_of(module)
        if codes is None:
            continue
        dtype = codes.dtype if isinstance(codes, FourBits) else model.dtype
        kind = str(module), dtype, isinstance(codes, FourBits) and (codes.block, type(codes.constants), _beside(codes))
        if kind not in tried:
            tried[kind] = dtype in DTYPES and torch.equal(
                dequantised(codes, dtype), in_order(dequantised_weight(module).to(dtype), _order(codes))
            )
        if tried[kind]:
            multiplying = _by_eight_bits if isinstance(codes, EightBits) else _by_four_bits
            found.append((module, multiplying(module, dtype)))
    return found


def _of_end(end: EightBitEnd) -> list[tuple[nn.Module, Callable[[Tensor], Tensor]]]:
    """The head, tried on its first rows; an embedding makes few of them."""
    codes, dtype = end.codes(), end.dtype
    few = EightBits(codes.codes[:FEW], codes.scales[:FEW])
    if not isinstance(end, EightBitHead) or dtype not in DTYPES:
        return []
    if not torch.equal(dequantised(few, dtype), widened(few, dtype)):
        return []
    return [(end, lambda x: product_by_rows(x, end.bias, end.codes(), lambda some: dequantised(some, dtype)))]


def _beside(codes: FourBits) -> tuple[bool, bool]:
    """Whether its codes have zeros, and its columns an order of their own."""
    return codes.zeros is not None, codes.order is not None


def _order(codes: FourBits | EightBits | None) -> Tensor | None:
    return codes.order if isinstance(codes, FourBits) else None


def _by_four_bits(module: nn.Module, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    order = _order(codes_of(module))
    return lambda x: product(in_order(x, order), module.bias, lambda: dequantised(codes_of(module), dtype))


def _by_eight_bits(module: nn.Module, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """In training: in evaluation it rounds what enters as well."""
    training = _by_four_bits(module, dtype)
    return lambda x: training(x) if module.training else type(module).forward(module, x)
