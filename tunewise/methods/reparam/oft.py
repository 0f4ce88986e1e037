"""OFT: y = W R x with R orthogonal and block-diagonal.  Qiu et al. 2023, arXiv:2306.07280, section 3.2.

R = (I − Q)(I + Q)⁻¹ (Cayley) from skew-symmetric Q; with `neumann_terms` = n the series I + 2Q + 2Q² + … + Qⁿ⁻¹ of
OFTv2 (Qiu et al. 2025, arXiv:2506.19847, section 3.3), which needs no inverse and is peft's default.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from pydantic import AliasChoices, Field
from torch import Tensor, nn

from tunewise.errors import UserError
from tunewise.methods.base import Delta, Method, PeftNames
from tunewise.models.anatomy import Anatomy


class Rotation(Delta):
    """The entries above the diagonal of Q, (blocks, size (size − 1) / 2), zero at birth."""

    def __init__(self, d_in: int, size: int, neumann_terms: int) -> None:
        super().__init__()
        self.size, self.neumann_terms = size, neumann_terms
        self.oft_R = nn.Parameter(torch.zeros(d_in // size, size * (size - 1) // 2))

    def _blocks(self) -> Tensor:
        """R as (blocks, size, size); it acts on a row vector from the right."""
        rows, columns = torch.triu_indices(self.size, self.size, 1, device=self.oft_R.device)
        upper = self.oft_R.new_zeros(len(self.oft_R), self.size, self.size)
        upper[:, rows, columns] = self.oft_R
        q = upper - upper.mT
        identity = torch.eye(self.size, dtype=q.dtype, device=q.device)
        if not self.neumann_terms:
            return torch.linalg.solve(identity + q, identity - q, left=False)
        total, power = identity.expand_as(q), q
        for term in range(1, self.neumann_terms):
            total = total + (1 if term == self.neumann_terms - 1 > 1 else 2) * power
            power = power @ q
        return total

    def before(self, x: Tensor) -> Tensor:
        blocks = self._blocks().to(x.dtype)
        return torch.einsum("...rk,rkc->...rc", x.unflatten(-1, (-1, self.size)), blocks).flatten(-2)

    def fold(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        blocks = self._blocks().detach().to(weight)
        return torch.einsum("drc,rkc->drk", weight.unflatten(-1, (-1, self.size)), blocks).flatten(-2), bias


class OFT(Method):
    """The inputs of the chosen sites are rotated in blocks: lengths and angles between neurons stay as they were."""

    name = "oft"
    family = "reparametrising"
    trains = "rotations of the input"
    paper = "arXiv:2306.07280"
    equation = "y = W R x, R orthogonal"
    learning_rate = 4e-4
    learning_rate_source = (
        "Qiu et al. 2025, arXiv:2506.19847, tables 6 and 7 (BART-large; Llama-2 has 2e-4 and 8e-4, tables 8 and 9)"
    )
    start = "Q zero, so R is the identity: Qiu et al. 2025, section 3.3, and peft's"
    peft = PeftNames(
        "OFT",
        fields={"block_size": "oft_block_size"},
        tensors={"oft_R": "oft_R.weight"},
        constants={"bias": "none", "coft": False, "block_share": False},
        training_only=frozenset(
            {"r", "eps", "module_dropout", "init_weights", "use_cayley_neumann", "num_cayley_neumann_terms"}
        ),
        conv1d=False,
    )

    block_size: int = Field(32, ge=2, validation_alias=AliasChoices("block_size", "oft_block_size"))
    """Size of the rotated blocks; it must divide d_in. Default: Qiu et al. 2025, appendix A; peft's."""
    neumann_terms: int = Field(5, ge=0)
    """Terms of the Neumann series for the inverse, or 0 for the exact Cayley transform.
    Default: Qiu et al. 2025, appendix B; peft's."""
    roles: tuple[str, ...] = Field(("q", "v"), min_length=1)
    """Roles of the sites: q k v o gate up down, a fused qkv or gate_up, or the groups attention, mlp, all.
    Default: peft's for llama."""
    layers: tuple[int, ...] | None = None
    """Only these layers, counted from 0, or from the end when negative."""

    def deltas(self, anatomy: Anatomy) -> Mapping[str, Delta]:
        sites = anatomy.find(self.roles, self.layers)
        odd = [site for site in sites if site.d_in % self.block_size]
        if odd:
            raise UserError(
                f"method.block_size={self.block_size} does not divide the input width {odd[0].d_in} of {odd[0].name}",
                hint=f"use a divisor such as {math.gcd(*(site.d_in for site in sites))}",
            )
        return {site.name: Rotation(site.d_in, self.block_size, self.neumann_terms) for site in sites}

    def peft_fields(self, anatomy: Anatomy, targets: Sequence[str]) -> dict[str, object]:
        terms = {"num_cayley_neumann_terms": self.neumann_terms} if self.neumann_terms else {}
        return {"r": 0, "use_cayley_neumann": self.neumann_terms > 0, **terms}

    @classmethod
    def from_peft_fields(
        cls, config: Mapping[str, object], tensors: Mapping[str, Tensor], anatomy: Anatomy
    ) -> dict[str, object]:
        n_entries = next(iter(tensors.values())).shape[1]
        terms = config.get("num_cayley_neumann_terms", 5) if config.get("use_cayley_neumann") else 0
        return {"block_size": (1 + math.isqrt(1 + 8 * n_entries)) // 2, "neumann_terms": terms}
