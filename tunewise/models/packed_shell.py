"""The shell of a packed linear layer: what it stores and what its product takes, without numbers or bitsandbytes.

Stands where `quantise` would put a layer of bitsandbytes, or one of whole numbers, on tensors that hold nothing;
`models/nf4.py` and `models/packed_integers.py` tell of the layouts.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tunewise.models.codes import product
from tunewise.models.nf4 import BLOCK, BLOCK_OF_CONSTANTS

CODEBOOKS = 16 + 256
"""float32 numbers that every 4-bit layer keeps: the values of its codes, and those of its constants' codes."""


@dataclass(frozen=True)
class Layout:
    """How the linear layers of a base are packed."""

    bits: int
    """4 or 8, as codes are held in memory."""
    group: int = 0
    """Of whole numbers: how many of a row have a scale in common, or -1 for all of it; 0 as bitsandbytes does it."""
    has_zeros: bool = False
    """Whether each group has a zero of its own."""


class PackedShell(nn.Linear):
    """A frozen weight (d_out, d_in) of 4 or 8 bits, and its constants."""

    def __init__(self, d_in: int, d_out: int, bias: nn.Parameter | None, layout: Layout, dtype: torch.dtype) -> None:
        nn.Module.__init__(self)
        bits = layout.bits
        self.in_features, self.out_features, self.bits, self.dtype = d_in, d_out, bits, dtype
        n = d_in * d_out
        packed = (
            torch.empty(-(-n // 2), 1, dtype=torch.uint8) if bits == 4 else torch.empty(d_out, d_in, dtype=torch.int8)
        )
        self.weight, self.bias = nn.Parameter(packed, requires_grad=False), bias
        if layout.group:
            n_groups = -(-d_in // layout.group) if layout.group > 0 else 1
            self.register_buffer("scales", torch.empty(d_out, n_groups, dtype=torch.float16))
            if layout.has_zeros:
                self.register_buffer("zeros", torch.empty(d_out, n_groups, dtype=torch.uint8))
        elif bits == 4:
            n_blocks = -(-n // BLOCK)
            self.register_buffer("scales", torch.empty(n_blocks, dtype=torch.uint8))
            self.register_buffer("scales_of_scales", torch.empty(-(-n_blocks // BLOCK_OF_CONSTANTS) + 1))
            self.register_buffer("codebooks", torch.empty(CODEBOOKS))
        else:
            self.register_buffer("scales", torch.empty(d_out))

    def constants(self) -> list[Tensor]:
        """What turns codes into weights."""
        return list(self.buffers(recurse=False))

    def dequantised(self) -> Tensor:
        """(d_out, d_in) in the precision of the base."""
        return torch.empty(self.out_features, self.in_features, dtype=self.dtype)

    def forward(self, input: Tensor) -> Tensor:
        return product(input, self.bias, self.dequantised)


def pack(model: PreTrainedModel, paths: list[str], layout: Layout, dtype: torch.dtype) -> None:
    """Put shells of packed layers in the places of these layers of `model`, which holds no numbers either."""
    for path in paths:
        module = model.get_submodule(path)
        d_in, d_out = module.weight.shape if isinstance(module, Conv1D) else module.weight.shape[::-1]
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, PackedShell(d_in, d_out, module.bias, layout, dtype))
