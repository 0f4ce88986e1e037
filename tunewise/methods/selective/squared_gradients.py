"""Squared gradients of the weights: of each example's loss, which sum to their Fisher information, or of the mean's."""

from collections.abc import Callable, Iterable, Mapping
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from tunewise.methods.base import Start
from tunewise.models.anatomy import Site


def squared_gradients(
    start: Start, changes: Mapping[str, Tensor], losses: Callable[[], Iterable[Tensor]], examples: int, *, each: bool
) -> dict[str, Tensor]:
    """Site name -> Σ g² over the first examples, or (Σ g)² where not `each`, (d_out, d_in) on the CPU.

    g is the gradient of `changes`, (d_out, d_in) each and zero, added to the weights while the losses are made: a
    quantised weight has no gradient of its own.
    """
    sites = {site.name: site for site in start.anatomy.linear}
    sums = {name: torch.zeros_like(change, dtype=torch.float32) for name, change in changes.items()}

    def adding(site: Site, change: Tensor) -> RemovableHandle:
        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            return site.write(output, site.read(output) + functional.linear(args[0], change))

        return start.model.get_submodule(site.module).register_forward_hook(hook)

    hooks = [adding(sites[name], change) for name, change in changes.items()]
    try:
        for loss in islice(losses(), examples):
            gradients = torch.autograd.grad(loss, list(changes.values()))
            for total, gradient in zip(sums.values(), gradients, strict=True):
                total += gradient.float().square() if each else gradient.float()
    finally:
        for hook in hooks:
            hook.remove()
    return {name: (total if each else total.square()).cpu() for name, total in sums.items()}
