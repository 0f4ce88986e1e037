"""Prefix tuning: attention over [P_k; K], [P_v; V], learned keys and values in every layer.

Li & Liang 2021, arXiv:2101.00190, section 4.2; without the network of section 4.3 it is P-tuning v2 (Liu et al. 2022,
arXiv:2110.07602).

The base makes room for the prefix by reading virtual tokens, and at their positions every layer's keys and values are
replaced by learned ones. A decoder's sequence begins with them, as with a soft prompt; encoders and encoder-decoders
have them inside their stacks, and nobody outside sees them. The keys are learned before their rotation.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from pydantic import AliasChoices, Field, model_validator
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from tunewise.errors import UserError
from tunewise.methods.attach import attach
from tunewise.methods.base import Delta, Method, PeftNames, Start
from tunewise.methods.prompt.prefix_rows import LearnedRows, Network, PrefixRows, Table, TableRows
from tunewise.methods.prompt.prompt_tuning import NO_VOCABULARY, prompt_sizes, starting_ids, virtual_ids
from tunewise.methods.prompt.virtual_positions import VirtualColumns, VirtualIds, put_inside, stack_of
from tunewise.models.anatomy import Anatomy, Site
from tunewise.models.families import DECODER, ENCODER_DECODER, PROJECTS_POSITIONS

NO_PREFIX = {
    **NO_VOCABULARY,
    PROJECTS_POSITIONS: "its projection to keys runs over relative positions too, which have no virtual tokens",
}


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
    placement: Literal["everywhere", "decoder"] = "everywhere"
    """In an encoder-decoder: in the attention of both stacks and in that over the encoder (Li & Liang), or in the
    decoder's to itself alone, which is what peft has."""

    @model_validator(mode="after")
    def _start(self) -> "PrefixTuning":
        if (self.init == "text") != bool(self.text):
            raise ValueError("init='text' and a non-empty text belong together")
        if self.hidden and self.init != "random":
            raise ValueError("with a network (hidden > 0) the start is random: set init='random'")
        if self.hidden and self.placement == "decoder":
            raise ValueError("placement='decoder' trains keys and values themselves: set hidden=0")
        return self

    def prefix_ids(self, anatomy: Anatomy) -> tuple[int, ...]:
        return virtual_ids(anatomy, self.virtual_tokens) if anatomy.kind == DECODER else ()

    def deltas(self, anatomy: Anatomy) -> Mapping[str, Delta]:
        if anatomy.kind == ENCODER_DECODER and self.placement == "decoder":
            return self._before_the_decoder(anatomy)
        found: dict[str, Delta] = {}
        network = Network(self.virtual_tokens, anatomy.d_model, self.hidden) if self.hidden else None
        if anatomy.kind == DECODER:
            virtual = found[anatomy.embedding.name] = VirtualIds(anatomy.vocab_size)
            for site in _keys_values(anatomy):
                found[site.name] = LearnedRows(self.virtual_tokens, site.d_out, virtual, network)
            return found
        for stack in anatomy.stacks:
            own, of_encoder = VirtualColumns(self.virtual_tokens), VirtualColumns(self.virtual_tokens)
            for site in anatomy.find(["k", "v"], stack):
                where = of_encoder if site.is_cross else own
                found[site.name] = LearnedRows(self.virtual_tokens, site.d_out, where, network)
        return found

    def _before_the_decoder(self, anatomy: Anatomy) -> dict[str, Delta]:
        """As peft reads its table, of the encoder's depth L: layer l of the decoder has the rows of 2 l mod L."""
        encoder, decoder = anatomy.stacks
        sites = [site for site in anatomy.find(["k", "v"], decoder) if not site.is_cross]
        table = Table(self.virtual_tokens, len(encoder) * 2 * sites[0].d_out)
        own = VirtualColumns(self.virtual_tokens)
        found: dict[str, Delta] = {}
        for site in sites:
            layer = 2 * decoder.index(site.layer) % len(encoder)
            found[site.name] = TableRows(table, 2 * layer + (site.role == "v"), site.d_out, own)
        return found

    def hooks(
        self, model: PreTrainedModel, anatomy: Anatomy, deltas: Mapping[str, Delta], is_on: Callable[[], bool]
    ) -> Iterator[RemovableHandle]:
        for stack in anatomy.stacks:
            where: dict[bool, VirtualColumns] = {}
            for site in anatomy.find(["k", "v"], stack):
                delta = deltas.get(site.name)
                if isinstance(delta, PrefixRows) and isinstance(delta.virtual, VirtualColumns):
                    where[site.is_cross] = delta.virtual
            if where:
                yield from put_inside(model, anatomy, stack, where[False], where.get(True), is_on)

    def peft_fields(self, anatomy: Anatomy, targets: Sequence[str]) -> dict[str, object]:
        return {
            **prompt_sizes(anatomy),
            "token_dim": anatomy.keys[0].d_out,
            "num_attention_heads": anatomy.n_key_value_heads,
            "num_transformer_submodules": len(anatomy.stacks),  # 2: a cache of an encoder-decoder
        }

    @classmethod
    def from_peft_fields(
        cls, config: Mapping[str, object], tensors: Mapping[str, Tensor], anatomy: Anatomy
    ) -> dict[str, object]:
        stacks = config.get("num_transformer_submodules")
        if stacks not in (None, len(anatomy.stacks)):
            raise UserError(
                f"adapter_config.json sets num_transformer_submodules={stacks}, for a prefix of another kind of model",
                hint=f"train it with num_transformer_submodules={len(anatomy.stacks)}, peft's default here",
            )
        return {"init": "random", "placement": "decoder" if anatomy.kind == ENCODER_DECODER else "everywhere"}

    @torch.no_grad()
    def to_peft_tensors(
        self, state: Mapping[str, Tensor], model: PreTrainedModel, anatomy: Anatomy
    ) -> dict[str, Tensor]:
        """peft keeps what the cache holds, rotated keys and values: (tokens, layers · 2 · key-value heads · d_head)."""
        if anatomy.kind == DECODER:
            pairs = [tensor.transpose(1, 2) for layer in self._cached(model, anatomy) for tensor in layer]
            rows = torch.cat([pair[0].flatten(1) for pair in pairs], dim=1)
        elif anatomy.kind == ENCODER_DECODER:
            encoder, decoder = anatomy.stacks
            if self.placement != "decoder" or len(decoder) > len(encoder):
                return {}
            rows = state["shared.values"]
        else:  # peft puts it into a cache, which not every encoder takes
            if "past_key_values" not in inspect.signature(stack_of(model, anatomy.layers[0]).forward).parameters:
                return {}
            rows = torch.cat([state[f"delta.{site.name}.values"] for site in anatomy.find(["k", "v"])], dim=1)
        return {"prompt_embeddings": rows.contiguous()}

    @torch.no_grad()
    def from_peft_tensors(
        self, tensors: Mapping[str, Tensor], model: PreTrainedModel, anatomy: Anatomy
    ) -> dict[str, Tensor]:
        rows, width = tensors["prompt_embeddings"], len(anatomy.stacks[0]) * 2 * anatomy.keys[0].d_out
        if rows.shape != (self.virtual_tokens, width):
            raise UserError(
                f"prompt_embeddings has shape {tuple(rows.shape)}, this base needs {(self.virtual_tokens, width)}",
                hint="the adapter belongs to a base of another size",
            )
        if anatomy.kind == DECODER:
            return self._before_rotation(rows, model, anatomy)
        if anatomy.kind == ENCODER_DECODER:
            return {"shared.values": rows}
        sites = anatomy.find(["k", "v"])
        shares = rows.chunk(len(sites), dim=1)
        return {f"delta.{site.name}.values": share.contiguous() for site, share in zip(sites, shares, strict=True)}

    def _before_rotation(self, rows: Tensor, model: PreTrainedModel, anatomy: Anatomy) -> dict[str, Tensor]:
        """Turns peft's keys back, by the rotation that the base's own cache shows for each unit vector."""
        n_heads = anatomy.n_key_value_heads
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
        if self.hidden:
            return
        trained = {name: delta.written() for name, delta in deltas.items() if isinstance(delta, PrefixRows)}
        if self.init == "random":
            for values in trained.values():
                nn.init.normal_(values, std=0.02)
            return
        anatomy = start.anatomy
        ids = starting_ids(self.virtual_tokens, self.text, anatomy.vocab_size, start.tokenizer)
        entered = {"input_ids": ids[None].to(start.model.device)}
        if anatomy.kind == ENCODER_DECODER:
            entered["decoder_input_ids"] = entered["input_ids"]
        with _recorded(start.model, _keys_values(anatomy)) as outputs:
            start.model(**entered)
        for name, values in trained.items():
            values.copy_(outputs[name][0].flatten(1))


def _keys_values(anatomy: Anatomy) -> Sequence[Site]:
    """Where keys and values are final, but for the rotation of the keys; in a decoder over an encoder there are two."""
    return [*anatomy.keys, *anatomy.find(["v"])] if anatomy.kind == DECODER else anatomy.find(["k", "v"])


@contextmanager
def _recorded(model: PreTrainedModel, sites: Sequence[Site]) -> Iterator[dict[str, Tensor]]:
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
