"""One tuned object as several lanes, each at its own λ: they share its tensors."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from tunewise.methods.alike import alike
from tunewise.methods.attach import Tuned
from tunewise.methods.base import WeightChange


class Dialled(Tuned):
    """`tuned`, which is detached, at λ = `scale`: detached too, to be `beside` the base as a lane.

    Its deltas have the tensors of `tuned`. Of the base's tensors that are trained, each lane has θ₀ + λ·(θ − θ₀) as its
    own.
    """

    def __init__(self, tuned: Tuned, scale: float) -> None:
        vars(self).update(vars(tuned))
        # some keep what they see of a forward for others, or for later; a change of weights sees nothing
        unseeing = [delta for delta in tuned.deltas.values() if isinstance(delta, WeightChange)]
        self.deltas = alike(tuned.deltas, tuned.model, same=unseeing)
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
