"""Bottleneck adapters: y + W_up f(W_down y + b_down) + b_up.

Houlsby et al. 2019, arXiv:1902.00751, section 2.1, behind attention and behind the feed-forward part; Pfeiffer et
al. 2021, arXiv:2005.00247, behind the feed-forward part alone.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import AliasChoices, Field
from torch import Tensor, nn
from torch.nn import functional

from tunewise.methods.base import Delta, Method
from tunewise.models.anatomy import Anatomy

ACTIVATIONS = {"relu": functional.relu, "gelu": functional.gelu, "silu": functional.silu}
PLACEMENTS = {"houlsby": ("o", "down"), "pfeiffer": ("down",)}


class Bottleneck(Delta):
    """down (m, d), up (d, m) and their biases; up is zero at birth, so a new adapter is the identity."""

    def __init__(self, d: int, bottleneck: int, activation: str) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.down = nn.Parameter(torch.empty(bottleneck, d))
        self.down_bias = nn.Parameter(torch.zeros(bottleneck))
        self.up = nn.Parameter(torch.zeros(d, bottleneck))
        self.up_bias = nn.Parameter(torch.zeros(d))
        nn.init.kaiming_uniform_(self.down, a=5**0.5)

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        dtype = y.dtype
        inner = self.activation(functional.linear(y, self.down.to(dtype), self.down_bias.to(dtype)))
        return y + functional.linear(inner, self.up.to(dtype), self.up_bias.to(dtype))


class BottleneckAdapter(Method):
    """Two-layer perceptrons of width `bottleneck` inside every layer, with a residual connection around each."""

    name = "bottleneck"
    family = "additive"
    trains = "small perceptrons inside each layer"
    paper = "arXiv:1902.00751"
    equation = "y + W_up f(W_down y + b_down) + b_up"
    searched = {"bottleneck": (16, 256)}
    learning_rate = 1e-4
    learning_rate_source = "Pfeiffer et al. 2020, arXiv:2007.07779, section 4 (1e-4)"
    start = (
        "the identity: W_up and both biases zero, W_down Kaiming-uniform with a = √5, as in He et al. 2022, "
        "petl_factory.py ('lora'); Houlsby et al. 2019 begin near it, with all weights normal of deviation 1e-3"
    )

    bottleneck: int = Field(64, ge=1, validation_alias=AliasChoices("bottleneck", "size"))
    """Width m of the inner layer. Default: Houlsby et al. 2019, the authors' modeling.py."""
    placement: Literal["houlsby", "pfeiffer"] = "pfeiffer"
    """houlsby: behind attention and feed-forward; pfeiffer: behind feed-forward only.
    Default: Pfeiffer et al. 2021; AdapterHub's too."""
    activation: Literal["relu", "gelu", "silu"] = "relu"
    """The non-linearity f. Default: AdapterHub's SeqBnConfig."""
    layers: tuple[int, ...] | None = None
    """Only these layers, counted from 0, or from the end when negative."""

    def deltas(self, anatomy: Anatomy) -> Mapping[str, Delta]:
        sites = anatomy.find(PLACEMENTS[self.placement], self.layers, mixtures=True)
        return {site.name: Bottleneck(site.d_out, self.bottleneck, self.activation) for site in sites}
