"""Parallel adapters: y + s (W_up f(W_down x + b_down) + b_up), beside the feed-forward part instead of behind it.

He et al. 2022, "Towards a Unified View of Parameter-Efficient Transfer Learning", arXiv:2110.04366, section 4.2;
the scaled parallel adapter with s = 4 is their best (section 4.6). x is what enters the feed-forward part.
"""

from collections.abc import Mapping

import torch
from pydantic import AliasChoices, Field
from torch import Tensor, nn
from torch.nn import functional

from tunewise.methods.additive.bottleneck import ACTIVATIONS
from tunewise.methods.base import Delta, Method
from tunewise.models.anatomy import Anatomy


class Entrance(Delta):
    """Keeps what enters a feed-forward part for the adapter at its exit; changes nothing."""

    def __init__(self, adapter: "ParallelBottleneck") -> None:
        super().__init__()
        self._keep = adapter.receive

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        self._keep(x)
        return y


class ParallelBottleneck(Delta):
    """down (m, d), up (d, m) and their biases; up is zero at birth, so a new adapter is the identity."""

    def __init__(self, d: int, bottleneck: int, scale: float, activation: str) -> None:
        super().__init__()
        self.scale, self.activation = scale, ACTIVATIONS[activation]
        self.down = nn.Parameter(torch.empty(bottleneck, d))
        self.down_bias = nn.Parameter(torch.zeros(bottleneck))
        self.up = nn.Parameter(torch.zeros(d, bottleneck))
        self.up_bias = nn.Parameter(torch.zeros(d))
        nn.init.kaiming_uniform_(self.down, a=5**0.5)
        self._entered: list[Tensor] = []

    def receive(self, x: Tensor) -> None:
        """What entered the feed-forward part, in this very forward pass."""
        self._entered = [x]

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        entered = self._entered.pop()
        dtype = y.dtype
        inner = self.activation(functional.linear(entered, self.down.to(dtype), self.down_bias.to(dtype)))
        return y + self.scale * functional.linear(inner, self.up.to(dtype), self.up_bias.to(dtype))


class BesideMixture(ParallelBottleneck):
    """The same beside a mixture of experts, where one module is entered and left."""

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        self.receive(x)
        return super().after(x, y)


class ParallelAdapter(Method):
    """Two-layer perceptrons beside the feed-forward part of every layer."""

    name = "parallel"
    family = "additive"
    trains = "small perceptrons beside each feed-forward part"
    paper = "arXiv:2110.04366"
    equation = "y + s (W_up f(W_down x + b_down) + b_up)"
    searched = {"bottleneck": (64, 16)}
    learning_rate = 5e-5
    learning_rate_source = "He et al. 2022, arXiv:2110.04366, appendix A.2 (5e-5)"
    start = "W_up and both biases zero, W_down Kaiming-uniform with a = √5: He et al. 2022, petl_factory.py ('lora')"

    bottleneck: int = Field(512, ge=1, validation_alias=AliasChoices("bottleneck", "size"))
    """Width m of the inner layer. Default: He et al. 2022, the authors' run_xsum.sh (on GLUE 16)."""
    scale: float = Field(4.0, gt=0)
    """The factor s. Default: He et al. 2022, the authors' run_xsum.sh (on GLUE 2)."""
    activation: str = Field("relu", pattern="^(relu|gelu|silu)$")
    """The non-linearity f: relu, gelu or silu. Default: He et al. 2022, the authors' petl_factory.py."""
    layers: tuple[int, ...] | None = None
    """Only these layers, counted from 0, or from the end when negative."""

    def deltas(self, anatomy: Anatomy) -> Mapping[str, Delta]:
        found: dict[str, Delta] = {}
        inner_roles = [role for role in ("gate_up", "gate", "up") if role in anatomy.roles][:1]
        entrances = {site.layer: site for site in anatomy.find(inner_roles, self.layers)}
        for site in anatomy.find(["down"], self.layers, mixtures=True):
            kind = BesideMixture if site in anatomy.mixtures else ParallelBottleneck
            adapter = found[site.name] = kind(site.d_out, self.bottleneck, self.scale, self.activation)
            if kind is ParallelBottleneck:
                found[entrances[site.layer].name] = Entrance(adapter)
        return found
