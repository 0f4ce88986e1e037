"""A delta at a site of experts: while their module runs, W + λ·ΔW stands in the place of W.

The changed weights of a layer are as large as its experts. Products keep what they multiply for the backward, so those
of every layer would be alive at once; they are made again there instead, from factors that are small.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from tunewise.methods.base import Delta, WeightChange
from tunewise.models.anatomy import Site

_LENT: dict[int, Callable[[], Tensor]] = {}  # by the storage of weights that stand in a module now: what makes them


class Lending:
    """Puts the changed weights of one site in, and takes them out again; `around` are the modules that it is within."""

    def __init__(self, site: Site, delta: Delta, scale: Callable[[], float], around: Sequence[nn.Module]) -> None:
        assert isinstance(delta, WeightChange), type(delta)
        self._site, self._delta, self._scale, self._around = site, delta, scale, around
        self._lent: list[tuple[nn.Parameter, int, saved_tensors_hooks | None]] = []

    def enter(self, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Before the module runs."""
        scale = self._scale()
        if scale == 0.0:
            return args
        own = module.get_parameter(self._site.parameter)
        changed = self._changed(own, scale)
        number = changed.untyped_storage()._cdata
        _LENT[number] = lambda: self._changed(own, scale)
        hooks = None if self._is_computed_again() else saved_tensors_hooks(_pack, _unpack)
        if hooks is not None:
            hooks.__enter__()
        self._lent.append((own, number, hooks))
        stored: dict[str, Any] = module._parameters
        stored[self._site.parameter] = changed
        return args

    def leave(self, module: nn.Module, args: tuple[Tensor, ...], output: object) -> None:
        """After the module has run, or failed."""
        if self._lent:
            own, number, hooks = self._lent.pop()
            module._parameters[self._site.parameter] = own
            if hooks is not None:
                hooks.__exit__()
            del _LENT[number]

    def _changed(self, own: Tensor, scale: float) -> Tensor:
        weight = own.mT if self._site.transposed else own
        moved = self._delta.moved(weight)
        if scale != 1.0:
            moved = torch.lerp(weight, moved, scale)
        return moved.mT if self._site.transposed else moved

    def _is_computed_again(self) -> bool:
        """Whether a module around it keeps nothing for the backward anyway: its own hooks are not to be covered."""
        return any(vars(module).get("gradient_checkpointing") and module.training for module in self._around)


@dataclass(frozen=True)
class _Again:
    """Stands for a view of changed weights in the graph of the backward."""

    make: Callable[[], Tensor]
    size: torch.Size
    stride: tuple[int, ...]
    offset: int


def _pack(tensor: Tensor) -> Tensor | _Again:
    make = _LENT.get(tensor.untyped_storage()._cdata)
    return tensor if make is None else _Again(make, tensor.size(), tensor.stride(), tensor.storage_offset())


@torch.no_grad()
def _unpack(packed: Tensor | _Again) -> Tensor:
    if isinstance(packed, Tensor):
        return packed
    return packed.make().as_strided(packed.size, packed.stride, packed.offset)
