"""The memory of a run, on a CPU measured once for all seeds of a recipe in this process.

What earlier runs have freed is none of a run's memory, so that it goes back to the kernel before a run is measured, and
has to be faulted in again: a tenth of the time of short runs.
"""

from collections.abc import Hashable, Mapping
from typing import Any

import torch

from tunewise.identity import digest_of_arm
from tunewise.models.load import Base
from tunewise.planning.left_out import MEMORY
from tunewise.run.recipe import Recipe

FIGURES = ("peak_bytes", "train_peak_bytes", "peak_measure", MEMORY)
_MEASURED: dict[Hashable, dict[str, Any]] = {}


class OfAllSeeds:
    """Of a recipe on a base."""

    def __init__(self, recipe: Recipe, base: Base) -> None:
        arm = digest_of_arm(recipe.model_dump(mode="json"))
        self._kind = arm, base.fingerprint, base.dtype, str(base.model.device), torch.get_num_threads()
        self._seed, self._is_free = recipe.seed, base.model.device.type != "cpu"  # a GPU counts what torch takes

    @property
    def is_measured(self) -> bool:
        return self._kind in _MEASURED

    def told(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """`metrics` with the figures of the seed that was measured: this one, unless it began at a checkpoint."""
        if self._is_free:
            return dict(metrics)
        if not self.is_measured and not metrics.get("resumed_from"):
            found = {name: metrics[name] for name in FIGURES}
            _MEASURED[self._kind] = found | {"peak_measure": f"{found['peak_measure']}, with seed {self._seed}"}
            return dict(metrics)
        return {**metrics, **_MEASURED.get(self._kind, {})}
