"""The change of the weights that `intrinsic` trains: few numbers for all sites, and each site's share of P.

P is dense, or Fastfood (Le et al. 2013, arXiv:1408.3060): P = H G Π H B, which costs n log n and no storage. Both are
drawn from a seed and never saved.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from tunewise.methods.base import WeightChange
from tunewise.methods.reparam.hadamard import power_of_two, walsh_hadamard
from tunewise.models.anatomy import Site


class Coordinates(nn.Module):
    """θ_d (d,), zero at birth, and λ (n_layers,), one at birth, where the projection is structure-aware."""

    def __init__(self, dimension: int, n_layers: int) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(dimension))
        self.scale = nn.Parameter(torch.ones(n_layers)) if n_layers else None

    def values(self) -> Tensor:
        """All of them in one vector."""
        return self.theta if self.scale is None else torch.cat([self.theta, self.scale])


class Projected(WeightChange):
    """ΔW = λ reshape(P θ_d) at one site, whose share of P comes from a seed of its own; its columns have length one."""

    def __init__(self, site: Site, shared: Coordinates, projection: str, seed: int) -> None:
        super().__init__()
        self.shared, self.layer, self.shape = shared, site.layer, (site.d_out, site.d_in)
        self._kept: tuple[Tensor, Tensor] | None = None  # the coordinates, and the change that they make
        size, dimension = site.d_out * site.d_in, shared.theta.numel()
        on_meta = torch.get_default_device().type == "meta"
        generator = None if on_meta else torch.Generator().manual_seed(seed)
        self.dense = projection == "dense"
        if self.dense:
            matrix = torch.empty(size, dimension).normal_(std=1 / math.sqrt(size), generator=generator)
            self.register_buffer("matrix", matrix, persistent=False)
            return
        short, padded = power_of_two(dimension), power_of_two(max(size, dimension))
        signs = torch.empty(padded).uniform_(-1, 1, generator=generator).sign()
        gains = torch.empty(padded).normal_(generator=generator)
        order = torch.empty(padded).uniform_(generator=generator).argsort()
        gains = gains / (gains.norm() * math.sqrt(size))
        # behind θ_d there are zeros only, so H B θ_d repeats every `short` numbers: one period is all that is needed
        for name, buffer in (("signs", signs[:dimension].clone()), ("gains", gains), ("order", order % short)):
            self.register_buffer(name, buffer, persistent=False)

    def weight_change(self) -> Tensor:
        """ΔW (d_out, d_in). Where no gradient is asked for it is kept until the coordinates change."""
        if torch.is_grad_enabled():
            self._kept = None
            return self._projected()
        coordinates = self.shared.values()
        if self._kept is None or not torch.equal(self._kept[0], coordinates):
            self._kept = coordinates.clone(), self._projected()
        return self._kept[1]

    def _projected(self) -> Tensor:
        theta = self.shared.theta
        if self.dense:
            flat = self.matrix @ theta
        else:
            short = power_of_two(len(theta))
            mixed = walsh_hadamard(functional.pad(self.signs * theta, (0, short - len(theta))))
            flat = walsh_hadamard(self.gains * mixed[self.order])[: math.prod(self.shape)]
        if self.shared.scale is not None and self.layer is not None:
            flat = self.shared.scale[self.layer] * flat
        return flat.view(self.shape)
