"""LoRA: y = W x + (alpha / rank) B A x.  Hu et al. 2021, arXiv:2106.09685, eq. 3.

rsLoRA divides alpha by √rank instead: Kalajdzievski 2023, arXiv:2312.03732, theorem 3.2.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from pydantic import AliasChoices, Field
from torch import Tensor, nn
from torch.nn import functional

from tunewise.errors import UserError
from tunewise.methods.base import Delta, Method, PeftNames
from tunewise.models.anatomy import Anatomy, Site

PEFT_FIELDS = {"rank": "r", "alpha": "lora_alpha", "rslora": "use_rslora", "dropout": "lora_dropout"}
PEFT_TENSORS = {"lora_A": "lora_A.weight", "lora_B": "lora_B.weight"}


class LowRank(Delta):
    """A (rank, d_in) and B (d_out, rank); B is zero at birth."""

    def __init__(self, site: Site, rank: int, scaling: float, dropout: float, init: str) -> None:
        super().__init__()
        self.scaling = scaling
        self.dropout = nn.Dropout(dropout)
        self.lora_A = nn.Parameter(torch.empty(rank, site.d_in))
        self.lora_B = nn.Parameter(torch.zeros(site.d_out, rank))
        if init == "kaiming":
            nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        else:
            nn.init.normal_(self.lora_A, std=1 / rank)

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        return y + self.change(x)

    def change(self, x: Tensor) -> Tensor:
        """scaling · B A x."""
        inner = functional.linear(self.dropout(x), self.lora_A.to(x.dtype))
        return self.scaling * functional.linear(inner, self.lora_B.to(x.dtype))

    def fold(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return weight + self.scaling * (self.lora_B @ self.lora_A).detach().to(weight), bias


class LoRA(Method):
    """A low-rank change of the weights at the chosen roles."""

    name = "lora"
    family = "reparametrising"
    trains = "low-rank factors A, B"
    paper = "arXiv:2106.09685"
    equation = "y = W x + (alpha / rank) B A x"
    learning_rate = 2e-4
    learning_rate_source = (
        "Hu et al. 2021, arXiv:2106.09685, table 11 (GPT-2); Dettmers et al. 2023, arXiv:2305.14314, table 9"
    )

    peft = PeftNames(
        "LORA",
        fields=PEFT_FIELDS,
        tensors=PEFT_TENSORS,
        constants={"use_dora": False, "bias": "none"},
        training_only=frozenset({"init_lora_weights"}),
    )

    rank: int = Field(8, ge=1, validation_alias=AliasChoices("rank", "r"))
    """Columns of B and rows of A."""
    alpha: float = Field(16.0, gt=0, validation_alias=AliasChoices("alpha", "lora_alpha"))
    """The update is scaled by alpha / rank."""
    rslora: bool = Field(False, validation_alias=AliasChoices("rslora", "use_rslora"))
    """Scale by alpha / √rank instead, which keeps high ranks learning."""
    dropout: float = Field(0.0, ge=0, lt=1, validation_alias=AliasChoices("dropout", "lora_dropout"))
    """Dropout on the input of A while training."""
    roles: tuple[str, ...] = Field(("q", "v"), min_length=1)
    """Roles of the sites: q k v o gate up down, a fused qkv or gate_up, or the groups attention, mlp, all."""
    layers: tuple[int, ...] | None = Field(None, validation_alias=AliasChoices("layers", "layers_to_transform"))
    """Only these layers, counted from 0, or from the end when negative."""
    init: Literal["kaiming", "gaussian"] = "kaiming"
    """Start of A: Kaiming-uniform as in the authors' code and peft, or normal with deviation 1 / rank."""

    @property
    def scaling(self) -> float:
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    def peft_fields(self, anatomy: Anatomy, targets: Sequence[str]) -> dict[str, object]:
        return {"init_lora_weights": True if self.init == "kaiming" else self.init}

    @classmethod
    def from_peft_fields(cls, config: Mapping[str, object], tensors: Mapping[str, Tensor]) -> dict[str, object]:
        start = config.get("init_lora_weights", True)
        if start not in (True, False, "gaussian"):
            raise UserError(
                f"init_lora_weights={start!r} changes the base's weights too",
                hint="convert it in peft first: save_pretrained(..., path_initial_model_for_weight_conversion=...)",
            )
        return {}

    def deltas(self, anatomy: Anatomy) -> Mapping[str, Delta]:
        sites = anatomy.find(self.roles, self.layers)
        return {site.name: LowRank(site, self.rank, self.scaling, self.dropout, self.init) for site in sites}
