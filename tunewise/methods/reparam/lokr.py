"""LoKr: ΔW = (alpha / rank) W₁ ⊗ W₂ with W₂ = W₂ₐ W₂ᵦ where that is smaller.

Hyeon-Woo et al. 2022, arXiv:2108.06098 (low-rank Hadamard and Kronecker products); LoKr in Yeh et al. 2024,
arXiv:2309.14859, section 3.2. d_out = a·c and d_in = b·d are split as evenly as their divisors allow.
"""

import math
from collections.abc import Mapping

import torch
from pydantic import AliasChoices, Field
from torch import Tensor, nn

from tunewise.methods.base import Delta, Method, PeftNames, WeightChange
from tunewise.models.anatomy import Anatomy, Site


def factors(dimension: int, limit: int) -> tuple[int, int]:
    """`limit` and the rest where it divides, else the most even factors with the first at most `limit` (−1: any)."""
    if limit > 0 and dimension % limit == 0:
        return limit, dimension // limit
    bound = math.isqrt(dimension) if limit < 0 else min(limit, math.isqrt(dimension))
    small = max(divisor for divisor in range(1, bound + 1) if dimension % divisor == 0)
    return small, dimension // small


class Kronecker(WeightChange):
    """W₁ (a, b), zero at birth, and W₂ (c, d) or its factors (c, rank), (rank, d)."""

    def __init__(self, site: Site, rank: int, scaling: float, factor: int) -> None:
        super().__init__()
        self.scaling, self.d_out, self.d_in = scaling, site.d_out, site.d_in
        (a, c), (b, d) = factors(site.d_out, factor), factors(site.d_in, factor)
        self.lokr_w1 = nn.Parameter(torch.zeros(a, b))
        if rank < max(c, d) / 2:
            self.lokr_w2_a, self.lokr_w2_b = nn.Parameter(torch.empty(c, rank)), nn.Parameter(torch.empty(rank, d))
            drawn = [self.lokr_w2_a, self.lokr_w2_b]
        else:
            self.lokr_w2 = nn.Parameter(torch.empty(c, d))
            drawn = [self.lokr_w2]
        for parameter in drawn:
            nn.init.kaiming_uniform_(parameter, a=math.sqrt(5))

    def weight_change(self) -> Tensor:
        tensors = dict(self.named_parameters())
        w2 = tensors["lokr_w2"] if "lokr_w2" in tensors else self.lokr_w2_a @ self.lokr_w2_b
        return self.scaling * torch.kron(self.lokr_w1, w2)


class LoKr(Method):
    """A Kronecker product as the change of the weights: high rank from few numbers."""

    name = "lokr"
    family = "reparametrising"
    trains = "Kronecker factors"
    paper = "arXiv:2309.14859"
    equation = "y = W x + (alpha / rank) (W₁ ⊗ W₂) x"
    searched = {"rank": (32, 2)}
    learning_rate = 3e-3
    learning_rate_source = (
        "Hugging Face PEFT, method_comparison/MetaMathQA: Llama-3.2-3B with rank 32 and factor 4 (3e-3)"
    )
    start = "W₁ zero, W₂ or its factors Kaiming-uniform with a = √5: peft's"
    peft = PeftNames(
        "LOKR",
        fields={"rank": "r", "alpha": "alpha", "factor": "decompose_factor"},
        tensors={name: name for name in ("lokr_w1", "lokr_w2", "lokr_w2_a", "lokr_w2_b")},
        constants={"decompose_both": False},
        training_only=frozenset({"init_weights", "rank_dropout", "module_dropout", "rank_dropout_scale"}),
        conv1d=False,
    )

    rank: int = Field(8, ge=1, validation_alias=AliasChoices("rank", "r"))
    """Rank of W₂ where it is factored. Default: peft's."""
    alpha: float = Field(8.0, gt=0)
    """The update is scaled by alpha / rank. Default: peft's."""
    factor: int = Field(-1, validation_alias=AliasChoices("factor", "decompose_factor"))
    """The largest size of W₁, or −1 for the most even split. Default: peft's."""
    roles: tuple[str, ...] = Field(("q", "v"), min_length=1)
    """Roles of the sites: q k v o gate up down, a fused qkv or gate_up, or the groups attention, mlp, all.
    Default: peft's for llama."""
    layers: tuple[int, ...] | None = None
    """Only these layers, counted from 0, or from the end when negative."""

    def deltas(self, anatomy: Anatomy) -> Mapping[str, Delta]:
        scaling = self.alpha / self.rank
        return {
            site.name: Kronecker(site, self.rank, scaling, self.factor)
            for site in anatomy.find(self.roles, self.layers)
        }
