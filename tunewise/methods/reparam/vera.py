"""VeRA: y = W x + Λ_b B Λ_d A x with random A, B that are frozen and shared by all sites; the vectors b, d are trained.

Kopiczko et al. 2024, arXiv:2310.11454, eq. 2. A (rank, max d_in) and B (max d_out, rank) are cut to each site's size.
"""

import math
from collections.abc import Mapping

import torch
from pydantic import AliasChoices, Field
from torch import Tensor, nn
from torch.nn import functional

from tunewise.methods.base import Delta, Method, PeftNames
from tunewise.models.anatomy import Anatomy, Site


class Projections(nn.Module):
    """The two frozen random matrices, Kaiming-uniform (gain √2), from a generator of their own."""

    def __init__(self, rank: int, d_in: int, d_out: int, seed: int) -> None:
        super().__init__()
        generator = None if torch.get_default_device().type == "meta" else torch.Generator().manual_seed(seed)

        def drawn(rows: int, columns: int) -> Tensor:
            bound = math.sqrt(6 / columns)
            return torch.empty(rows, columns).uniform_(-bound, bound, generator=generator)

        self.register_buffer("vera_A", drawn(rank, d_in))
        self.register_buffer("vera_B", drawn(d_out, rank))


class VectorScaled(Delta):
    """b (d_out,), zero at birth, and d (rank,)."""

    def __init__(self, site: Site, shared: Projections, d_initial: float, dropout: float) -> None:
        super().__init__()
        self.shared, self.d_in, self.d_out = shared, site.d_in, site.d_out
        self.dropout = nn.Dropout(dropout)
        self.lambda_b = nn.Parameter(torch.zeros(site.d_out))
        self.lambda_d = nn.Parameter(torch.full((shared.vera_A.shape[0],), d_initial))

    def _cut(self) -> tuple[Tensor, Tensor]:
        return self.shared.vera_A[:, : self.d_in], self.shared.vera_B[: self.d_out]

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        a, b = (matrix.to(x.dtype) for matrix in self._cut())
        inner = self.lambda_d.to(x.dtype) * functional.linear(self.dropout(x), a)
        return y + self.lambda_b.to(x.dtype) * functional.linear(inner, b)

    def fold(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        a, b = self._cut()
        change = self.lambda_b.detach().unsqueeze(1) * (b @ (self.lambda_d.detach().unsqueeze(1) * a))
        return weight + change.to(weight), bias


class VeRA(Method):
    """Two vectors a site between two random matrices that all sites share; the matrices are saved with them."""

    name = "vera"
    family = "reparametrising"
    trains = "scaling vectors between shared random matrices"
    paper = "arXiv:2310.11454"
    equation = "y = W x + Λ_b B Λ_d A x"
    searched = {"rank": (64, 1024)}
    learning_rate = 4e-3
    learning_rate_source = "Kopiczko et al. 2024, arXiv:2310.11454, table 9 (instruction tuning, 4e-3)"
    start = "b zero, d at d_initial, the frozen A and B Kaiming-uniform: Kopiczko et al. 2024, section 4.1, and peft's"
    peft = PeftNames(
        "VERA",
        fields={"rank": "r", "projection_seed": "projection_prng_key", "dropout": "vera_dropout"},
        tensors={
            "lambda_b": "vera_lambda_b",
            "lambda_d": "vera_lambda_d",
            "shared.vera_A": "base_model.vera_A",
            "shared.vera_B": "base_model.vera_B",
        },
        constants={"bias": "none", "save_projection": True},
        training_only=frozenset({"d_initial", "init_weights"}),
    )

    rank: int = Field(256, ge=1, validation_alias=AliasChoices("rank", "r"))
    """Rows of A and columns of B; it costs vectors only, so it is large.
    Default: Kopiczko et al. 2024, section 4.1 (RoBERTa-large); peft's."""
    d_initial: float = 0.1
    """Start of every entry of d. Default: Kopiczko et al. 2024, section 4.1 and table 6c; peft's."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the input of A while training. Default: peft's."""
    projection_seed: int = Field(0, ge=0, validation_alias=AliasChoices("projection_seed", "projection_prng_key"))
    """Seed of A and B, apart from the run's own."""
    roles: tuple[str, ...] = Field(("q", "v"), min_length=1)
    """Roles of the sites: q k v o gate up down, a fused qkv or gate_up, or the groups attention, mlp, all.
    Default: Kopiczko et al. 2024, section 4.1; peft's for llama."""
    layers: tuple[int, ...] | None = None
    """Only these layers, counted from 0, or from the end when negative."""

    def deltas(self, anatomy: Anatomy) -> Mapping[str, Delta]:
        sites = anatomy.find(self.roles, self.layers)
        widest = max(site.d_in for site in sites), max(site.d_out for site in sites)
        shared = Projections(self.rank, *widest, self.projection_seed)
        return {site.name: VectorScaled(site, shared, self.d_initial, self.dropout) for site in sites}
