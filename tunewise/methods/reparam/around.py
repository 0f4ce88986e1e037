"""A base quantised around an adapter: Q = quantised(W − s B A), so that Q + s B A lies nearer to W than Q alone can.

LoftQ (Li et al. 2023, arXiv:2310.08659, algorithm 1) begins with B A = 0 and alternates: Q = quantised(W − s B A), then
s B A = the best of its rank at W − Q. QPiSSA (Meng et al. 2024, arXiv:2404.02948, section 4) begins with the principal
part of W and ends with Q, so that what A and B hold is a part of W itself. Either makes another base (`stored.py`).
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tunewise.errors import UserError
from tunewise.methods.base import Delta
from tunewise.methods.reparam.low_rank import LowRank, principal
from tunewise.models.anatomy import Anatomy, Site
from tunewise.models.load import original
from tunewise.models.quantise import is_quantised, pack
from tunewise.models.weights import module_weight

LOFTQ, PISSA = WAYS = ("loftq", "pissa")
Parts = Mapping[Site, tuple[LowRank, Tensor, Tensor]]
"""A site, its delta, and the A and B that it is to begin with."""


@dataclass(frozen=True)
class Lost:
    """How far what stands in the place of a weight W lies from it, over ‖W‖."""

    norm: float
    """‖W‖."""
    plain: float
    """‖W − Q‖ of the base as it quantises by itself."""
    turns: tuple[float, ...]
    """‖W − Q − s B A‖ behind each turn."""


@torch.no_grad()
def quantise_around(
    model: PreTrainedModel, anatomy: Anatomy, deltas: Mapping[str, Delta], by: str = LOFTQ, turns: int = 5
) -> dict[str, Lost]:
    """Pack the weights of `model` at which LoRA's `deltas` act anew, and begin those with A and B; what each lost.

    Weights at which none acts stay as they were. The full-precision base is read again for it, and dropped. Raises
    UserError where that cannot be found, and where no delta acts on a quantised weight.
    """
    by_module: dict[str, list[Site]] = defaultdict(list)
    for site in anatomy.linear:
        if isinstance(deltas.get(site.name), LowRank) and is_quantised(model.get_submodule(site.module)):
            by_module[site.module].append(site)
    if not by_module:
        raise UserError("no low-rank factors stand at a quantised weight of this base", "method.roles='[all]'")
    full = original(model)
    return {path: _alternate(model, full, sites, deltas, by, turns) for path, sites in by_module.items()}


def _alternate(
    model: PreTrainedModel,
    full: PreTrainedModel,
    sites: Sequence[Site],
    deltas: Mapping[str, Delta],
    by: str,
    turns: int,
) -> Lost:
    """The turns of one module, all of whose sites are given."""
    module = model.get_submodule(sites[0].module)
    weight = module_weight(full, sites[0]).to(module.weight.device, torch.float32)
    lost = [weight - _stored(model, sites)]
    parts: Parts = _best(weight, sites, deltas) if by == PISSA else {}
    for turn in range(turns):
        if by == PISSA and turn:
            parts = _best(weight - _stored(model, sites), sites, deltas)
        if parts:
            pack(module, _less(weight, parts))
        if by == LOFTQ:
            parts = _best(weight - _stored(model, sites), sites, deltas)
        lost.append(_less(weight, parts) - _stored(model, sites))
    for delta, a, b in parts.values():
        delta.start_at(a, b)
    norm = float(weight.norm())
    plain, *after = (float(each.norm()) / max(norm, 1e-30) for each in lost)
    return Lost(norm, plain, tuple(after))


def _stored(model: PreTrainedModel, sites: Sequence[Site]) -> Tensor:
    return module_weight(model, sites[0]).float()


def _best(weight: Tensor, sites: Sequence[Site], deltas: Mapping[str, Delta]) -> Parts:
    """A and B of each site with s B A the best of their rank at its share of `weight`."""
    found = {}
    for site in sites:
        delta = deltas[site.name]
        assert isinstance(delta, LowRank), site.name
        found[site] = (delta, *principal(site.read(weight, dim=0), len(delta.lora_A), delta.scaling))
    return found


def _less(weight: Tensor, parts: Parts) -> Tensor:
    """`weight` less s B A of each site."""
    for site, (delta, a, b) in parts.items():
        weight = site.write(weight, site.read(weight, dim=0) - delta.scaling * b @ a, dim=0)
    return weight
