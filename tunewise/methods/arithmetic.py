"""Arithmetic of what methods change: the dense change of every site, weighted sums, and low-rank factors of a change.

Task vectors: Ilharco et al. 2023, arXiv:2212.04089. TIES: Yadav et al. 2023, arXiv:2306.01708. DARE: Yu et al. 2024,
arXiv:2311.03099. A change is a mapping from site names to ΔW (d_out, d_in).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from tunewise.errors import UserError
from tunewise.methods.attach import Tuned
from tunewise.methods.reparam.lora import LoRA
from tunewise.models.anatomy import Anatomy
from tunewise.models.weights import frozen_weight

Change = Mapping[str, Tensor]
NEGLIGIBLE = 1e-5  # of the largest singular value: what rounding leaves of a rank that is not there


@torch.no_grad()
def change_of(tuned: Tuned) -> dict[str, Tensor]:
    """ΔW of every linear site that the method changes, at λ = 1, in float32 or wider.

    Raises CannotFold where a delta is no change of weights, and UserError where a tensor that is no linear site's
    weight (a norm, a bias, the embedding) was trained as well.
    """
    found: dict[str, Tensor] = {}
    for name, delta in tuned.deltas.items():
        weight, bias = frozen_weight(tuned.model, tuned.site(name))
        wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
        moved, moved_bias = delta.fold(wide, bias)
        if bias is not None and moved_bias is not None and not torch.equal(moved_bias, bias):
            raise UserError(f"the method changes the bias of {name}, which no sum of weights holds")
        found[name] = moved - wide
    by_parameter = {f"{site.module}.weight": site for site in tuned.anatomy.linear if not site.is_slice}
    values = tuned.state()
    for name in tuned.selected:
        change = values[f"base.{name}"].float() - tuned.original(name).float()
        if name in by_parameter:
            module = tuned.model.get_submodule(by_parameter[name].module)
            found[by_parameter[name].name] = change.T if isinstance(module, Conv1D) else change
        elif change.any():
            raise UserError(
                f"the method changes {name}, which is no weight of a linear site",
                hint="train the linear sites alone, as lora does, where adapters are to be added up",
            )
    return found


def combine(
    changes: Sequence[Change],
    weights: Sequence[float] | None = None,
    how: Literal["linear", "ties", "dare", "dare_ties"] = "linear",
    *,
    density: float = 0.5,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Σ wᵢ ΔWᵢ at every site, `weights` one over their number where not given.

    ties keeps the `density` largest entries of each ΔWᵢ, then at each entry those of the majority's sign, and divides
    by how many are left; dare keeps entries at random with probability `density` and divides by it. Raises UserError
    for weights that are not one a change, and a density outside (0, 1].
    """
    chosen = [1 / len(changes)] * len(changes) if weights is None else list(weights)
    if len(chosen) != len(changes):
        raise UserError(f"{len(chosen)} weights for {len(changes)} adapters", hint="give one weight an adapter")
    if not 0 < density <= 1:
        raise UserError(f"density={density} is no share of the entries", hint="use a number above 0, up to 1")
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for site in dict.fromkeys(site for change in changes for site in change):
        there = [(change[site], weight) for change, weight in zip(changes, chosen, strict=True) if site in change]
        parts, factors = zip(*there, strict=True)
        found[site] = _combined(parts, factors, how, density, generator)
    return found


def _combined(
    changes: Sequence[Tensor], weights: Sequence[float], how: str, density: float, generator: torch.Generator
) -> Tensor:
    if how.startswith("dare"):
        drawn = [torch.rand(change.shape, generator=generator) for change in changes]
        kept = [change * (draw < density) / density for change, draw in zip(changes, drawn, strict=True)]
    else:
        kept = [_largest(change, density) if how == "ties" else change for change in changes]
    stacked = torch.stack(kept)
    weighted = stacked * stacked.new_tensor(weights).view(-1, *[1] * (stacked.dim() - 1))
    if not how.endswith("ties"):
        return weighted.sum(0)
    elected = torch.where(stacked.sum(0) >= 0, 1.0, -1.0)
    agrees = stacked.sign() == elected
    return (weighted * agrees).sum(0) / agrees.sum(0).clamp(min=1)


def _largest(change: Tensor, density: float) -> Tensor:
    """The `density` largest entries by magnitude; zero elsewhere."""
    flat = change.flatten()
    found = torch.zeros_like(flat)
    kept = flat.abs().topk(int(density * flat.numel())).indices
    found[kept] = flat[kept]
    return found.view_as(change)


@dataclass(frozen=True)
class Extracted:
    """A LoRA that stands for a change, and what it misses."""

    method: LoRA
    state: dict[str, Tensor]
    """For `Tuned.load_state`."""
    errors: dict[str, float]
    """‖ΔW − B A‖ / ‖ΔW‖, Frobenius norms, at every site."""


def extract_lora(change: Change, rank: int | None, anatomy: Anatomy) -> Extracted:
    """The LoRA of `rank` nearest to a change, by truncated SVD at every site; Eckart & Young 1936.

    Without a rank, the lowest that holds the change of every site but for rounding.

    Raises UserError where the changed sites are no whole roles of this base.
    """
    if of_experts := [site.name for site in anatomy.sites if site.n_experts and site.name in change]:
        raise UserError(
            f"{of_experts[0]} is of many experts, and a sum of such changes is written as no LoRA here",
            hint="combine adapters of linear sites; one of experts is merged by: tunewise adapter merge FOLDER",
        )
    changed = [site for site in anatomy.linear if site.name in change]
    roles = tuple(dict.fromkeys(site.role for site in changed))
    layers = sorted({site.layer for site in changed if site.layer is not None})
    chosen = None if len(layers) in (0, anatomy.n_layers) else tuple(layers)
    sites = anatomy.find(roles, chosen)
    if {site.name for site in sites} != set(change):
        raise UserError(
            "this change touches different roles in different layers, which one LoRA does not express",
            hint="leave out sites until the same roles remain in every layer",
        )
    factors = {site.name: torch.linalg.svd(change[site.name], full_matrices=False) for site in sites}
    if rank is None:
        rank = max([1, *(int((s > NEGLIGIBLE * s[0]).sum()) for _, s, _ in factors.values())])
    ranks = {site.name: min(rank, site.d_in, site.d_out) for site in sites}
    method = LoRA(rank=rank if set(ranks.values()) == {rank} else ranks, alpha=1.0, roles=roles, layers=chosen)
    state, errors = {}, {}
    for site in sites:
        u, s, v = factors[site.name]
        r, root = ranks[site.name], (s[: ranks[site.name]] / method.scaling_at(site)).sqrt()
        state[f"delta.{site.name}.lora_A"] = root.unsqueeze(1) * v[:r]
        state[f"delta.{site.name}.lora_B"] = u[:, :r] * root
        errors[site.name] = float(s[r:].norm() / s.norm().clamp(min=1e-30))
    return Extracted(method, state, errors)
