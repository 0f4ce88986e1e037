"""AdaLoRA: y = W x + (alpha / rank) P Λ Q x, whose least important triplets are cut until a budget of ranks is met.

Zhang et al. 2023, arXiv:2303.10512: importance is sensitivity times uncertainty, smoothed (eqs. 8 to 12); the budget
falls as a cubic (eq. 12); P and Q are kept near orthogonal by a penalty (eq. 4). Q is `lora_A`, Λ `lora_E`, P `lora_B`.
"""

from collections.abc import Mapping, Sequence

import torch
from pydantic import AliasChoices, Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from tunewise.errors import UserError
from tunewise.methods.base import PREFIX, Delta, Method, PeftNames
from tunewise.models.anatomy import Anatomy, Site

SMOOTHING = 0.85  # beta1 and beta2, section 4.1
ORTHOGONALITY = 0.5  # weight of the penalty; peft's default, in the authors' range of 0.1 to 0.5
INTERVAL = 10  # steps between two cuts
_PARTS = ("lora_A", "lora_E", "lora_B")
_RANK_DIMS = (0, 0, 1)


class Triplets(Delta):
    """A (rank, d_in), E (rank, 1), zero at birth, B (d_out, rank), and how important each entry has been so far."""

    def __init__(self, site: Site, rank: int, alpha: float, dropout: float) -> None:
        super().__init__()
        self.scaling = alpha / (rank + 1e-5)
        self.dropout = nn.Dropout(dropout)
        self.lora_A = nn.Parameter(torch.randn(rank, site.d_in) * 0.02)
        self.lora_E = nn.Parameter(torch.zeros(rank, 1))
        self.lora_B = nn.Parameter(torch.randn(site.d_out, rank) * 0.02)
        for name in _PARTS:
            shape = self.get_parameter(name).shape
            self.register_buffer(f"sensitivity_{name}", torch.zeros(shape))
            self.register_buffer(f"uncertainty_{name}", torch.zeros(shape))
        self.register_buffer("is_kept", torch.ones(rank, 1))

    def settle(self) -> None:
        if "is_kept" not in self._buffers:  # one that was loaded is settled
            return
        for name in _PARTS:
            delattr(self, f"sensitivity_{name}")
            delattr(self, f"uncertainty_{name}")
        del self.is_kept

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        inner = functional.linear(self.dropout(x), (self.lora_A * self.lora_E).to(x.dtype))
        return y + self.scaling * functional.linear(inner, self.lora_B.to(x.dtype))

    def fold(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return weight + self.scaling * (self.lora_B @ (self.lora_A * self.lora_E)).detach().to(weight), bias

    @torch.no_grad()
    def observe(self) -> None:
        """Take the gradients of one step into the importance of every entry."""
        for name in _PARTS:
            parameter, sensitivity = self.get_parameter(name), self.get_buffer(f"sensitivity_{name}")
            now = (parameter * parameter.grad).abs()
            sensitivity.lerp_(now, 1 - SMOOTHING)
            self.get_buffer(f"uncertainty_{name}").lerp_((now - sensitivity).abs(), 1 - SMOOTHING)

    def importance(self) -> Tensor:
        """One score a triplet, (rank,)."""
        a, e, b = (self.get_buffer(f"sensitivity_{n}") * self.get_buffer(f"uncertainty_{n}") for n in _PARTS)
        return e.flatten() + a.mean(1) + b.mean(0)

    @torch.no_grad()
    def cut(self, is_kept: Tensor | None = None) -> None:
        """Set the values of the triplets that are not kept to zero."""
        if is_kept is not None:
            self.is_kept.copy_(is_kept.unsqueeze(1))
        self.lora_E.mul_(self.is_kept)


class AdaLoRA(Method):
    """Low-rank updates that start wide and lose the ranks they need least, site by site, until the budget is met."""

    name = "adalora"
    family = "reparametrising"
    trains = "singular triplets, cut to a budget of ranks"
    paper = "arXiv:2303.10512"
    equation = "y = W x + (alpha / rank) P Λ Q x"
    learning_rate = 1e-3
    learning_rate_source = "Zhang et al. 2023, arXiv:2303.10512, appendix (5e-4 to 2e-3, task by task)"
    peft = PeftNames(
        "ADALORA",
        fields={"rank": "init_r", "target_rank": "target_r", "alpha": "lora_alpha", "dropout": "lora_dropout"},
        tensors={name: name for name in _PARTS},
        constants={"bias": "none"},
        training_only=frozenset(
            {"r", "tinit", "tfinal", "deltaT", "beta1", "beta2", "orth_reg_weight", "total_step", "init_lora_weights"}
            | {"rank_pattern"}
        ),
    )

    rank: int = Field(12, ge=1, validation_alias=AliasChoices("rank", "init_r"))
    """Triplets a site at the start."""
    target_rank: int = Field(8, ge=1, validation_alias=AliasChoices("target_rank", "target_r"))
    """Triplets a site at the end, on average."""
    alpha: float = Field(16.0, gt=0, validation_alias=AliasChoices("alpha", "lora_alpha"))
    """The update is scaled by alpha / rank."""
    dropout: float = Field(0.0, ge=0, lt=1, validation_alias=AliasChoices("dropout", "lora_dropout"))
    """Dropout on the input of Q while training."""
    warm_up: float = Field(0.1, ge=0, lt=1)
    """Share of the steps before the first cut."""
    final: float = Field(0.3, ge=0, lt=1)
    """Share of the steps behind the last cut."""
    roles: tuple[str, ...] = Field(("q", "v"), min_length=1)
    """Roles of the sites: q k v o gate up down, a fused qkv or gate_up, or the groups attention, mlp, all."""
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
        """With zeros for the triplets that were cut, which peft leaves out; it divides by the rank at the start too."""
        pattern, rank = config.get("rank_pattern") or {}, config.get("init_r")
        assert isinstance(pattern, Mapping)
        whole = dict(tensors)
        for key, is_kept in pattern.items():
            module = f"{PREFIX}{key.removesuffix('.lora_E')}"
            parts = [whole.get(f"{module}.{part}") for part in _PARTS]
            counts = [None if part is None else part.shape[dim] for part, dim in zip(parts, _RANK_DIMS, strict=True)]
            if len(is_kept) != rank or set(counts) != {sum(is_kept)}:
                raise UserError(
                    f"rank_pattern keeps {sum(is_kept)} of {len(is_kept)} triplets at {key!r}; "
                    f"init_r is {rank} and the file has {counts} of {', '.join(_PARTS)}",
                    hint="save it again with peft's save_pretrained()",
                )
            for name, part, dim in zip(_PARTS, parts, _RANK_DIMS, strict=True):
                assert part is not None
                whole[f"{module}.{name}"] = _spread(part, torch.tensor(is_kept, device=part.device), dim)
        return whole

    def deltas(self, anatomy: Anatomy) -> Mapping[str, Delta]:
        sites = anatomy.find(self.roles, self.layers)
        return {site.name: Triplets(site, self.rank, self.alpha, self.dropout) for site in sites}

    def penalty(self, deltas: Mapping[str, Delta]) -> Tensor | None:
        triplets = [delta for delta in deltas.values() if isinstance(delta, Triplets)]
        products = [p for t in triplets for p in (t.lora_A @ t.lora_A.T, t.lora_B.T @ t.lora_B)]
        identity = torch.eye(self.rank, dtype=products[0].dtype, device=products[0].device)
        return ORTHOGONALITY * torch.stack([(product - identity).norm() for product in products]).mean()

    def budget(self, step: int, n_steps: int, n_sites: int) -> int | None:
        """How many triplets of all sites stay at `step`, eq. 12; None where nothing is cut then."""
        first, last = int(self.warm_up * n_steps), n_steps - int(self.final * n_steps)
        if step <= first or step > last or (step % INTERVAL and step != last):
            return None
        left = 1 - (step - first) / (last - first)
        return int(n_sites * ((self.rank - self.target_rank) * left**3 + self.target_rank))

    def after_step(self, deltas: Mapping[str, Delta], step: int, n_steps: int) -> None:
        triplets = [delta for delta in deltas.values() if isinstance(delta, Triplets)]
        last = n_steps - int(self.final * n_steps)
        for delta in triplets:
            if step < last:
                delta.observe()
            elif step > last:
                delta.cut()
        budget = self.budget(step, n_steps, len(triplets))
        if budget is None:
            return
        scores = torch.cat([delta.importance() for delta in triplets])
        if budget < len(scores):
            threshold = scores.kthvalue(len(scores) - budget).values
            for delta in triplets:
                delta.cut(delta.importance() > threshold)


def _spread(part: Tensor, is_kept: Tensor, dim: int) -> Tensor:
    """The rows (dim 0) or columns (dim 1) of `part` where `is_kept` says, and zeros elsewhere."""
    shape = list(part.shape)
    shape[dim] = len(is_kept)
    return part.new_zeros(shape).index_copy(dim, is_kept.nonzero().flatten(), part)
