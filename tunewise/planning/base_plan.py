"""The plan of one base on one device: a line a method, and what was counted with."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tunewise.planning.correction import Correction
from tunewise.planning.devices import Device
from tunewise.planning.method_plan import MethodPlan, Steps


@dataclass(frozen=True)
class Plan:
    """What each method would take."""

    model: str
    n_base: int
    n_active: int
    """Parameters that one token meets; all of them, but where it is sent to a few of many experts."""
    device: Device
    steps: Steps
    n_rows: int
    """Rows that are trained on in all, epochs counted."""
    told: str
    """What was counted with, in words."""
    price: float | None
    """Of an hour on the device."""
    methods: tuple[MethodPlan, ...]
    refused: Mapping[str, str]
    """Methods that do not act on this base, and why."""
    correction: Correction | None = None
    """The step that was measured, by which memory and time of all methods are corrected."""

    def seconds(self, of: MethodPlan) -> float | None:
        """Of training on all rows."""
        if of.row_seconds is None or of.once_seconds is None:
            return None
        return of.once_seconds + of.row_seconds * self.n_rows

    def cost(self, of: MethodPlan) -> float | None:
        seconds = self.seconds(of)
        return None if seconds is None or self.price is None else seconds / 3600 * self.price

    def as_data(self) -> dict[str, Any]:
        """All of it as plain data, bytes and seconds."""
        worst = self.steps.worst
        work = {
            **asdict(worst),
            "dtype": str(worst.dtype).removeprefix("torch."),
            "mean_tokens": self.steps.mean.tokens,
            "accumulation": self.steps.accumulation,
        }
        device = {"name": self.device.name, "type": self.device.type, "memory_bytes": self.device.memory_bytes}
        return {
            "model": self.model,
            "n_base": self.n_base,
            "n_active": self.n_active,
            "device": device,
            "work": work,
            "n_rows": self.n_rows,
            "told": self.told,
            "price": self.price,
            "methods": [self._line(each) for each in self.methods],
            "refused": dict(self.refused),
            "measured": None if self.correction is None else self.correction.as_data(),
        }

    def _line(self, of: MethodPlan) -> dict[str, Any]:
        return {
            "label": of.label,
            "method": of.method.configuration(),
            "n_trainable": of.counted.n_trainable,
            "n_base": of.counted.n_base,
            "share": of.counted.share,
            "adapter_bytes": of.counted.adapter_bytes,
            "memory": {**asdict(of.memory), "total": of.memory.total},
            "fits": of.fits,
            "trunk": {"cached": of.trunk_plan.is_cached, **asdict(of.trunk_plan)},
            "row_seconds": of.row_seconds,
            "once_seconds": of.once_seconds,
            "seconds": self.seconds(of),
            "cost": self.cost(of),
            "largest_batch": of.largest_rows,
            "largest_tokens": of.largest_tokens,
            "alternatives": [
                {
                    "typed": list(each.typed),
                    "method": each.method.configuration(),
                    "memory_bytes": each.memory.total,
                    "time": each.time,
                    "gives_up": each.gives_up,
                }
                for each in of.alternatives
            ],
        }
