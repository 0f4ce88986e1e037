"""Prefix tuning: attention over [P_k; K], [P_v; V], learned keys and values in every layer.

Li & Liang 2021, arXiv:2101.00190, section 4.2; without the network of section 4.3 it is P-tuning v2 (Liu et al. 2022,
arXiv:2110.07602).

The base makes room for the prefix by reading virtual tokens, and at their positions every layer's keys and values are
replaced by learned ones. A decoder's sequence begins with them, as with a soft prompt; encoders and encoder-decoders
have them inside their stacks, and nobody outside sees them. The keys are learned before their rotation.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Literal

import torch
from pydantic import AliasChoices, Field, model_validator
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from tunewise.methods.base import Delta, Start
from tunewise.methods.prompt.inside_stack import put_inside
from tunewise.methods.prompt.prefix_in_peft import PrefixInPeft
from tunewise.methods.prompt.prefix_rows import LearnedRows, Network, PrefixRows, keys_values, rows_of_one_table
from tunewise.methods.prompt.prefix_start import start_from_keys_values
from tunewise.methods.prompt.virtual_positions import VirtualColumns, VirtualIds
from tunewise.methods.prompt.virtual_tokens import NO_PREFIX, virtual_ids
from tunewise.models.anatomy import Anatomy
from tunewise.models.families import DECODER, ENCODER_DECODER


class PrefixTuning(PrefixInPeft):
    """`virtual_tokens` learned keys and values in front of every layer's own."""

    name = "prefix_tuning"
    family = "additive"
    trains = "keys and values of virtual tokens in every layer"
    paper = "arXiv:2101.00190"
    equation = "softmax(q [P_k; K]ᵀ) [P_v; V]"
    searched = {"virtual_tokens": (5, 50)}
    learning_rate = 5e-3
    learning_rate_source = "Liu et al. 2022 (P-tuning v2), arXiv:2110.07602, the authors' run_rte_roberta.sh (5e-3)"
    start = (
        "the keys and values of tokens drawn at random: Li & Liang 2021, section 7.4; unlike peft, which draws noise"
    )
    not_on = NO_PREFIX

    virtual_tokens: int = Field(20, ge=1, validation_alias=AliasChoices("virtual_tokens", "num_virtual_tokens"))
    """Length of the prefix. Default: Liu et al. 2022, appendix B, the most for easy classification (tagging: 100)."""
    init: Literal["vocabulary", "text", "random"] = "vocabulary"
    """Start from the keys and values of tokens drawn at random, of those of `text`, or from normal noise.
    Default: Li & Liang 2021, section 7.4, where real words do better than noise; unlike peft."""
    text: str = ""
    """The text to start from, repeated or cut to `virtual_tokens` tokens."""
    hidden: int = Field(0, ge=0, validation_alias=AliasChoices("hidden", "encoder_hidden_size"))
    """Width of the network that writes the prefix while it is trained; 0 trains keys and values themselves.
    Default: Liu et al. 2022, the authors' arguments.py; peft's."""
    placement: Literal["everywhere", "decoder"] = "everywhere"
    """In an encoder-decoder: in the attention of both stacks and in that over the encoder (Li & Liang), or in the
    decoder's to itself alone, which is what peft has. Default: Li & Liang 2021."""

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

    def virtual_positions(self, anatomy: Anatomy) -> int:
        return self.virtual_tokens

    def deltas(self, anatomy: Anatomy) -> Mapping[str, Delta]:
        if anatomy.kind == ENCODER_DECODER and self.placement == "decoder":
            return rows_of_one_table(self.virtual_tokens, anatomy)
        found: dict[str, Delta] = {}
        network = Network(self.virtual_tokens, anatomy.d_model, self.hidden) if self.hidden else None
        if anatomy.kind == DECODER:
            virtual = found[anatomy.embedding.name] = VirtualIds(anatomy.vocab_size)
            for site in keys_values(anatomy):
                found[site.name] = LearnedRows(self.virtual_tokens, site.d_out, virtual, network)
            return found
        for stack in anatomy.stacks:
            own, of_encoder = VirtualColumns(self.virtual_tokens), VirtualColumns(self.virtual_tokens)
            for site in anatomy.find(["k", "v"], stack):
                where = of_encoder if site.is_cross else own
                found[site.name] = LearnedRows(self.virtual_tokens, site.d_out, where, network)
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

    @torch.no_grad()
    def warm_start(self, start: Start, deltas: Mapping[str, Delta]) -> None:
        if self.hidden:
            return
        trained = {name: delta.written() for name, delta in deltas.items() if isinstance(delta, PrefixRows)}
        if self.init == "random":
            for values in trained.values():
                nn.init.normal_(values, std=0.02)
            return
        start_from_keys_values(trained, self.text, start)
