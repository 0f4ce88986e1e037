"""DoRA: magnitude and direction apart.  y = m ∘ (W + ΔW) x / ‖W + ΔW‖ + b,  ΔW = (alpha / rank) B A, norms by row of
W (d_out, d_in).  Liu et al. 2024, arXiv:2402.09353, eq. 5; the norm is a constant to the gradient (section 4.3).
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tunewise.methods.base import Delta, FrozenWeight, Method
from tunewise.methods.reparam import lora_in_peft
from tunewise.methods.reparam.lora import LoRA
from tunewise.methods.reparam.low_rank import LowRank
from tunewise.models.anatomy import Anatomy, Site


class DirectedLowRank(LowRank):
    """A (rank, d_in), B (d_out, rank) and the magnitude m (d_out,), the norm of the frozen rows at birth."""

    def __init__(self, site: Site, rank: int, scaling: float, dropout: float, init: str) -> None:
        super().__init__(site, rank, scaling, dropout, init)
        self.magnitude = nn.Parameter(torch.ones(site.d_out))
        self._frozen: FrozenWeight | None = None

    def bind(self, weight: FrozenWeight) -> None:
        super().bind(weight)
        self._frozen = weight
        self.magnitude.data.copy_(weight()[0].to(self.magnitude.dtype).norm(dim=1))

    def start_at(self, a: Tensor, b: Tensor) -> None:
        super().start_at(a, b)
        self.magnitude.copy_(self._norm_and_bias()[0])

    @torch.no_grad()
    def _norm_and_bias(self) -> tuple[Tensor, Tensor | None]:
        """‖W + ΔW‖ by row (d_out,), and the frozen bias."""
        assert self._frozen is not None, "a DoRA delta is bound when it is attached"
        weight, bias = self._frozen()
        return (weight.to(self.lora_A.dtype) + self.product()).norm(dim=1), bias

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        norm, bias = self._norm_and_bias()
        ratio = (self.magnitude / norm).to(y.dtype)
        product = y if bias is None else y - bias
        return y + (ratio - 1) * product + ratio * self.change(x)

    def fold(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        moved = weight + self.product().detach().to(weight)
        return (self.magnitude.detach().to(weight) / moved.norm(dim=1)).unsqueeze(1) * moved, bias


class DoRA(LoRA):
    """LoRA whose rows keep a learned length of their own; its defaults are lora's, as in section 5.1 of the paper."""

    name = "dora"
    trains = "low-rank factors A, B and the length of each row"
    paper = "arXiv:2402.09353"
    equation = "y = m ∘ (W + s B A) x / ‖W + s B A‖"
    learning_rate = 2e-4
    learning_rate_source = "Liu et al. 2024, arXiv:2402.09353, the authors' llama2_7B_DoRA.sh (2e-4)"
    start = "A and B as lora's, the magnitudes the norms of the base's rows: Liu et al. 2024, section 4.1, and peft's"
    peft = lora_in_peft.names(use_dora=True)
    on_experts = False

    def deltas(self, anatomy: Anatomy) -> Mapping[str, Delta]:
        return {site.name: DirectedLowRank(*self._arguments(site)) for site in self._sites(anatomy)}

    def at_scale(self, scale: float) -> Method | None:
        return None  # the length of a row does not follow the factors
