"""What a measured step says of a plan: how far memory and time were off, by which every other figure is corrected."""

from dataclasses import dataclass, replace
from typing import Any

from tunewise.planning.process import FIXED_BYTES
from tunewise.planning.work import Memory

TERMS = ("activations", "logits", "workspace", "process")
"""What comes and goes with a batch. The others are known to the byte."""


def in_warm_process(memory: Memory) -> Memory:
    """Without what the first step of a process brings in, which was there before a step that is measured."""
    return replace(memory, process=max(0, memory.process - FIXED_BYTES))


@dataclass(frozen=True)
class Correction:
    """One step that was carried out, beside what was planned for it."""

    label: str
    """The method that was measured."""
    planned: Memory
    """`in_warm_process`."""
    bytes: int | None
    """At the peak of the measured step; None where this system does not tell."""
    planned_seconds: float
    seconds: float
    n_steps: int
    """Of which `seconds` is the median."""

    @property
    def of_batch(self) -> float:
        """Measured over planned, of TERMS."""
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
        warm = in_warm_process(memory)
        found = {term: round(self.of_batch * getattr(warm, term)) for term in TERMS}
        return replace(memory, **{**found, "process": found["process"] + memory.process - warm.process})

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
