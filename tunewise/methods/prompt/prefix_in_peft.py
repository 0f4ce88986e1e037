"""A prefix as peft keeps it: one table (tokens, layers · 2 · key-value heads · d_head) of what a cache holds.

A decoder's keys are rotated in it and learned here before their rotation. In an encoder-decoder the table is as deep as
the encoder and acts in the decoder's attention to itself alone.
"""

import inspect
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tunewise.errors import UserError
from tunewise.methods.base import Method, PeftNames
from tunewise.methods.prompt.inside_stack import stack_of
from tunewise.methods.prompt.prefix_in_cache import before_rotation, cached
from tunewise.methods.prompt.virtual_tokens import prompt_sizes
from tunewise.models.anatomy import Anatomy
from tunewise.models.families import DECODER, ENCODER_DECODER


class PrefixInPeft(Method):
    """What `PrefixTuning` says to peft, and what it takes from it."""

    peft = PeftNames(
        "PREFIX_TUNING",
        fields={"virtual_tokens": "num_virtual_tokens"},
        tensors={},
        constants={"prefix_projection": False},
        # what is saved is the prefix that the network wrote, with the network or without
        training_only=frozenset({"prefix_projection", "encoder_hidden_size"}),
        bare=True,
        converted=True,
    )

    virtual_tokens: int
    """Length of the prefix."""

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
        if anatomy.kind == DECODER:
            pairs = [tensor.transpose(1, 2) for layer in cached(self, model, anatomy) for tensor in layer]
            if pairs[0].shape[2] != anatomy.n_key_value_heads:
                return {}  # the cache holds a key for each query (falcon 40B), of which peft could learn each apart
            rows = torch.cat([pair[0].flatten(1) for pair in pairs], dim=1)
        elif anatomy.kind == ENCODER_DECODER:
            encoder, decoder = anatomy.stacks
            if "shared.values" not in state or len(decoder) > len(encoder):
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
            return before_rotation(self, rows, model, anatomy)
        if anatomy.kind == ENCODER_DECODER:
            return {"shared.values": rows}
        sites = anatomy.find(["k", "v"])
        shares = rows.chunk(len(sites), dim=1)
        return {f"delta.{site.name}.values": share.contiguous() for site, share in zip(sites, shares, strict=True)}
