"""Linear layers whose weight bitsandbytes has packed: what they store, and the product they make on a CPU.

Imported only where there are such layers (`models/quantise.py` asks), since bitsandbytes takes seconds.
"""

import copy
from typing import Any

import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Int8Params, Linear4bit, Linear8bitLt, Params4bit
from torch import Tensor, nn
from torch.nn import functional

LAYERS = (Linear4bit, Linear8bitLt)


@torch.no_grad()
def weight_of(layer: nn.Module) -> Tensor:
    """The weight (d_out, d_in) that a packed layer acts with, a new tensor."""
    if isinstance(layer, Linear8bitLt):
        (scale,) = scales_of(layer)
        return layer.weight.data.float() * (scale.unsqueeze(1) * (1 / 127))
    # One block a row: on CPUs with AVX-512, bitsandbytes 0.50 takes other blocks' constants where rows end inside one.
    state = copy.copy(layer.weight.quant_state)
    shape, n = state.shape, layer.in_features * layer.out_features
    state.shape = torch.Size((n // state.blocksize, state.blocksize) if n % state.blocksize == 0 else (1, n))
    return dequantize_4bit(layer.weight.data, state).view(shape)


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
        return _Product.apply(x, self.bias, self)


class _Product(torch.autograd.Function):
    """W x + b; the dequantised W is made again for the backward pass instead of kept."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, bias: Tensor | None, layer: nn.Module) -> Tensor:
        ctx.layer = layer
        return functional.linear(x, weight_of(layer).to(x.dtype), None if bias is None else bias.to(x.dtype))

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (grad,), (needs_x, needs_bias, _) = grads, ctx.needs_input_grad
        return (
            grad @ weight_of(ctx.layer).to(grad.dtype) if needs_x else None,
            grad.flatten(0, -2).sum(0).to(ctx.layer.bias.dtype) if needs_bias else None,
            None,
        )


def keep_layout(layer: nn.Module) -> None:
    """See to it that a 4-bit layer stays as it was packed."""
    if type(layer) is Linear4bit:
        layer.state_dict()  # brings back what an earlier evaluation has repacked
        layer.__class__ = Dequantising
