"""One tuned object as several lanes, each at its own λ: they share its deltas."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from tunewise.methods.attach import Tuned


class Dialled(Tuned):
    """`tuned`, which is detached, at λ = `scale`: detached too, to be `beside` the base as a lane.

    Deltas are those of `tuned` itself. Of the base's tensors that it trains, each lane has θ₀ + λ·(θ − θ₀) as its own.
    """

    def __init__(self, tuned: Tuned, scale: float) -> None:
        vars(self).update(vars(tuned))
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
