"""AdaLoRA in peft's files, which leave the triplets that were cut out."""

from collections.abc import Mapping

import torch
from torch import Tensor

from tunewise.errors import UserError
from tunewise.methods.base import PREFIX
from tunewise.methods.reparam.importance import PARTS

RANK_DIMS = (0, 0, 1)  # of the three parts, the dimension that counts triplets


def with_cut_triplets(config: Mapping[str, object], tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """peft's tensors with zeros for the triplets that were cut; it divides by the rank at the start too.

    Raises UserError where its configuration and its tensors disagree on which those are.
    """
    pattern, rank = config.get("rank_pattern") or {}, config.get("init_r")
    assert isinstance(pattern, Mapping)
    whole = dict(tensors)
    for key, is_kept in pattern.items():
        module = f"{PREFIX}{key.removesuffix('.lora_E')}"
        parts = [whole.get(f"{module}.{part}") for part in PARTS]
        counts = [None if part is None else part.shape[dim] for part, dim in zip(parts, RANK_DIMS, strict=True)]
        if len(is_kept) != rank or set(counts) != {sum(is_kept)}:
            raise UserError(
                f"rank_pattern keeps {sum(is_kept)} of {len(is_kept)} triplets at {key!r}; "
                f"init_r is {rank} and the file has {counts} of {', '.join(PARTS)}",
                hint="save it again with peft's save_pretrained()",
            )
        for name, part, dim in zip(PARTS, parts, RANK_DIMS, strict=True):
            assert part is not None
            whole[f"{module}.{name}"] = _spread(part, torch.tensor(is_kept, device=part.device), dim)
    return whole


def _spread(part: Tensor, is_kept: Tensor, dim: int) -> Tensor:
    """The rows (dim 0) or columns (dim 1) of `part` where `is_kept` says, and zeros elsewhere."""
    shape = list(part.shape)
    shape[dim] = len(is_kept)
    return part.new_zeros(shape).index_copy(dim, is_kept.nonzero().flatten(), part)
