"""Linear layers whose weight is packed by a tensor subclass, as torchao's: its parts, and the weight they stand for.

Nothing of torchao is imported: `__tensor_flatten__` and `dequantize` are what every such class has.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from tunewise.errors import UserError
from tunewise.models.codes import product


class SubclassedLinear(nn.Linear):
    """A frozen weight (d_out, d_in) as the parts that its class packs it into; the first of them is `weight`."""

    kind: Any
    names: list[str]
    context: Any

    def forward(self, input: Tensor) -> Tensor:
        return product(input, self.bias, partial(weight_of, self))


def is_packed(module: nn.Module) -> bool:
    """Whether its weight is packed by a tensor subclass, taken apart already or not."""
    return isinstance(module, SubclassedLinear) or (
        isinstance(module, nn.Linear) and is_traceable_wrapper_subclass(module.weight)
    )


def keep_layout(layer: nn.Module) -> None:
    """Take a layer's weight apart, so that it is stored, counted and compared as what it holds."""
    if isinstance(layer, SubclassedLinear):
        return
    packed: Any = layer.weight
    (first, *others), context = packed.__tensor_flatten__()
    parts = {name: vars(packed)[name].detach() for name in (first, *others)}
    layer.__class__ = SubclassedLinear
    layer.kind, layer.names, layer.context = type(packed), [first, *others], context
    layer.weight = nn.Parameter(parts[first], requires_grad=False)
    for name in others:
        layer.register_buffer(name, parts[name], persistent=False)


@torch.no_grad()
def weight_of(layer: Any) -> Tensor:
    """The weight (d_out, d_in) that a layer acts with, a new tensor."""
    if not isinstance(layer, SubclassedLinear):
        return layer.weight.dequantize()
    shape = torch.Size((layer.out_features, layer.in_features))
    parts = dict(zip(layer.names, [layer.weight.data, *scales_of(layer)], strict=True))
    return layer.kind.__tensor_unflatten__(parts, layer.context, shape, (layer.in_features, 1)).dequantize()


def scales_of(layer: Any) -> list[Tensor]:
    """What turns codes into weights: the parts behind the first."""
    return [layer.get_buffer(name) for name in layer.names[1:]]


def codes_of(layer: nn.Module) -> None:
    """None: the engine's kernel knows no such codes."""


def pack(layer: nn.Module, weight: Tensor) -> None:
    """UserError: its library alone could pack another weight."""
    raise UserError("a checkpoint of torchao is not packed anew", "quantise its original: quantise=nf4")
