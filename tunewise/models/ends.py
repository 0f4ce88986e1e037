"""The input embedding and the output head of a base in int8, one scale a row of the vocabulary.

Codes and scales are those of LLM.int8()'s weights (Dettmers et al. 2022, arXiv:2208.07339, section 3.1: absolute maxima
of rows); what enters the head is not rounded. Tied ends stay one tensor. In plain torch, on any device.
"""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tunewise.errors import UserError
from tunewise.models.codes import EightBits, product_by_rows, rows_at_a_time, widened

MARK = "quantised_ends"
"""Of a config: its checkpoint is read with the ends packed. They lie there as plain weights, which everybody reads."""


class EightBitEnd(nn.Module):
    """A frozen weight (vocabulary, d) in int8, in the place of a plain one; the module is the one that it was."""

    kind: type[nn.Module]
    """What the module was."""
    dtype: torch.dtype
    """What it was in."""
    is_first: bool
    """Of the modules that have the weight in common: the one that a checkpoint stores it for."""
    weight: Tensor

    def codes(self) -> EightBits:
        """What it keeps in place of its weight."""
        return EightBits(self.weight.data, self.get_buffer("scales"))

    def constants(self) -> list[Tensor]:
        """What turns codes into weights; of ends that have a weight in common, once."""
        return [self.get_buffer("scales")] if self.is_first else []

    def _save_to_state_dict(self, destination: dict[str, Tensor], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        del destination[f"{prefix}weight"]
        if self.is_first:
            destination[f"{prefix}weight"] = weight_of(self)


class EightBitEmbedding(EightBitEnd, nn.Embedding):
    """An embedding whose rows are dequantised as they are looked up."""

    def forward(self, input: Tensor) -> Tensor:
        codes, ids = self.codes(), input.flatten()
        rows = widened(EightBits(codes.codes[ids], codes.scales[ids]), self.dtype)
        if self.kind is nn.Embedding:
            return rows.view(*input.shape, -1)
        acting = copy.copy(self)  # as the module that it was (Gemma's and BART's scale), with these rows alone
        acting.__class__, acting.padding_idx = self.kind, None
        acting._parameters = {"weight": nn.Parameter(rows, requires_grad=False)}
        return acting.forward(torch.arange(len(ids), device=ids.device).view(input.shape))


class EightBitHead(EightBitEnd, nn.Linear):
    """A head that multiplies by its dequantised rows, some at a time; its bias is as it was."""

    def forward(self, input: Tensor) -> Tensor:
        return product_by_rows(input, self.bias, self.codes(), lambda some: widened(some, self.dtype))


def quantised(weight: Tensor) -> EightBits:
    """`weight` (rows, d) in int8.

    The scale is the largest magnitude of a row, rounded so that a step of the codes has 17 bits: its products with
    codes are exact in float32, and weights that were packed before are packed to the same codes and scales again.
    """
    step = weight.detach().abs().amax(dim=1).float() * (1 / 127)
    step = step * 129 - (step * 129 - step)  # Veltkamp's splitting: the upper 17 of 24 bits
    divisors, n = step.clamp(min=torch.finfo(torch.float32).tiny).unsqueeze(1), rows_at_a_time(weight)
    codes = torch.empty_like(weight, dtype=torch.int8, requires_grad=False)
    for part, some, divisor in zip(codes.split(n), weight.detach().split(n), divisors.split(n), strict=True):
        part.copy_((some.float() / divisor).round_().clamp_(-127, 127))
    return EightBits(codes, step * 127)


@torch.no_grad()
def pack_ends(model: PreTrainedModel, dtype: torch.dtype, made: Callable[[Tensor], EightBits] = quantised) -> None:
    """Pack the embedding of `model` and its language model's head, which are in `dtype` by rights; its config says so.

    A classifier stays as it is. `made` makes codes of a weight. Raises UserError for a base without an embedding of
    tokens, and for one whose other parameters would not tell its precision.
    """
    found = (model.get_input_embeddings(), model.get_output_embeddings())
    weights = [module.weight for module in found if isinstance(module, nn.Embedding | nn.Linear)]
    ends = {id(weight) for weight in weights if weight.is_floating_point()}
    if not ends or not any(p.is_floating_point() and id(p) not in ends for p in model.parameters()):
        raise UserError(
            f"a {model.config.model_type} model has no embedding and head to keep in 8 bits", "quantise=nf4"
        )
    packed: dict[int, tuple[nn.Parameter, Tensor]] = {}
    for module in model.modules():
        weight = module._parameters.get("weight")
        if not isinstance(module, nn.Embedding | nn.Linear) or id(weight) not in ends:
            continue
        is_first = id(weight) not in packed
        if is_first:
            codes = made(weight)
            packed[id(weight)] = nn.Parameter(codes.codes, requires_grad=False), codes.scales
        kind = EightBitEmbedding if isinstance(module, nn.Embedding) else EightBitHead
        module.kind, module.dtype, module.is_first, module.__class__ = type(module), dtype, is_first, kind
        module.weight, scales = packed[id(weight)]
        module.register_buffer("scales", scales, persistent=False)
    setattr(model.config, MARK, "int8")


@torch.no_grad()
def unpack_ends(model: PreTrainedModel) -> None:
    """Put plain weights in place of packed ones again."""
    plain: dict[nn.Parameter, nn.Parameter] = {}  # by identity, as torch hashes
    for module in model.modules():
        if isinstance(module, EightBitEnd):
            codes = module.weight
            if codes not in plain:
                plain[codes] = nn.Parameter(weight_of(module), requires_grad=False)
            module.weight, module.__class__ = plain[codes], module.kind
            del module._buffers["scales"], module.kind, module.dtype, module.is_first
    delattr(model.config, MARK)


def weight_of(end: EightBitEnd) -> Tensor:
    """The weight (vocabulary, d) that an end acts with, a new tensor."""
    return widened(end.codes(), end.dtype)


def codes_of(end: EightBitEnd) -> EightBits:
    """What an end keeps in place of its weight."""
    return end.codes()


def scales_of(end: EightBitEnd) -> list[Tensor]:
    """What turns codes into weights."""
    return end.constants()


def keep_layout(end: EightBitEnd) -> None:
    """Nothing: it stays as it is."""


def pack(end: EightBitEnd, weight: Tensor) -> None:
    """UserError: where ends are tied it would be another embedding as well."""
    raise UserError("an embedding or a head in 8 bits is not packed anew", "leave out the role head, or quantise=nf4")
