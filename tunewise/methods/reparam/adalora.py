"""AdaLoRA: y = W x + (alpha / rank) P Λ Q x, whose least important triplets are cut until a budget of ranks is met.

Zhang et al. 2023, arXiv:2303.10512: importance is sensitivity times uncertainty, smoothed (eqs. 7 to 11); the budget
falls as a cubic (eq. 12); P and Q are kept near orthogonal by a penalty (eq. 4, but the mean of norms that are not
squared, as in the authors' code and peft). Q is `lora_A`, Λ `lora_E`, P `lora_B`.
"""

from collections.abc import Mapping, Sequence

import torch
from pydantic import AliasChoices, Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from tunewise.methods.base import Delta, Method, PeftNames
from tunewise.methods.reparam.adalora_in_peft import with_cut_triplets
from tunewise.methods.reparam.importance import PARTS, ScoredTriplets, cut_to, share_left
from tunewise.models.anatomy import Anatomy, Site

ORTHOGONALITY = 0.5  # weight of the penalty; peft's default, in the authors' range of 0.1 to 0.5 (table 8)
INTERVAL = 10  # steps between two cuts, as for the smaller tasks of table 8 (CoLA, STS-B)


class Triplets(ScoredTriplets):
    """(alpha / rank) B (A ∘ E) x, added."""

    def __init__(self, site: Site, rank: int, alpha: float, dropout: float) -> None:
        super().__init__(site, rank)
        self.scaling = alpha / (rank + 1e-5)
        self.dropout = nn.Dropout(dropout)

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        inner = functional.linear(self.dropout(x), (self.lora_A * self.lora_E).to(x.dtype))
        return y + self.scaling * functional.linear(inner, self.lora_B.to(x.dtype))

    def fold(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return weight + self.scaling * (self.lora_B @ (self.lora_A * self.lora_E)).detach().to(weight), bias


class AdaLoRA(Method):
    """Low-rank updates that start wide and lose the ranks they need least, site by site, until the budget is met."""

    name = "adalora"
    family = "reparametrising"
    trains = "singular triplets, cut to a budget of ranks"
    paper = "arXiv:2303.10512"
    equation = "y = W x + (alpha / rank) P Λ Q x"
    learning_rate = 1e-3
    learning_rate_source = "Zhang et al. 2023, arXiv:2303.10512, table 10 (SQuAD; 5e-4 to 2.2e-3 on GLUE, table 8)"
    start = "Λ zero, P and Q normal with deviation 0.02: Zhang et al. 2023, section 3.1 and adalora.py, and peft's"
    peft = PeftNames(
        "ADALORA",
        fields={"rank": "init_r", "target_rank": "target_r", "alpha": "lora_alpha", "dropout": "lora_dropout"},
        tensors={name: name for name in PARTS},
        constants={"bias": "none"},
        training_only=frozenset(
            {"r", "tinit", "tfinal", "deltaT", "beta1", "beta2", "orth_reg_weight", "total_step", "init_lora_weights"}
            | {"rank_pattern"}
        ),
    )

    rank: int = Field(12, ge=1, validation_alias=AliasChoices("rank", "init_r"))
    """Triplets a site at the start. Default: Zhang et al. 2023, appendix C.1 (12 for 8); peft's."""
    target_rank: int = Field(8, ge=1, validation_alias=AliasChoices("target_rank", "target_r"))
    """Triplets a site at the end, on average. Default: Zhang et al. 2023, appendix C.1; peft's."""
    alpha: float = Field(16.0, gt=0, validation_alias=AliasChoices("alpha", "lora_alpha"))
    """The update is scaled by alpha / rank. Default: Zhang et al. 2023, section 4 (16 or 32)."""
    dropout: float = Field(0.0, ge=0, lt=1, validation_alias=AliasChoices("dropout", "lora_dropout"))
    """Dropout on the input of Q while training. Default: Zhang et al. 2023, the authors' adalora.py; peft's."""
    warm_up: float = Field(0.1, ge=0, lt=1)
    """Share of the steps before the first cut. Default: Zhang et al. 2023, table 8 (0.09 to 0.18)."""
    final: float = Field(0.5, ge=0, lt=1)
    """Share of the steps behind the last cut. Default: Zhang et al. 2023, table 8 (0.44 to 0.58)."""
    roles: tuple[str, ...] = Field(("q", "v"), min_length=1)
    """Roles of the sites: q k v o gate up down, a fused qkv or gate_up, or the groups attention, mlp, all.
    Default: peft's for llama, lora's; Zhang et al. 2023, section 3.2, take every matrix (`all`)."""
    layers: tuple[int, ...] | None = None
    """Only these layers, counted from 0, or from the end when negative."""

    @model_validator(mode="after")
    def _a_budget_that_falls(self) -> "AdaLoRA":
        if self.target_rank > self.rank:
            raise ValueError(f"target_rank={self.target_rank} is more than the rank={self.rank} it starts with")
        return self

    def peft_fields(self, anatomy: Anatomy, targets: Sequence[str]) -> dict[str, object]:
        return {"total_step": 1}  # peft will not read a configuration without it; the cuts have been made

    @classmethod
    def completed(cls, config: Mapping[str, object], tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return with_cut_triplets(config, tensors)

    def deltas(self, anatomy: Anatomy) -> Mapping[str, Delta]:
        sites = anatomy.find(self.roles, self.layers)
        return {site.name: Triplets(site, self.rank, self.alpha, self.dropout) for site in sites}

    def penalty(self, deltas: Mapping[str, Delta]) -> Tensor | None:
        triplets = [delta for delta in deltas.values() if isinstance(delta, Triplets)]
        products = [p for t in triplets for p in (t.lora_A @ t.lora_A.T, t.lora_B.T @ t.lora_B)]
        identity = torch.eye(self.rank, dtype=products[0].dtype, device=products[0].device)
        return ORTHOGONALITY * torch.stack([(product - identity).norm() for product in products]).mean()

    def after_step(self, deltas: Mapping[str, Delta], step: int, n_steps: int) -> None:
        triplets = [delta for delta in deltas.values() if isinstance(delta, Triplets)]
        first, last = int(self.warm_up * n_steps), n_steps - int(self.final * n_steps)
        for delta in triplets:
            if step < last:
                delta.observe()
            elif step > last:
                delta.cut()
        if first < step <= last and (step % INTERVAL == 0 or step == last):
            left = share_left(step, first, last)
            cut_to(int(len(triplets) * ((self.rank - self.target_rank) * left + self.target_rank)), triplets)
