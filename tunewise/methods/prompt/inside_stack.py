"""A prefix inside a stack of layers: what enters the stack is lengthened, and what leaves its last layer cut again.

For where a sequence begins with something of its own: a classifier reads the first position of an encoder, a decoder
behind an encoder begins with its start token. So positions, masks and a decoder's cache count virtual tokens like any
others, and nobody outside the stack does.
"""

import inspect
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from tunewise.errors import UserError
from tunewise.methods.prompt.virtual_positions import VirtualColumns
from tunewise.models.anatomy import Anatomy

# What a stack is given, one column a token, and what stands there for a virtual one: never seen, but for the masks.
OWN = {"input_ids": 0, "inputs_embeds": 0, "token_type_ids": 0, "position_ids": 0}
OWN_MASK = {"attention_mask": 1}  # of the cached tokens too
OF_ENCODER = {"encoder_hidden_states": 0, "encoder_attention_mask": 1}


def stack_of(model: PreTrainedModel, layer: str) -> PreTrainedModel:
    """The innermost transformers model that holds this layer: it takes tokens and gives hidden states."""
    path = layer
    while not isinstance(module := model.get_submodule(path), PreTrainedModel):
        path = path.rpartition(".")[0]
    return module


def put_inside(
    model: PreTrainedModel,
    anatomy: Anatomy,
    layers: Sequence[int],
    own: VirtualColumns,
    of_encoder: VirtualColumns | None,
    is_on: Callable[[], bool],
) -> list[RemovableHandle]:
    """Hooks on the stack of these layers, and on the last of them, that act while `is_on()`.

    `own` stand before the stack's own sequence, `of_encoder` before the encoder's that it looks at.
    """
    stack, last = stack_of(model, anatomy.layers[layers[0]]), model.get_submodule(anatomy.layers[layers[-1]])
    names = list(inspect.signature(stack.forward).parameters)
    n_positions = model.config.to_dict().get("max_position_embeddings")  # learned ones; relative ones have no end
    filler = int(model.config.pad_token_id == 0)  # not padding: some models give that no position

    def enter(module: nn.Module, args: tuple, kwargs: dict[str, object]) -> tuple[tuple, dict[str, object]] | None:
        given = dict(zip(names, args, strict=False)) | kwargs
        ids, embedded, cache = (given.get(name) for name in ("input_ids", "inputs_embeds", "past_key_values"))
        if not is_on() or (ids is None) == (embedded is None):
            return None
        begins = cache is None or cache.get_seq_length() == 0
        sequence = embedded if ids is None else ids
        _refuse_too_long(sequence.shape[1], own.virtual_tokens, n_positions)
        own.stand_before(sequence, begins)
        _lengthen(given, OWN_MASK | ({**OWN, "input_ids": filler} if begins else {}), own.virtual_tokens)
        if of_encoder is not None:
            of_encoder.stand_before(given["encoder_hidden_states"])
            _lengthen(given, OF_ENCODER, of_encoder.virtual_tokens)
        return (), given

    def leave(module: nn.Module, args: tuple, output: Tensor | tuple) -> Tensor | tuple | None:
        if not is_on():
            return None
        if isinstance(output, tuple):
            return (output[0][:, own.n_present :], *output[1:])
        return output[:, own.n_present :]

    return [stack.register_forward_pre_hook(enter, with_kwargs=True), last.register_forward_hook(leave)]


def _refuse_too_long(length: int, virtual_tokens: int, n_positions: int | None) -> None:
    if n_positions is not None and length + virtual_tokens > n_positions:
        raise UserError(
            f"{length} tokens and a prefix of {virtual_tokens} do not fit the {n_positions} positions of this base",
            hint=f"cut sequences: tokenizer(..., truncation=True, max_length={n_positions - virtual_tokens})",
        )


def _lengthen(given: dict[str, object], values: dict[str, int], n: int) -> None:
    """Put n columns of these values before those of `given`, (batch, length, ...) each."""
    for name, value in values.items():
        tensor = given.get(name)
        if tensor is None:
            continue
        if not isinstance(tensor, Tensor) or tensor.dim() > (2 if name.endswith("mask") else 3):
            raise UserError(
                f"a prefix inside this model cannot lengthen its {name}, which has a row and a column for each token",
                hint="give masks of (batch, length), and leave generate's cache_implementation as it is",
            )
        given[name] = torch.cat([tensor.new_full((len(tensor), n, *tensor.shape[2:]), value), tensor], dim=1)
