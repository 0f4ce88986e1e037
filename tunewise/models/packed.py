"""Linear layers whose weight bitsandbytes has packed: what they store, and the product they make on a CPU.

Imported only where there are such layers (`models/quantise.py` asks), since bitsandbytes takes seconds.
"""

import copy
from functools import partial
from typing import Any

import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Int8Params, Linear4bit, Linear8bitLt, Params4bit
from torch import Tensor, nn

from tunewise.models.codes import Constants, EightBits, FourBits, product, widened

LAYERS = (Linear4bit, Linear8bitLt)


@torch.no_grad()
def weight_of(layer: nn.Module) -> Tensor:
    """The weight (d_out, d_in) that a packed layer acts with, a new tensor."""
    if isinstance(layer, Linear8bitLt):
        return _of_eight_bits(layer, torch.float32)
    # One block a row: on CPUs with AVX-512, bitsandbytes 0.50 takes other blocks' constants where rows end inside one.
    state = copy.copy(layer.weight.quant_state)
    shape, n = state.shape, layer.in_features * layer.out_features
    state.shape = torch.Size((n // state.blocksize, state.blocksize) if n % state.blocksize == 0 else (1, n))
    return dequantize_4bit(layer.weight.data, state).view(shape)


def _of_eight_bits(layer: nn.Module, dtype: torch.dtype) -> Tensor:
    return widened(EightBits(layer.weight.data, *scales_of(layer)), dtype)


def codes_of(layer: nn.Module) -> FourBits | EightBits | None:
    """What a layer keeps in place of its weight; None where it may pack that anew while it runs."""
    if isinstance(layer, Linear8bitLt):
        return EightBits(layer.weight.data, *scales_of(layer))
    if not isinstance(layer, Dequantising):
        return None
    state: Any = layer.weight.quant_state
    constants = state.absmax
    if state.nested:
        outer = state.state2
        constants = Constants(constants, outer.code, outer.blocksize, outer.absmax, state.offset)
    return FourBits(layer.weight.data, state.code, state.blocksize, constants, state.shape, state.dtype)


def scales_of(layer: nn.Module) -> list[Tensor]:
    """What turns codes into weights: the absolute maxima of blocks and how those are packed, or of rows for int8."""
    if isinstance(layer, Linear8bitLt):
        scale: Any = layer.state.SCB if layer.weight.SCB is None else layer.weight.SCB  # it moves at the first forward
        return [scale]
    state: Any = layer.weight.quant_state
    return [state.absmax, *([state.state2.absmax, state.offset.reshape(1)] if state.nested else [])]


@torch.no_grad()
def pack(layer: nn.Module, weight: Tensor) -> None:
    """Put `weight` (d_out, d_in) in place of the one that a packed layer holds, packed as that was."""
    before: Any = layer.weight
    plain = weight.detach().float().cpu().contiguous()
    if isinstance(layer, Linear8bitLt):
        layer.weight = Int8Params(plain, requires_grad=False).to(before.device)
        return
    state = before.quant_state
    packed = Params4bit(
        plain,
        requires_grad=False,
        blocksize=state.blocksize,
        compress_statistics=state.nested,
        quant_type=state.quant_type,
        quant_storage=before.quant_storage,
        module=layer,
    ).to(before.device)
    packed.quant_state.dtype = state.dtype
    layer.weight = packed


class Dequantising(Linear4bit):
    """A 4-bit layer that multiplies by its dequantised weight on a CPU, in evaluation as in training.

    In evaluation bitsandbytes repacks the weight in place there, for a kernel that rounds its constants, answers in
    bfloat16 and has no backward: the base would change, and a training step behind an evaluation would fail.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu":
            return super().forward(x)
        return product(x, self.bias, partial(weight_of, self))


class DequantisingInt8(Linear8bitLt):
    """An 8-bit layer that keeps nothing of its input for the backward pass on a CPU; bitsandbytes' own keeps all."""

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or not self.training:
            return super().forward(x)
        return product(x, self.bias, partial(_of_eight_bits, self, x.dtype))


def keep_layout(layer: nn.Module) -> None:
    """See to it that a 4-bit layer stays as it was packed, and that an 8-bit one keeps no input."""
    if type(layer) is Linear4bit:
        layer.state_dict()  # brings back what an earlier evaluation has repacked
        layer.__class__ = Dequantising
    elif type(layer) is Linear8bitLt:
        layer.__class__ = DequantisingInt8
