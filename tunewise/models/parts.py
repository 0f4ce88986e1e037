"""Named tensors in parts, a layer each: for what is done with many of them and need not be done at once."""

import re
from collections.abc import Iterable
from itertools import groupby

from torch import Tensor

_LAYER = re.compile(r".*?\.\d+\.")


def layer_by_layer(names: Iterable[str]) -> list[list[str]]:
    """The names in their order: those that follow one another and agree up to their first number in one part, and each
    without a number in one of its own."""
    return [list(part) for _, part in groupby(names, _layer_of)]


def _layer_of(name: str) -> str:
    found = _LAYER.match(name)
    return name if found is None else found[0]


def is_matrix_of_a_layer(name: str, tensor: Tensor) -> bool:
    """Whether this is a matrix, and one inside a layer: no embedding and no head."""
    return tensor.ndim == 2 and _LAYER.match(name) is not None
