"""Layers that are alike, and a base cut to few of them: what a rehearsal takes instead of the whole depth."""

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tunewise.methods.base import Delta
from tunewise.models.anatomy import Anatomy, Site

FEW = 3
"""Of layers that are alike: the first, one inside and the last, each of which may have other neighbours."""


def runs(model: PreTrainedModel, anatomy: Anatomy, deltas: Mapping[str, Delta], selected: Sequence[str]) -> list[range]:
    """The layers in order, those that follow one another and hold, get and train the same in one range."""
    sites = {site.name: site for site in (*anatomy.sites, *anatomy.keys)}
    kinds = [_kind(model, number, path, sites, deltas, selected) for number, path in enumerate(anatomy.layers)]
    starts = [number for number in range(len(kinds)) if number == 0 or kinds[number] != kinds[number - 1]]
    return [range(start, stop) for start, stop in zip(starts, [*starts[1:], len(kinds)], strict=True)]


def _kind(
    model: PreTrainedModel,
    number: int,
    path: str,
    sites: Mapping[str, Site],
    deltas: Mapping[str, Delta],
    selected: Sequence[str],
) -> tuple[object, ...]:
    held = [
        (name, type(module).__name__, *(tuple(p.shape) for p in module.parameters(recurse=False)))
        for name, module in model.get_submodule(path).named_modules()
    ]
    added = [
        (sites[name].role, sites[name].is_cross, type(delta).__name__, *(tuple(p.shape) for p in delta.parameters()))
        for name, delta in deltas.items()
        if name in sites and sites[name].layer == number
    ]
    trained = [name.removeprefix(path) for name in selected if name.startswith(f"{path}.")]
    return path.rpartition(".")[0], tuple(held), tuple(added), tuple(trained)


def few_of(layers: range, n: int = FEW) -> list[int]:
    """At most n of these layers: the first two, and the last ones."""
    return list(layers) if len(layers) <= n else [*layers[:2], *layers[2 - n :]]


def cut(model: PreTrainedModel, anatomy: Anatomy, kept: Sequence[int]) -> PreTrainedModel:
    """A copy of `model` with these layers alone, under the names that they have there."""
    left_out = [path for number, path in enumerate(anatomy.layers) if number not in kept]
    nothing = {id(model.get_submodule(path)): nn.Identity() for path in left_out}
    copied = copy.deepcopy(model, nothing)
    for path in left_out:
        stack, _, name = path.rpartition(".")
        del copied.get_submodule(stack)._modules[name]
    return copied


def hollow(deltas: Mapping[str, Delta]) -> dict[str, Delta] | None:
    """Copies of deltas that lie on the meta device, with tensors as they are made now; None for those that hold more
    than parameters, and have to be made anew with what they hold."""
    modules = {id(module): module for delta in deltas.values() for module in delta.modules()}.values()
    if any(module._buffers or any(isinstance(it, Tensor) for it in vars(module).values()) for module in modules):
        return None
    new: dict[int, nn.Parameter] = {}
    for parameter in (each for module in modules for each in module.parameters(recurse=False)):
        made = torch.empty(parameter.shape, dtype=parameter.dtype)
        new[id(parameter)] = nn.Parameter(made, requires_grad=parameter.requires_grad)
    return copy.deepcopy(dict(deltas), new)
