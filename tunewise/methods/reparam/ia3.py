"""(IA)³: keys, values and the inner activations of the feed-forward part are rescaled by learned vectors.

k' = l_k ∘ k,  v' = l_v ∘ v,  W_down (l_ff ∘ f(x)).  Liu et al. 2022, arXiv:2205.05638, section 3.3.
"""

from collections.abc import Mapping, Sequence

import torch
from pydantic import Field
from torch import Tensor, nn

from tunewise.errors import UserError
from tunewise.methods.base import Delta, Method, PeftNames
from tunewise.models.anatomy import Anatomy


class RescaledOutput(Delta):
    """l (d_out, 1), one at birth."""

    def __init__(self, d_out: int) -> None:
        super().__init__()
        self.ia3_l = nn.Parameter(torch.ones(d_out, 1))

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        return y * self.ia3_l.flatten().to(y.dtype)

    def fold(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        scale = self.ia3_l.detach().to(weight)
        return weight * scale, None if bias is None else bias * scale.flatten()


class RescaledInput(Delta):
    """l (1, d_in), one at birth."""

    def __init__(self, d_in: int) -> None:
        super().__init__()
        self.ia3_l = nn.Parameter(torch.ones(1, d_in))

    def before(self, x: Tensor) -> Tensor:
        return x * self.ia3_l.flatten().to(x.dtype)

    def fold(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return weight * self.ia3_l.detach().to(weight), bias


class IA3(Method):
    """Vectors that rescale what attention and feed-forward pass on; feed-forward is rescaled before `down`."""

    name = "ia3"
    family = "reparametrising"
    trains = "vectors that rescale activations"
    paper = "arXiv:2205.05638"
    equation = "y = l ∘ W x"
    learning_rate = 3e-3
    learning_rate_source = "Liu et al. 2022, arXiv:2205.05638, section 3.5 (3e-3)"
    start = "all ones: Liu et al. 2022, section 3.3, and peft's"
    peft = PeftNames(
        "IA3",
        fields={},
        tensors={"ia3_l": "ia3_l"},
        training_only=frozenset({"init_ia3_weights", "feedforward_modules"}),
    )

    roles: tuple[str, ...] = Field(("k", "v", "down"), min_length=1)
    """Roles of the sites: outputs are rescaled, of `down` the input; by default without it where experts stand there.
    Default: Liu et al. 2022, section 3.3; peft's for llama."""
    layers: tuple[int, ...] | None = None
    """Only these layers, counted from 0, or from the end when negative."""

    def deltas(self, anatomy: Anatomy) -> Mapping[str, Delta]:
        roles = self.roles
        if anatomy.mixtures and roles == type(self).model_fields["roles"].default:
            roles = tuple(role for role in roles if role in anatomy.roles)
        return {
            site.name: RescaledInput(site.d_in) if site.role == "down" else RescaledOutput(site.d_out)
            for site in anatomy.find(roles, self.layers)
        }

    def peft_fields(self, anatomy: Anatomy, targets: Sequence[str]) -> dict[str, object]:
        feedforward: list[str] = []
        for target in targets:
            meant = {site.module: site.role for site in anatomy.sites if f".{site.module}".endswith(f".{target}")}
            if "down" in meant.values():  # some families call what leaves attention by the same name
                of_down = [module for module, role in meant.items() if role == "down"]
                feedforward += [target] if len(of_down) == len(meant) else of_down
        return {"target_modules": list(dict.fromkeys([*targets, *feedforward])), "feedforward_modules": feedforward}

    @classmethod
    def from_peft_fields(
        cls, config: Mapping[str, object], tensors: Mapping[str, Tensor], anatomy: Anatomy
    ) -> dict[str, object]:
        if isinstance(config.get("feedforward_modules"), str):
            raise UserError(
                f"adapter_config.json names its feedforward_modules by a pattern, {config['feedforward_modules']!r}",
                hint="write feedforward_modules as a list of names",
            )
        return {}
