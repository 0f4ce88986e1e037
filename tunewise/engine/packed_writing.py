"""What an encoder-decoder reads and writes, rows behind one another: one row of prompts and one row of answers.

Legend: T tokens of all prompts with their prefixes, U of all answers, K labels, H heads, S segments: the rows, and one
of the padding that makes T and U multiples of ROUND, which may be empty.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate, chain
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tunewise.data.encode import Encoded
from tunewise.engine.batches import IGNORED, LabelledBatch
from tunewise.engine.decoder_inputs import decoder_inputs
from tunewise.engine.native.attention import Pattern, attend, why_no_kernel
from tunewise.engine.packing import ROUND, packed_attention, why_not_the_same
from tunewise.models.anatomy import Anatomy
from tunewise.models.replaced import replaced

Place = Literal["encoder", "decoder", "cross"]
BIAS = "compute_bias"
"""What transformers calls the method that makes a bias of (1, H, queries, keys) from their positions."""


@dataclass(frozen=True)
class PackedPairs(LabelledBatch):
    """Pairs in two rows: input_ids (1, T) and decoder_input_ids (1, U); labels (1, U), IGNORED on padding."""

    read: Tensor
    """(S + 1,) int32, the first token of each prompt, and T."""
    written: Tensor
    """(S + 1,) int32, the first token of each answer, and U."""
    rows: Tensor
    """(K,) the number of the row each label belongs to."""


def pack_pairs(
    rows: Sequence[Encoded], model: PreTrainedModel, pad_id: int, prefix_ids: Sequence[int] = ()
) -> PackedPairs:
    """One batch of these rows: each prompt behind `prefix_ids`, each answer behind the token it begins with."""
    entered = [decoder_inputs(model, torch.tensor([row.labels]))[0].tolist() for row in rows]
    input_ids, read = _one_row([(*prefix_ids, *row.ids) for row in rows], pad_id)
    decoder_input_ids, written = _one_row(entered, pad_id)
    labels, _ = _one_row([row.labels for row in rows], IGNORED)
    of_row = [number for number, row in enumerate(rows) for label in row.labels if label != IGNORED]
    return PackedPairs(
        {"input_ids": input_ids, "decoder_input_ids": decoder_input_ids},
        labels,
        int(written[-2]),
        int(read[-2] + written[-2]),
        [row.id for row in rows],
        read,
        written,
        torch.tensor(of_row),
    )


def _one_row(rows: Sequence[Sequence[int]], padding: int) -> tuple[Tensor, Tensor]:
    """(1, n) numbers behind one another, and (S + 1,) where each row begins."""
    starts = [0, *accumulate(map(len, rows))]
    n_padding = -starts[-1] % ROUND
    numbers = [*chain.from_iterable(rows), *[padding] * n_padding]
    return torch.tensor([numbers]), torch.tensor([*starts, len(numbers)], dtype=torch.int32)


def places(model: PreTrainedModel, anatomy: Anatomy) -> dict[nn.Module, Place]:
    """Where each attention module of an encoder-decoder stands, and each embedding that is told positions (bart's)."""
    found: dict[nn.Module, Place] = {}
    for site in anatomy.find(["k"]):
        module = model.get_submodule(site.module.rpartition(".")[0])
        place = "encoder" if site.layer in anatomy.stacks[0] else "decoder"
        found[module] = "cross" if site.is_cross else place
        stack = model.get_submodule(anatomy.layers[site.layer].rpartition(".")[0].rpartition(".")[0])
        found |= {child: place for child in stack.children() if _is_of_positions(child)}
    return found


def _is_of_positions(module: nn.Module) -> bool:
    return isinstance(module, nn.Embedding) and "position_ids" in inspect.signature(type(module).forward).parameters


def logits(model: PreTrainedModel, batch: PackedPairs, where: Mapping[nn.Module, Place]) -> Tensor:
    """What the model says at each token of the answers, (1, U, vocabulary); inside `packed_pairs` only."""
    with ExitStack() as stack:
        for module, place in where.items():
            if isinstance(module, nn.Embedding):
                tell = _telling(batch.read if place == "encoder" else batch.written)
                stack.callback(module.register_forward_pre_hook(tell, with_kwargs=True).remove)
        return model(**batch.inputs, use_cache=False, reader=_Segments(where, batch.read, batch.written)).logits


def _telling(starts: Tensor) -> Callable[..., tuple[tuple[Any, ...], dict[str, Any]]]:
    """A hook that has the positions of each segment begin at 0."""
    positions = torch.arange(int(starts[-1])) - starts[:-1].repeat_interleave(starts.diff())

    def tell(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return args, {**kwargs, "position_ids": positions}

    return tell


@contextmanager
def packed_pairs(model: PreTrainedModel, where: Mapping[nn.Module, Place]) -> Iterator[None]:
    """Inside the block `model` attends within the segments that `logits` tells it, on fused kernels.

    A bias by position (T5's) is handed from layer to layer as what it is at each distance, (1, H, 1, 2 T − 1).
    """
    with packed_attention(model), ExitStack() as stack:
        for module, place in where.items():
            if place == "cross":
                stack.callback(module.register_forward_pre_hook(_without_bias, with_kwargs=True).remove)
            elif _has_bias(module) and BIAS not in vars(module):  # the block may be entered inside itself
                own = vars(type(module))[BIAS].__get__(module)
                stack.enter_context(replaced(module, BIAS, _at_each_distance(own)))
        yield


def _has_bias(module: nn.Module) -> bool:
    """Whether it holds the table of the bias; other layers are handed theirs."""
    return BIAS in vars(type(module)) and any(isinstance(child, nn.Embedding) for child in module.children())


def _at_each_distance(compute_bias: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def computed(query_length: int, key_length: int, *_: object, **__: object) -> Tensor:
        ahead, behind = compute_bias(query_length, 1), compute_bias(1, key_length)
        return torch.cat([ahead.flip(2).transpose(2, 3), behind[..., 1:]], dim=3).float()

    return computed


def _without_bias(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """No zeros of (1, H, U, T) where there is no bias."""
    if "position_bias" in kwargs and kwargs["position_bias"] is None:
        return args, {**kwargs, "position_bias": torch.zeros(1, 1, 1, 1)}
    return None


@dataclass(frozen=True)
class _Segments:
    """What the attention modules ask for the segments that they keep apart."""

    where: Mapping[nn.Module, Place]
    read: Tensor
    written: Tensor

    def attend(
        self, module: nn.Module, q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, bias: Tensor | None = None
    ) -> Tensor:
        """What one attention module makes of q (T, H, D) and k, v (N, H, D), with a bias (1, H, 1, 2 T − 1)."""
        place = self.where[module]
        pattern = replace(pattern, is_causal=place == "decoder")
        if place == "cross":
            return attend(q, k, v, self.written, pattern, key_starts=self.read)
        starts = self.read if place == "encoder" else self.written
        if bias is None:
            return attend(q, k, v, starts, pattern)
        if bias.shape[2:] != (1, 2 * len(q) - 1):
            raise ValueError("its bias is not told by distance")
        longest = int(starts.diff().max())
        return attend(q, k, v, starts, pattern, bias=bias[0, :, 0, len(q) - longest : len(q) + longest - 1])


@torch.no_grad()
def why_not_pairs(model: PreTrainedModel, anatomy: Anatomy, prefix_ids: Sequence[int] = ()) -> str:
    """Why this encoder-decoder, with what is attached to it, cannot be run packed; "" where it can.

    Tried and not guessed: two pairs are run in one row, and the second has to come out as it does alone, and exactly as
    it does behind another first.
    """
    if reason := why_no_kernel(model.device, model.dtype):
        return reason
    generator = torch.Generator().manual_seed(0)
    n = min(64, model.get_input_embeddings().weight.shape[0])
    drawn = [tuple(torch.randint(n, (length,), generator=generator).tolist()) for length in (5, 3, 9, 4)]
    texts = [drawn[:2], drawn[2:], [drawn[0][::-1], drawn[1][::-1]]]
    rows = [Encoded("", read, written, len(read), truncated=False) for read, written in texts]
    where, was_training = places(model, anatomy), model.training
    model.eval()
    try:
        batches = [pack_pairs([rows[first], rows[1]], model, 0, prefix_ids) for first in (0, 2)]
        with packed_pairs(model, where):
            told = [logits(model, batch, where)[batch.labels != IGNORED] for batch in batches]
        packed, beside = (each[batch.rows == 1] for each, batch in zip(told, batches, strict=True))
        alone = _alone(model, pack_pairs(rows[1:2], model, 0, prefix_ids))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError) as error:
        return f"{type(model).__name__} does not run packed: {error}"
    finally:
        model.train(was_training)
    return why_not_the_same(model, "pairs", packed, beside, alone)


def _alone(model: PreTrainedModel, one: PackedPairs) -> Tensor:
    """(K, vocabulary) of the only pair of a batch, without its padding."""
    n_read, n_written = int(one.read[1]), int(one.written[1])
    inputs = one.inputs["input_ids"][:, :n_read], one.inputs["decoder_input_ids"][:, :n_written]
    return model(input_ids=inputs[0], decoder_input_ids=inputs[1], use_cache=False).logits[0]
