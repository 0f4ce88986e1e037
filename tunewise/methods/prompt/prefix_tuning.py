"""Prefix tuning: attention over [P_k; K], [P_v; V], learned keys and values in every layer.

Li & Liang 2021, arXiv:2101.00190, section 4.2; without the network of section 4.3 it is P-tuning v2 (Liu et al. 2022,
arXiv:2110.07602).

Like a soft prompt, the prefix is extra vocabulary: the embedding notes which positions hold virtual tokens, and at
those every layer's keys and values are replaced by learned ones. The keys are learned before their rotation.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from pydantic import AliasChoices, Field, model_validator
from torch import Tensor, nn
from transformers import PreTrainedModel

from tunewise.methods.attach import attach
from tunewise.methods.base import Delta, Method, PeftNames, Start
from tunewise.methods.prompt.prompt_tuning import NO_VOCABULARY, prompt_sizes, starting_ids, virtual_ids
from tunewise.models.anatomy import Anatomy, Site
from tunewise.models.families import ENCODER, ENCODER_DECODER

NO_PREFIX = {
    **NO_VOCABULARY,
    ENCODER: "a classifier reads the first position, which a virtual token would take",
    ENCODER_DECODER: "virtual tokens before the encoder's input give its decoder no keys and values of its own",
}


class VirtualIds(Delta):
    """On the embedding; x holds token ids. `rows` (batch, length) is the virtual token at each position, or −1."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.rows: Tensor | None = None

    def before(self, x: Tensor) -> Tensor:
        self.rows = torch.where(x >= self.vocab_size, x - self.vocab_size, -1)
        return torch.where(x >= self.vocab_size, 0, x)


class Network(nn.Module):
    """tanh(W E + b), the part of the reparametrisation that all layers share: (virtual_tokens, hidden)."""

    def __init__(self, virtual_tokens: int, d: int, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(virtual_tokens, d))
        self.inner = nn.Linear(d, hidden)

    def forward(self) -> Tensor:
        return torch.tanh(self.inner(self.embedding))


class LearnedRows(Delta):
    """values (virtual_tokens, d_out) in place of the keys, or the values, of the virtual tokens."""

    def __init__(self, virtual_tokens: int, d_out: int, virtual: VirtualIds, network: Network | None) -> None:
        super().__init__()
        self._virtual = [virtual]  # in a list, so that it is no submodule of every layer
        self.shared = network
        self.values = nn.Parameter(torch.zeros(virtual_tokens, d_out)) if network is None else None
        self.outer = None if network is None else nn.Linear(network.inner.out_features, d_out)

    def written(self) -> Tensor:
        """The values as they are now."""
        if self.shared is None or self.outer is None:
            assert self.values is not None
            return self.values
        return self.outer(self.shared())

    def settle(self) -> None:
        if self.shared is not None:
            written = self.written().detach()
            self.shared = self.outer = None
            self.values = nn.Parameter(written)

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        rows = self._virtual[0].rows
        assert rows is not None, "the embedding runs before the layers"
        values = self.written().to(y.dtype).unflatten(-1, y.shape[2:])
        chosen = values[rows.clamp(min=0)]
        return torch.where((rows >= 0).view(*rows.shape, *[1] * (y.dim() - 2)), chosen, y)


class PrefixTuning(Method):
    """`virtual_tokens` learned keys and values in front of every layer's own."""

    name = "prefix_tuning"
    family = "additive"
    trains = "keys and values of virtual tokens in every layer"
    paper = "arXiv:2101.00190"
    equation = "softmax(q [P_k; K]ᵀ) [P_v; V]"
    learning_rate = 5e-3
    learning_rate_source = "Liu et al. 2022 (P-tuning v2), arXiv:2110.07602, in the range its authors search"
    not_on = NO_PREFIX

    peft = PeftNames(
        "PREFIX_TUNING",
        fields={"virtual_tokens": "num_virtual_tokens"},
        tensors={},
        constants={"prefix_projection": False},
        training_only=frozenset({"encoder_hidden_size"}),
        bare=True,
        converted=True,
    )

    virtual_tokens: int = Field(20, ge=1, validation_alias=AliasChoices("virtual_tokens", "num_virtual_tokens"))
    """Length of the prefix."""
    init: Literal["vocabulary", "text", "random"] = "vocabulary"
    """Start from the keys and values of tokens drawn at random, of those of `text` (Li & Liang, section 7.4), or from
    normal noise."""
    text: str = ""
    """The text to start from, repeated or cut to `virtual_tokens` tokens."""
    hidden: int = Field(0, ge=0, validation_alias=AliasChoices("hidden", "encoder_hidden_size"))
    """Width of the network that writes the prefix while it is trained; 0 trains keys and values themselves."""

    @model_validator(mode="after")
    def _start(self) -> "PrefixTuning":
        if (self.init == "text") != bool(self.text):
            raise ValueError("init='text' and a non-empty text belong together")
        if self.hidden and self.init != "random":
            raise ValueError("with a network (hidden > 0) the start is random: set init='random'")
        return self

    def prefix_ids(self, anatomy: Anatomy) -> tuple[int, ...]:
        return virtual_ids(anatomy, self.virtual_tokens)

    def deltas(self, anatomy: Anatomy) -> Mapping[str, Delta]:
        virtual = VirtualIds(anatomy.vocab_size)
        network = Network(self.virtual_tokens, anatomy.d_model, self.hidden) if self.hidden else None
        rows = {
            site.name: LearnedRows(self.virtual_tokens, site.d_out, virtual, network) for site in _keys_values(anatomy)
        }
        return {anatomy.embedding.name: virtual, **rows}

    def peft_fields(self, anatomy: Anatomy, targets: Sequence[str]) -> dict[str, object]:
        n_heads = anatomy.n_key_value_heads
        return {**prompt_sizes(anatomy), "token_dim": anatomy.keys[0].d_out, "num_attention_heads": n_heads}

    @classmethod
    def from_peft_fields(
        cls, config: Mapping[str, object], tensors: Mapping[str, Tensor], anatomy: Anatomy
    ) -> dict[str, object]:
        return {"init": "random"}

    @torch.no_grad()
    def to_peft_tensors(self, model: PreTrainedModel, anatomy: Anatomy) -> dict[str, Tensor]:
        """peft keeps what the cache holds, rotated keys and values: (tokens, layers · 2 · key-value heads · d_head)."""
        rows = [tensor.transpose(1, 2) for layer in self._cached(model, anatomy) for tensor in layer]
        return {"prompt_embeddings": torch.cat([row[0].flatten(1) for row in rows], dim=1).contiguous()}

    @torch.no_grad()
    def from_peft_tensors(
        self, tensors: Mapping[str, Tensor], model: PreTrainedModel, anatomy: Anatomy
    ) -> dict[str, Tensor]:
        """Turns peft's keys back, by the rotation that the base's own cache shows for each unit vector."""
        n_heads, rows = anatomy.n_key_value_heads, tensors["prompt_embeddings"]
        peft = rows.view(len(rows), anatomy.n_layers, 2, n_heads, -1).to(model.device, torch.float64)
        tuned, rotated = attach(model, self, warm_start=False), []
        for unit in torch.eye(peft.shape[-1]):
            for site in anatomy.keys:
                tuned.trainable[f"delta.{site.name}.values"].copy_(unit.repeat(len(rows), n_heads))
            rotated.append(torch.stack([keys[0, 0] for keys, _ in self._cached(model, anatomy)]))
        tuned.detach()
        rotation = torch.stack(rotated, dim=2).to(torch.float64)  # (layers, tokens, d_head before, d_head behind)
        keys = torch.linalg.solve(rotation, peft[:, :, 0].transpose(0, 1), left=False)
        found = dict(zip(anatomy.keys, keys, strict=True))
        found |= dict(zip(anatomy.find(["v"]), peft[:, :, 1].transpose(0, 1), strict=True))
        return {f"delta.{site.name}.values": values.flatten(1).to(rows) for site, values in found.items()}

    def _cached(self, model: PreTrainedModel, anatomy: Anatomy) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of the virtual tokens, (1, key-value heads, tokens, d_head), layer by layer."""
        cache = model(torch.tensor([self.prefix_ids(anatomy)], device=model.device), use_cache=True).past_key_values
        return [(layer.keys, layer.values) for layer in cache.layers]

    @torch.no_grad()
    def warm_start(self, start: Start, deltas: Mapping[str, Delta]) -> None:
        trained = {name: delta.values for name, delta in deltas.items() if isinstance(delta, LearnedRows)}
        if self.hidden:
            return
        if self.init == "random":
            for values in trained.values():
                nn.init.normal_(values, std=0.02)
            return
        ids = starting_ids(self.virtual_tokens, self.text, start.anatomy.vocab_size, start.tokenizer)
        with _recorded(start.model, _keys_values(start.anatomy)) as outputs:
            start.model(ids[None].to(start.model.device), use_cache=False)
        for name, values in trained.items():
            values.copy_(outputs[name][0].flatten(1))


def _keys_values(anatomy: Anatomy) -> list[Site]:
    return [*anatomy.keys, *anatomy.find(["v"])]


@contextmanager
def _recorded(model: PreTrainedModel, sites: list[Site]) -> Iterator[dict[str, Tensor]]:
    """The outputs of sites, (batch, length, ...), by name, as the model runs inside the block."""
    outputs: dict[str, Tensor] = {}

    def keep(site: Site) -> torch.utils.hooks.RemovableHandle:
        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            outputs[site.name] = site.read(output)

        return model.get_submodule(site.module).register_forward_hook(hook)

    hooks = [keep(site) for site in sites]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()
