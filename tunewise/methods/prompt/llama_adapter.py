"""LLaMA-Adapter: attention + tanh(g) softmax(q (W_k P)ᵀ / √d) W_v P, a learned prompt in each of the upper layers.

Zhang et al. 2023, arXiv:2303.16199, eq. 3 to 6. The prompt has a softmax of its own, gated head by head, and g is zero
at birth. Unlike a prefix it takes no position, so it acts on every kind of model; the query is taken before its
rotation, as the prompt stands nowhere.
"""

from collections.abc import Callable, Mapping

import torch
from pydantic import AliasChoices, Field
from torch import Tensor, nn
from torch.nn import functional

from tunewise.methods.base import Delta, FrozenWeight, Method
from tunewise.models.anatomy import Anatomy, Site
from tunewise.models.families import PROJECTS_POSITIONS, READS_IDS, RECURRENT


class Query(Delta):
    """Keeps the queries of a layer for its prompt; changes nothing."""

    def __init__(self, keep: Callable[[Tensor], None]) -> None:
        super().__init__()
        self._keep = keep

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        self._keep(y)
        return y


class Projection(Delta):
    """The frozen projection of a layer to keys or values, lent to its prompt; changes nothing."""

    def bind(self, weight: FrozenWeight) -> None:
        self._weight = weight

    def project(self, prompt: Tensor) -> Tensor:
        """W P + b."""
        weight, bias = self._weight()
        return functional.linear(prompt.to(weight.dtype), weight, bias)


class GatedPrompt(Delta):
    """prompt (virtual_tokens, d) and gate (heads,), on what enters the output projection (..., heads · d_head)."""

    def __init__(self, virtual_tokens: int, d: int, n_heads: int, keys: Projection, values: Projection) -> None:
        super().__init__()
        self.prompt = nn.Parameter(torch.randn(virtual_tokens, d))
        self.gate = nn.Parameter(torch.zeros(n_heads))
        self._projections = keys.project, values.project
        self._queries: list[Tensor] = []

    def receive(self, queries: Tensor) -> None:
        """The layer's queries, in this very forward pass."""
        self._queries = [queries]

    def before(self, x: Tensor) -> Tensor:
        n_heads = len(self.gate)
        query = self._queries.pop().unflatten(-1, (n_heads, -1))  # (..., length, heads, d_head)
        key, value = (self._by_head(project(self.prompt), query.shape[-1]) for project in self._projections)
        scores = torch.einsum("...hd,phd->...hp", query, key) / query.shape[-1] ** 0.5
        seen = torch.einsum("...hp,phd->...hd", scores.softmax(-1), value)
        return x + (self.gate.tanh().to(x.dtype).unsqueeze(-1) * seen).flatten(-2)

    def _by_head(self, projected: Tensor, d_head: int) -> Tensor:
        """(virtual_tokens, heads, d_head), each key-value head once for every query head that shares it."""
        grouped = projected.unflatten(-1, (-1, d_head))
        return grouped.repeat_interleave(len(self.gate) // grouped.shape[1], dim=1)


class LlamaAdapter(Method):
    """A prompt with a gate of its own in the attention of each of the last `layers` layers."""

    name = "llama_adapter"
    family = "additive"
    trains = "gated prompts in the upper layers"
    paper = "arXiv:2303.16199"
    equation = "attention + tanh(g) softmax(q (W_k P)ᵀ / √d) W_v P"
    learning_rate = 1e-3
    learning_rate_source = "the authors' training script: 9e-3 for a batch of 256, scaled to its batch of 32"
    start = "the prompts standard normal, the gates zero: Zhang et al. 2023, the authors' llama/model.py"
    not_on = {
        PROJECTS_POSITIONS: "its projection to queries runs over relative positions too, which see no prompt",
        **dict.fromkeys((*RECURRENT, *READS_IDS), "not every layer of it has queries, keys and values of its own"),
    }

    virtual_tokens: int = Field(10, ge=1, validation_alias=AliasChoices("virtual_tokens", "adapter_len"))
    """Length of the prompt in each layer. Default: Zhang et al. 2023, the authors' finetuning.sh."""
    layers: int | None = Field(None, ge=1, validation_alias=AliasChoices("layers", "adapter_layers"))
    """How many layers from the top have one; all but the lowest two where it is not given.
    Default: Zhang et al. 2023, the authors' finetuning.sh (30 of 32)."""

    def deltas(self, anatomy: Anatomy) -> Mapping[str, Delta]:
        first = anatomy.n_layers - self.layers if self.layers else min(2, anatomy.n_layers - 1)
        chosen = range(max(0, first), anatomy.n_layers)
        by_role = [_own_attention(anatomy, role) for role in ("q", "k", "v", "o")]
        found: dict[str, Delta] = {}
        for layer in chosen:
            q, k, v, o = (sites[layer] for sites in by_role)
            keys, values = Projection(), Projection()
            prompt = GatedPrompt(self.virtual_tokens, k.d_in, anatomy.n_heads, keys, values)
            found |= {q.name: Query(prompt.receive), k.name: keys, v.name: values, o.name: prompt}
        return found


def _own_attention(anatomy: Anatomy, role: str) -> dict[int | None, Site]:
    """Layer -> the site of that role in its attention to itself."""
    return {site.layer: site for site in anatomy.find([role]) if not site.is_cross}
