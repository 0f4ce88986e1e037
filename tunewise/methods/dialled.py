"""One tuned object as several lanes, each at its own λ: they share its tensors."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from tunewise.methods.attach import Tuned
from tunewise.methods.base import Delta, WeightChange


class Dialled(Tuned):
    """`tuned`, which is detached, at λ = `scale`: detached too, to be `beside` the base as a lane.

    Its deltas have the tensors of `tuned`. Of the base's tensors that are trained, each lane has θ₀ + λ·(θ − θ₀) as its
    own.
    """

    def __init__(self, tuned: Tuned, scale: float) -> None:
        vars(self).update(vars(tuned))
        self.deltas = _with_their_tensors(tuned)
        self._dial = scale
        values = tuned.values()
        self._set_aside = {
            name: torch.lerp(self.original(name), values[f"base.{name}"], scale) for name in self.selected
        }

    @contextmanager
    def beside(self) -> Iterator[None]:
        with super().beside():
            self._scale = self._dial
            yield


def _with_their_tensors(tuned: Tuned) -> dict[str, Delta]:
    """Its deltas once more, with the very same tensors: some keep what they see of a forward for others, or for later.

    A change of weights sees nothing, and is the same object.
    """
    deltas = tuned.deltas.values()
    tensors = [each for delta in deltas for each in (*delta.parameters(), *delta.buffers())]
    same = (tuned.model, *tensors, *(delta for delta in deltas if isinstance(delta, WeightChange)))
    return copy.deepcopy(tuned.deltas, {id(each): each for each in same})
