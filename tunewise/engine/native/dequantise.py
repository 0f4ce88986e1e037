"""The weight of a packed layer out of its codes, in one pass of a C++ kernel.

Bit for bit what bitsandbytes and `models/nf4.py` make of them; needs `library()`.
"""

import ctypes

import torch
from torch import Tensor

from tunewise.engine.native.rows import call
from tunewise.models.codes import EightBits, FourBits


def dequantised(codes: FourBits | EightBits, dtype: torch.dtype) -> Tensor:
    """The weight (d_out, d_in) in float32 or bfloat16; each product is float32 and rounded by itself."""
    if isinstance(codes, EightBits):
        weight = torch.empty(codes.codes.shape, dtype=dtype)
        n_rows, width = weight.shape
        call("tunewise_eight_bits", dtype, codes.codes, codes.scales, weight, ctypes.c_long(n_rows), width)
        return weight
    weight, of_blocks = torch.empty(codes.shape, dtype=dtype), codes.constants  # columns in the order of the codes
    if isinstance(of_blocks, Tensor):
        constants = (of_blocks, None, None, None, None, 0)
    else:
        constants = (None, of_blocks.codes, of_blocks.values, of_blocks.scales, of_blocks.mean, of_blocks.block)
    size = ctypes.c_long(weight.numel())
    call("tunewise_four_bits", dtype, codes.packed, codes.values, size, codes.block, *constants, codes.zeros, weight)
    return weight
