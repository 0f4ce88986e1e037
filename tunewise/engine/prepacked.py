"""Linear layers that multiply by a copy of their weight in oneDNN's own layout: prepacked, on a CPU.

`functional.linear` brings a weight into that layout for every product. Of few rows, as in writing token by token, that
takes as long as the product itself; of the many of a batch it costs up to a fifth. A copy is made when a frozen weight
is met for a second time and is as it was, and again when it has changed; where others may change it without a word
(fused optimisers do), it is forgotten. A copy is used only where its first product is, bit for bit, what torch says
without it.
"""

import copy as copying
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from tunewise.engine.backend import backend, is_off
from tunewise.engine.native.pretended import is_pretended
from tunewise.machine import free_memory
from tunewise.models.anatomy import Anatomy

MOST_BYTES, MOST_THAT_STAY = 256 << 20, 64 << 20
"""Of the copies of a model's layers: of a larger one there are none; and those that are there in training as well,
where memory is scarce and rows are many, so that they save less."""
SMALLEST = 16**3
"""Values of a weight: torch multiplies by smaller ones without oneDNN."""
ROWS = 1024
"""For which a copy is laid out; it is as fast for few."""
BLOCK = 64
"""Rows of a copy are a multiple of it."""
Shapes = dict[tuple[torch.Size, torch.dtype, bool], bool]
"""Of weights, with a bias or without, and whether products by their copies are those of torch."""


def forwards(
    model: PreTrainedModel, anatomy: Anatomy, whole: PreTrainedModel, is_answering: bool = False
) -> "list[tuple[nn.Linear, Prepacked]]":
    """The linear modules of `model`, which is `whole` or some of its layers, and what multiplies by their weights.

    None of a model that is too large, where torch has no oneDNN, or TUNEWISE_BACKEND=0 says so. Copies of one that is
    asked and never trained may take a quarter of free memory, and stay. The head's does not stay in training, where it
    is met for few tokens.
    """
    most = (free_memory() or 4 * MOST_BYTES) // 4 if is_answering else MOST_BYTES
    n_bytes = sum(module.weight.numel() for module in _linear(whole, anatomy)) * model.dtype.itemsize
    if is_off() or not torch.backends.mkldnn.is_available() or n_bytes > most:
        return []
    shapes: Shapes = {}
    stays = is_answering or n_bytes <= MOST_THAT_STAY
    found = [(module, Prepacked(module, shapes, stays)) for module in _linear(model, anatomy)]
    head = None if anatomy.head is None else model.get_submodule(anatomy.head.module)
    if type(head) is nn.Linear and SMALLEST < head.weight.numel() <= (most - n_bytes) // head.weight.itemsize:
        found.append((head, Prepacked(head, shapes, is_answering)))
    return found


def _linear(model: PreTrainedModel, anatomy: Anatomy) -> Iterator[nn.Linear]:
    there = dict(model.named_modules())
    for layer in (there[path] for path in anatomy.layers if path in there):
        for module in layer.modules():
            if type(module) is nn.Linear and module.weight.numel() > SMALLEST:
                yield module


class Prepacked:
    """The forward of one linear module, by a copy of its weight while that stays as it is."""

    def __init__(self, module: nn.Linear, shapes: Shapes, stays: bool = True) -> None:
        """What `stays` may be there in training too, and from one pass to the next."""
        self._module, self._shapes, self.stays = module, shapes, stays
        self._seen: tuple[int, int] | None = None
        self.copy: Tensor | None = None
        """Of the weight, in oneDNN's layout."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "Prepacked":
        return Prepacked(copying.deepcopy(self._module, memo), self._shapes, self.stays)

    def __call__(self, input: Tensor) -> Tensor:
        weight, bias = self._module.weight, self._module.bias
        if not self._is_for(weight, bias, input):
            return functional.linear(input, weight, bias)
        copy = self._current(weight, input)
        if torch.is_grad_enabled() and (input.requires_grad or (bias is not None and bias.requires_grad)):
            return _Product.apply(input, weight, bias, copy)  # with and without a copy: what is kept has to be the same
        return _product(input, weight, bias, copy)

    def _is_for(self, weight: Tensor, bias: Tensor | None, x: Tensor) -> bool:
        if weight.requires_grad or weight.is_inference():
            self.forget()
            return False
        is_plain = bias is None or x.is_contiguous()  # torch rounds twice where it cannot add the bias on the way
        return is_plain and x.dtype == weight.dtype and x.numel() > 0 and not torch.is_autocast_enabled("cpu")

    def pretend(self) -> None:
        """Have a copy without numbers, of the size that one would have inside `chosen` on this machine."""
        weight = self._module.weight
        if not self.stays or weight.requires_grad:
            return
        if backend().onednn if weight.dtype == torch.float32 else _is_through_onednn(weight.dtype):
            self.copy = weight.new_empty(-(-len(weight) // BLOCK) * BLOCK, weight.shape[1])

    def forget(self) -> None:
        """Have no copy any more."""
        self._seen = self.copy = None

    def _current(self, weight: nn.Parameter, x: Tensor) -> Tensor | None:
        """The copy of the weight as it is now; None where there is none."""
        if torch.is_grad_enabled() and not self.stays:
            self.forget()
            return None
        if is_pretended(weight) or not _is_through_onednn(weight.dtype):
            return None
        # a tensor's version goes with it through every change in place; another one has another address
        now = weight.data_ptr(), weight._version
        if now != self._seen:
            self._seen, self.copy = now, None
        elif self.copy is None and self._shapes.get(self._kind, True):
            self.copy = self._packed(weight, x)
        return self.copy

    @property
    def _kind(self) -> tuple[torch.Size, torch.dtype, bool]:
        return self._module.weight.shape, self._module.weight.dtype, self._module.bias is not None

    @torch.no_grad()
    def _packed(self, weight: nn.Parameter, x: Tensor) -> Tensor | None:
        kind, bias = self._kind, self._module.bias
        try:
            copy = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), ROWS)
            if kind not in self._shapes:
                self._shapes[kind] = torch.equal(_product(x, weight, bias, copy), functional.linear(x, weight, bias))
        except (RuntimeError, AttributeError):  # a build or a processor for which it is not made
            self._shapes[kind] = False
        return copy if self._shapes[kind] else None


def _is_through_onednn(dtype: torch.dtype) -> bool:
    """Whether torch multiplies by oneDNN in this precision now."""
    if dtype == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return dtype == torch.float32 and torch.get_float32_matmul_precision() == "medium"


def _product(x: Tensor, weight: Tensor, bias: Tensor | None, copy: Tensor | None) -> Tensor:
    if copy is None:
        return functional.linear(x, weight, bias)
    made = torch.ops.mkldnn._linear_pointwise(x.reshape(-1, x.shape[-1]), copy, bias, "none", [], "")
    return made.view(*x.shape[:-1], made.shape[-1])


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, copy: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.shape = x.shape
        return _product(x, weight, bias, copy)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        dy = gradients[0].reshape(-1, len(weight))
        dx = (dy @ weight).view(ctx.shape) if ctx.needs_input_grad[0] else None
        return dx, None, dy.sum(0) if ctx.needs_input_grad[2] else None, None
