"""LoRA: y = W x + (alpha / rank) B A x.  Hu et al. 2021, arXiv:2106.09685, eq. 3.

rsLoRA divides alpha by √rank instead: Kalajdzievski 2023, arXiv:2312.03732, theorem 3.2. LoRA+ gives B a learning rate
of its own: Hayou et al. 2024, arXiv:2402.12354. PiSSA (Meng et al. 2024, arXiv:2404.02948) starts from the principal
part of W, OLoRA (Büyükakyüz 2024, arXiv:2406.01775) from its QR factors; both train s B A − s B₀ A₀ here, so that the
base keeps its weights, and are saved as a LoRA of twice the rank. Other starts: `eva.py`, `loftq.py`, `stored.py`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import AliasChoices, Field
from torch import Tensor

from tunewise.methods.base import Delta, Method, Start
from tunewise.methods.exceptions import at, check
from tunewise.methods.reparam import lora_in_peft
from tunewise.methods.reparam.eva import start_where_inputs_vary
from tunewise.methods.reparam.loftq import start_from_loss
from tunewise.methods.reparam.low_rank import FROM_WEIGHT
from tunewise.methods.reparam.low_rank_experts import low_rank_at
from tunewise.methods.reparam.stored import start_as_stored
from tunewise.models.anatomy import Anatomy, Site


class LoRA(Method):
    """A low-rank change of the weights at the chosen roles."""

    name = "lora"
    family = "reparametrising"
    trains = "low-rank factors A, B"
    paper = "arXiv:2106.09685"
    equation = "y = W x + (alpha / rank) B A x"
    searched = {"rank": (32, 2)}
    learning_rate = 2e-4
    learning_rate_source = (
        "Hu et al. 2021, arXiv:2106.09685, table 11 (GPT-2); Dettmers et al. 2023, arXiv:2305.14314, table 9"
    )
    start = "B zero, A Kaiming-uniform with a = √5: Hu et al. 2021, the authors' loralib/layers.py, and peft's"
    peft = lora_in_peft.names(use_dora=False)
    on_experts = True

    rank: Annotated[int, Field(ge=1)] | dict[str, Annotated[int, Field(ge=1)]] = Field(
        8, validation_alias=AliasChoices("rank", "r")
    )
    """Columns of B and rows of A. A mapping from roles, `layers.N` or `layers.N.role` makes exceptions of `*`.
    Default: Hu et al. 2021, table 9; peft's."""
    alpha: Annotated[float, Field(gt=0)] | dict[str, Annotated[float, Field(gt=0)]] = Field(
        16.0, validation_alias=AliasChoices("alpha", "lora_alpha")
    )
    """The update is scaled by alpha / rank; a mapping as for the rank.
    Default: Hu et al. 2021, table 9 (RoBERTa-large)."""
    rslora: bool = Field(False, validation_alias=AliasChoices("rslora", "use_rslora"))
    """Scale by alpha / √rank instead, which keeps high ranks learning. Default: as Hu et al. 2021; peft's."""
    dropout: float = Field(0.0, ge=0, lt=1, validation_alias=AliasChoices("dropout", "lora_dropout"))
    """Dropout on the input of A while training. Default: Hu et al. 2021, loralib/layers.py; peft's."""
    roles: tuple[str, ...] = Field(("q", "v"), min_length=1)
    """Roles of the sites: q k v o gate up down, a fused qkv or gate_up, or the groups attention, mlp, all, experts.
    Default: Hu et al. 2021, section 5.1; peft's for llama."""
    layers: tuple[int, ...] | None = Field(None, validation_alias=AliasChoices("layers", "layers_to_transform"))
    """Only these layers, counted from 0, or from the end when negative."""
    init: Literal["kaiming", "gaussian", "eva", "pissa", "olora", "loftq", "stored"] = "kaiming"
    """Start of A: Kaiming-uniform, normal with deviation 1 / rank, or where the inputs vary most on training examples,
    at the same rank everywhere (eva); of A and B: the principal part of the weight (pissa), its QR factors (olora),
    what quantising the base lost (loftq), or what a base was quantised around (stored).
    Default: Hu et al. 2021, loralib/layers.py; peft's."""
    b_rate: float = Field(1.0, gt=0, validation_alias=AliasChoices("b_rate", "loraplus_lr_ratio"))
    """LoRA+: how many times the learning rate of A is that of B; its authors advise 16.
    Default: Hu et al. 2021, one rate."""

    def rank_at(self, site: Site) -> int:
        """The rank at one site."""
        return at(site, self.rank, 8)

    def scaling_at(self, site: Site) -> float:
        """What B A is multiplied by at one site."""
        rank = self.rank_at(site)
        return at(site, self.alpha, 16.0) / (math.sqrt(rank) if self.rslora else rank)

    def deltas(self, anatomy: Anatomy) -> Mapping[str, Delta]:
        return {site.name: low_rank_at(*self._arguments(site)) for site in self._sites(anatomy)}

    def _arguments(self, site: Site) -> tuple[Site, int, float, float, str]:
        return site, self.rank_at(site), self.scaling_at(site), self.dropout, self.init

    def _sites(self, anatomy: Anatomy) -> tuple[Site, ...]:
        sites = anatomy.find(self.roles, self.layers, experts=self.on_experts)
        check("rank", self.rank, sites)
        check("alpha", self.alpha, sites)
        return sites

    def warm_start(self, start: Start, deltas: Mapping[str, Delta]) -> None:
        of_quantised = {"loftq": start_from_loss, "stored": start_as_stored}
        if self.init in of_quantised:
            of_quantised[self.init](start, deltas)
        if self.init == "eva":
            starts = {site: deltas[site.name].get_parameter("lora_A") for site in self._sites(start.anatomy)}
            start_where_inputs_vary(start, starts)

    def learning_rate_factor(self, tensor: str) -> float:
        return self.b_rate if tensor.endswith("lora_B") else 1.0

    def peft_fields(self, anatomy: Anatomy, targets: Sequence[str]) -> dict[str, object]:
        sites = self._sites(anatomy)
        ranks = {site.path: self.rank_at(site) * (2 if self.init in FROM_WEIGHT else 1) for site in sites}
        scalings = {site.path: self.scaling_at(site) for site in sites}
        start = {"init_lora_weights": "gaussian" if self.init == "gaussian" else True}
        return {**lora_in_peft.written(ranks, scalings, rslora=self.rslora), **start}

    def at_scale(self, scale: float) -> Method | None:
        alpha = self.alpha
        scaled = {key: scale * each for key, each in alpha.items()} if isinstance(alpha, dict) else scale * alpha
        return self.model_copy(update={"alpha": scaled})

    @classmethod
    def from_peft_fields(
        cls, config: Mapping[str, object], tensors: Mapping[str, Tensor], anatomy: Anatomy
    ) -> dict[str, object]:
        return lora_in_peft.read(config, anatomy)
