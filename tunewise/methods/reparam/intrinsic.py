"""Intrinsic dimension: θ = θ₀ + P θ_d, a random projection P of d trained numbers onto all the chosen weights.

Aghajanyan et al. 2021, arXiv:2012.13255, eq. 1, after Li et al. 2018, arXiv:1804.08838. Structure-aware (SAID, eq. 4):
θ_i = θ₀_i + λ_i P(θ_{d−m})_i with one trained λ a layer. P is dense or Fastfood (`projected.py`).
"""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from tunewise.errors import UserError
from tunewise.methods.base import Delta, Method
from tunewise.methods.reparam.projected import Coordinates, Projected
from tunewise.models.anatomy import Anatomy


class Intrinsic(Method):
    """`dimension` numbers in all, projected at random onto every chosen weight."""

    name = "intrinsic"
    family = "reparametrising"
    trains = "d numbers, projected onto all weights"
    paper = "arXiv:2012.13255"
    equation = "θ = θ₀ + P θ_d"
    searched = {"dimension": (10_000, 100)}
    learning_rate = 3e-2
    learning_rate_source = "Karimi Mahabadi et al. 2021, arXiv:2106.04647, their code's Intrinsic-SAID on T5 (3e-2)"
    start = "θ_d zero, every λ one: Aghajanyan et al. 2021, the authors' code as r-three/t-few has it (intrinsic.py)"

    dimension: int = Field(1_000, ge=1)
    """d, the λ of the structure-aware form counted in. Default: no published value; between the 200 of the
    abstract (MRPC) and the 20,000 of Karimi Mahabadi et al. 2021 (intrinsic_said.json)."""
    projection: Literal["fastfood", "dense"] = "fastfood"
    """How P is made; dense keeps d numbers a weight in memory.
    Default: Karimi Mahabadi et al. 2021, intrinsic_said.json."""
    structure_aware: bool = True
    """SAID: m of the d numbers scale the m layers. Default: Karimi Mahabadi et al. 2021, intrinsic_said.json."""
    projection_seed: int = Field(0, ge=0)
    """Seed of P, apart from the run's own."""
    roles: tuple[str, ...] = Field(("all",), min_length=1)
    """Roles of the sites: q k v o gate up down, a fused qkv or gate_up, or the groups attention, mlp, all.
    Default: Aghajanyan et al. 2021, the whole model; here its linear layers."""
    layers: tuple[int, ...] | None = None
    """Only these layers, counted from 0, or from the end when negative."""

    def deltas(self, anatomy: Anatomy) -> Mapping[str, Delta]:
        n_scales = anatomy.n_layers if self.structure_aware else 0
        if self.dimension <= n_scales:
            raise UserError(
                f"method.dimension={self.dimension} leaves nothing beside the {n_scales} scales of the layers",
                hint=f"use more than {n_scales}, or method.structure_aware=false",
            )
        shared = Coordinates(self.dimension - n_scales, n_scales)
        sites = anatomy.find(self.roles, self.layers)
        return {
            site.name: Projected(site, shared, self.projection, self.projection_seed * 1_000_003 + index)
            for index, site in enumerate(sites)
        }
