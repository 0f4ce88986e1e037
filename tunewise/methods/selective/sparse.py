"""Sparse masks: W₀ + M ∘ Δ, a fixed share of the entries of all linear weights, chosen before training.

By Fisher information, the mean over examples of the squared gradient: FISH Mask, Sung et al. 2021, arXiv:2111.09839,
eq. 4. By the squared gradient of the mean loss, to second order the largest gain: SAM, Fu et al. 2022,
arXiv:2211.15583, section 4. By magnitude of the weight, or at random, as the baselines of both. Only the kept entries
are stored: their places and their changes.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from tunewise.errors import UserError
from tunewise.methods.base import Delta, FrozenWeight, Method, Start, WeightChange
from tunewise.methods.selective.squared_gradients import squared_gradients
from tunewise.models.anatomy import Anatomy, Site


class Entries(WeightChange):
    """values (k,), zero at birth, at the flat indices (k,) of a weight (d_out, d_in)."""

    def __init__(self, site: Site, k: int) -> None:
        super().__init__()
        self.shape = (site.d_out, site.d_in)
        self.values = nn.Parameter(torch.zeros(k))
        self.register_buffer("indices", torch.arange(k))
        self.frozen: FrozenWeight | None = None

    def bind(self, weight: FrozenWeight) -> None:
        self.frozen = weight

    def weight(self) -> Tensor:
        """The frozen W₀ (d_out, d_in)."""
        assert self.frozen is not None, "a delta is bound when it is attached"
        return self.frozen()[0]

    def take_shapes(self, state: Mapping[str, Tensor]) -> None:
        if state and state["indices"].shape != self.indices.shape:
            self.place(torch.zeros_like(state["indices"]))

    def place(self, indices: Tensor) -> None:
        """Train the entries at these indices, from zero."""
        device = self.values.device
        self.values = nn.Parameter(torch.zeros(len(indices), dtype=self.values.dtype, device=device))
        self.indices = indices.to(device)

    def weight_change(self) -> Tensor:
        """ΔW (d_out, d_in)."""
        flat = self.values.new_zeros(self.shape[0] * self.shape[1])
        return flat.index_put((self.indices,), self.values).view(self.shape)


class Sparse(Method):
    """A fixed share of the entries of the weights, chosen by how much they matter to the first examples."""

    name = "sparse"
    family = "selective"
    trains = "the entries of the weights that matter most"
    paper = "arXiv:2111.09839"
    equation = "y = (W₀ + M ∘ Δ) x"
    searched = {"density": (0.05, 0.0005)}
    learning_rate = 5e-5
    learning_rate_source = (
        "Sung et al. 2021, arXiv:2111.09839, the authors' code: what they took for all of GLUE on BERT-large "
        "(varunnair18/FISH, text-classification/scripts/lib.sh), having searched 1e-5 to 1e-4"
    )
    start = "the base's own values, the change of the chosen entries zero"

    density: float = Field(0.005, gt=0, le=1)
    """The share of the entries that is trained. Default: Sung et al. 2021, run_table_1.sh (0.5 %)."""
    by: Literal["fisher", "gradient", "magnitude", "random"] = "fisher"
    """What makes an entry matter. Default: Sung et al. 2021, eq. 4."""
    examples: int = Field(128, ge=1)
    """How many training examples the gradients are taken on. Default: no published value; the authors take 1024, and 32
    to 16384 in their ablation (run_table_1.sh, ablation_sample_size.sh); an eighth of the cost."""
    roles: tuple[str, ...] = Field(("all",), min_length=1)
    """Roles of the sites: q k v o gate up down, a fused qkv or gate_up, or the groups attention, mlp, all.
    Default: Sung et al. 2021, the whole model; here its linear layers."""
    layers: tuple[int, ...] | None = None
    """Only these layers, counted from 0, or from the end when negative."""

    def deltas(self, anatomy: Anatomy) -> Mapping[str, Delta]:
        sites = anatomy.find(self.roles, self.layers)
        left = max(1, round(self.density * sum(site.d_out * site.d_in for site in sites)))
        found: dict[str, Delta] = {}
        for site, n_behind in zip(sites, range(len(sites) - 1, -1, -1), strict=True):
            k = left if n_behind == 0 else min(left, round(self.density * site.d_out * site.d_in))
            found[site.name] = Entries(site, k)
            left -= k
        return found

    def warm_start(self, start: Start, deltas: Mapping[str, Delta]) -> None:
        entries = {name: delta for name, delta in deltas.items() if isinstance(delta, Entries)}
        scores = [score.flatten() for score in self._scores(start, entries).values()]
        n_kept = sum(len(delta.values) for delta in entries.values())
        kept = torch.zeros(sum(map(len, scores)), dtype=torch.bool)
        kept[torch.cat(scores).topk(n_kept).indices] = True
        for delta, chosen in zip(entries.values(), kept.split([len(score) for score in scores]), strict=True):
            delta.place(chosen.nonzero().flatten())

    def _scores(self, start: Start, entries: Mapping[str, Entries]) -> dict[str, Tensor]:
        """How much every entry matters, (d_out, d_in) at each site, on the CPU."""
        if self.by == "random":
            return {name: torch.rand(delta.shape) for name, delta in entries.items()}
        if self.by == "magnitude":
            return {name: delta.weight().abs().float().cpu() for name, delta in entries.items()}
        if start.losses is None:
            raise UserError(
                f"sparse by {self.by} looks at training examples before it starts",
                hint="train it with `tunewise train`, give attach(..., losses=...), or use method.by=magnitude",
            )
        changes = {name: torch.zeros_like(delta.weight(), requires_grad=True) for name, delta in entries.items()}
        return squared_gradients(start, changes, start.losses, self.examples, each=self.by == "fisher")
