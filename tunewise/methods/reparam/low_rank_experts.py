"""LoRA on fused experts: W_e + (alpha / rank) B_e A_e for each expert e, whose weights lie in one tensor of three axes.

The module of experts alone knows which token goes where, so while it runs the changed weights stand in the place of
its own, as with peft's `target_parameters`; they are made anew in every forward and in its backward.
"""

import math

import torch
from torch import Tensor, nn

from tunewise.errors import UserError
from tunewise.methods.base import Delta, WeightChange
from tunewise.methods.reparam.low_rank import LowRank
from tunewise.models.anatomy import Site


def low_rank_at(site: Site, rank: int, scaling: float, dropout: float, init: str) -> Delta:
    """The delta of LoRA at a linear site, or at one of experts."""
    if not site.n_experts:
        return LowRank(site, rank, scaling, dropout, init)
    if dropout or init not in ("kaiming", "gaussian"):
        told = f"method.dropout={dropout}" if dropout else f"method.init={init}"
        raise UserError(
            f"{told} is not to be had on {site.role}: what enters an expert is not seen, and it has no one matrix",
            hint="method.dropout=0 method.init=kaiming, as in peft",
        )
    return LowRankExperts(site, rank, scaling, init)


class LowRankExperts(WeightChange):
    """A (experts · rank, d_in) and B (d_out, rank · experts), in peft's order; B is zero at birth."""

    def __init__(self, site: Site, rank: int, scaling: float, init: str) -> None:
        super().__init__()
        self.n_experts, self.scaling = site.n_experts, scaling
        self.lora_A = nn.Parameter(torch.empty(site.n_experts * rank, site.d_in))
        self.lora_B = nn.Parameter(torch.zeros(site.d_out, rank * site.n_experts))
        if init == "gaussian":
            nn.init.normal_(self.lora_A, std=1 / rank)
        else:
            nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

    def factors(self) -> tuple[Tensor, Tensor]:
        """A (experts, rank, d_in) and B (experts, d_out, rank)."""
        a = self.lora_A.unflatten(0, (self.n_experts, -1))
        return a, self.lora_B.unflatten(1, (-1, self.n_experts)).permute(2, 0, 1)

    def weight_change(self) -> Tensor:
        a, b = self.factors()
        return self.scaling * b @ a

    def moved(self, weight: Tensor) -> Tensor:
        a, b = self.factors()
        return torch.baddbmm(weight, b.to(weight.dtype), a.to(weight.dtype), alpha=self.scaling)
