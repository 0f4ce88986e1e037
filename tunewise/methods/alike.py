"""Deltas once more, with the very same tensors."""

import copy
from collections.abc import Iterable, Mapping

from torch import nn

from tunewise.methods.base import Delta


def alike(deltas: Mapping[str, Delta], model: nn.Module, same: Iterable[Delta] = ()) -> dict[str, Delta]:
    """`deltas` as objects of their own, but for those that are to stay the `same`. No tensor is copied: theirs are the
    tensors of `deltas`, and the modules that they act on are those of `model`.
    """
    tensors = [each for delta in deltas.values() for each in (*delta.parameters(), *delta.buffers())]
    return copy.deepcopy(dict(deltas), {id(each): each for each in (*model.modules(), *tensors, *same)})
