"""The shell of a packed linear layer: what it stores and what its product takes, without numbers or bitsandbytes.

Stands where `quantise` would put a layer of bitsandbytes, on tensors that hold nothing; `models/nf4.py` tells the layout.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.base import get_keys_to_not_convert

from tunewise.models.nf4 import BLOCK, BLOCK_OF_CONSTANTS

CODEBOOKS = 16 + 256
"""float32 numbers that every 4-bit layer keeps: the values of its codes, and those of its constants' codes."""


class PackedShell(nn.Linear):
    """A frozen weight (d_out, d_in) of 4 or 8 bits, and its constants."""

    def __init__(self, d_in: int, d_out: int, bias: nn.Parameter | None, bits: int, dtype: torch.dtype) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features, self.bits, self.dtype = d_in, d_out, bits, dtype
        n = d_in * d_out
        packed = torch.empty(-(-n // 2), 1, dtype=torch.uint8) if bits == 4 else torch.empty(d_out, d_in, dtype=torch.int8)
        self.weight, self.bias = nn.Parameter(packed, requires_grad=False), bias
        if bits == 4:
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
        """(d_out, d_in) in the precision of the base, and what is alive while it is made."""
        if self.bits == 8:
            return (self.weight.float() * self.scales.unsqueeze(1)).to(self.dtype)
        constants = torch.empty(self.scales.shape, dtype=torch.float32)  # alive with the weight
        weight = torch.empty(self.out_features, self.in_features, dtype=self.dtype)
        weight.copy_(self.weight[0])  # read, so that it is counted
        del constants
        return weight

    def forward(self, x: Tensor) -> Tensor:
        return (_Product if self.bits == 4 else _Product8).apply(x, self.bias, self)


class _Product(torch.autograd.Function):
    """As `packed._Product`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, layer: PackedShell) -> Tensor:
        ctx.layer = layer
        return functional.linear(x, layer.dequantised().to(x.dtype), None if bias is None else bias.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        return _backward(ctx.layer, gradients[0], ctx.needs_input_grad)


class _Product8(torch.autograd.Function):
    """As bitsandbytes' MatMul8bitLt with frozen weights: the input is kept, in 16 bits and in 8 while it is multiplied."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, layer: PackedShell) -> Tensor:
        ctx.layer, ctx.kept = layer, x
        rows = x.flatten(0, -2)
        codes = rows.to(torch.float16).abs().to(torch.int8)
        sums = torch.mm(codes.to(torch.int32), torch.empty(layer.in_features, layer.out_features, dtype=torch.int32))
        out = (sums * layer.scales).to(x.dtype)
        return (out if bias is None else out + bias).view(*x.shape[:-1], layer.out_features)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        ctx.kept = None
        return _backward(ctx.layer, gradients[0], ctx.needs_input_grad)


def _backward(
    layer: PackedShell, gradient: Tensor, needed: tuple[bool, ...]
) -> tuple[Tensor | None, Tensor | None, None]:
    return (
        gradient @ layer.dequantised().to(gradient.dtype) if needed[0] else None,
        gradient.flatten(0, -2).sum(0) if needed[1] else None,
        None,
    )


def packed_paths(model: PreTrainedModel) -> list[str]:
    """The linear layers that transformers would pack: all but the head, what is tied to it, and the last module."""
    kept = get_keys_to_not_convert(model)
    return [
        path
        for path, module in model.named_modules()
        if (type(module) is nn.Linear or isinstance(module, Conv1D))
        and not any(f"{path}.".startswith(f"{name}.") for name in kept)
    ]


def pack(model: PreTrainedModel, paths: list[str], quantise: str, dtype: torch.dtype) -> None:
    """Put shells of packed layers in the places of these layers of `model`, which holds no numbers either."""
    for path in paths:
        module = model.get_submodule(path)
        d_in, d_out = module.weight.shape if isinstance(module, Conv1D) else module.weight.shape[::-1]
        parent, _, name = path.rpartition(".")
        shell = PackedShell(d_in, d_out, module.bias, 8 if quantise == "int8" else 4, dtype)
        setattr(model.get_submodule(parent), name, shell)
