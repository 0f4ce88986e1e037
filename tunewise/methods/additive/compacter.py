"""Compacter: bottleneck adapters whose matrices are sums of Kronecker products, W = Σᵢ Aᵢ ⊗ (sᵢ tᵢ).

Karimi Mahabadi et al. 2021, arXiv:2106.04647, eqs. 5 and 6. The small Aᵢ (n, n) are shared by all adapters, sᵢ and tᵢ
are of rank one. Compacter stands behind attention and feed-forward, Compacter++ behind feed-forward alone.
"""

import math
from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from tunewise.errors import UserError
from tunewise.methods.additive.bottleneck import PLACEMENTS
from tunewise.methods.base import Delta, Method
from tunewise.models.anatomy import Anatomy


class Rule(nn.Module):
    """A (n, n, n), shared by every adapter."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.rule = nn.Parameter(torch.randn(n, n, n) * 0.01)


class Hypercomplex(Delta):
    """s and t of the two layers, and their biases; the second t is zero at birth, so a new adapter is the identity."""

    def __init__(self, d: int, bottleneck: int, shared: Rule) -> None:
        super().__init__()
        self.shared = shared
        n = len(shared.rule)
        self.down_s = nn.Parameter(_glorot(n, d // n, 1))
        self.down_t = nn.Parameter(_glorot(n, 1, bottleneck // n))
        self.down_bias = nn.Parameter(torch.zeros(bottleneck))
        self.up_s = nn.Parameter(_glorot(n, bottleneck // n, 1))
        self.up_t = nn.Parameter(torch.zeros(n, 1, d // n))
        self.up_bias = nn.Parameter(torch.zeros(d))

    def weight(self, s: Tensor, t: Tensor) -> Tensor:
        """Σᵢ Aᵢ ⊗ (sᵢ tᵢ), (rows of s · n, columns of t · n)."""
        return torch.einsum("iab,icr,ird->acbd", self.shared.rule, s, t).flatten(2).flatten(0, 1)

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        down, up = self.weight(self.down_s, self.down_t), self.weight(self.up_s, self.up_t)
        inner = functional.gelu(y @ down.to(y.dtype) + self.down_bias.to(y.dtype))
        return y + inner @ up.to(y.dtype) + self.up_bias.to(y.dtype)


def _glorot(n: int, rows: int, columns: int) -> Tensor:
    return torch.randn(n, rows, columns) * math.sqrt(2 / (rows + columns))


class Compacter(Method):
    """Adapters of a few hundred numbers each: Kronecker products of shared small matrices with rank-one ones."""

    name = "compacter"
    family = "additive"
    trains = "adapters from shared Kronecker factors"
    paper = "arXiv:2106.04647"
    equation = "y + W_up f(W_down y + b_down) + b_up, W = Σᵢ Aᵢ ⊗ (sᵢ tᵢ)"
    searched = {"bottleneck": (64, 8)}
    learning_rate = 3e-3
    learning_rate_source = "Karimi Mahabadi et al. 2021, arXiv:2106.04647, appendix A (3e-3)"
    start = (
        "the identity, which Karimi Mahabadi et al. 2021 begin near: the last t and the biases zero; A normal with "
        "deviation 0.01, their code's default (1e-4 in their runs), s and t Glorot-normal (theirs are Glorot-uniform)"
    )

    bottleneck: int = Field(24, ge=1)
    """Width of the inner layer; a multiple of n.
    Default: Karimi Mahabadi et al. 2021, compacter++.json (768 / 32 on T5-base)."""
    n: int = Field(4, ge=1)
    """How many products are summed; it must divide the width of the base.
    Default: Karimi Mahabadi et al. 2021, compacter++.json."""
    placement: Literal["houlsby", "pfeiffer"] = "pfeiffer"
    """houlsby: behind attention and feed-forward (Compacter); pfeiffer: behind feed-forward only (Compacter++).
    Default: no published preference of the two; as `bottleneck`'s."""
    layers: tuple[int, ...] | None = None
    """Only these layers, counted from 0, or from the end when negative."""

    def deltas(self, anatomy: Anatomy) -> Mapping[str, Delta]:
        sites = anatomy.find(PLACEMENTS[self.placement], self.layers, mixtures=True)
        for what, width in (("method.bottleneck", self.bottleneck), ("the width of the base", sites[0].d_out)):
            if width % self.n:
                raise UserError(f"method.n={self.n} does not divide {what}, {width}", hint="use a divisor, such as 2")
        shared = Rule(self.n)
        return {site.name: Hypercomplex(site.d_out, self.bottleneck, shared) for site in sites}
