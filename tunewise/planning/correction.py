"""What a measured step says of a plan: how far memory and time were off, by which every other figure is corrected."""

from dataclasses import dataclass, replace
from typing import Any

from tunewise.planning.work import Memory


@dataclass(frozen=True)
class Correction:
    """One step that was carried out, beside what was planned for it."""

    label: str
    """The method that was measured."""
    planned: Memory
    bytes: int | None
    """At the peak of the measured step; None where this system does not tell."""
    planned_seconds: float
    seconds: float
    n_steps: int
    """Of which `seconds` is the median."""

    @property
    def of_batch(self) -> float:
        """Measured over planned, of what comes and goes with a batch; weights, gradients and moments are counted out,
        which are known to the byte."""
        planned = self.planned.total - self.planned.fixed
        if self.bytes is None or planned <= 0:
            return 1.0
        return max(0.0, self.bytes - self.planned.fixed) / planned

    @property
    def of_seconds(self) -> float:
        """Measured over planned."""
        return self.seconds / self.planned_seconds

    def corrected(self, memory: Memory) -> Memory:
        """What is planned for another step, or another method, after this one was measured."""
        terms = ("activations", "logits", "cache", "workspace")
        return replace(memory, **{term: round(self.of_batch * getattr(memory, term)) for term in terms})

    def as_data(self) -> dict[str, Any]:
        """All of it as plain data, bytes and seconds."""
        return {
            "label": self.label,
            "planned_bytes": self.planned.total,
            "bytes": self.bytes,
            "planned_seconds": self.planned_seconds,
            "seconds": self.seconds,
            "n_steps": self.n_steps,
            "of_batch": self.of_batch,
            "of_seconds": self.of_seconds,
        }
