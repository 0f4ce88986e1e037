"""The rehearsals of one base for one device, each made once: fits and alternatives ask for many of the same."""

from dataclasses import dataclass, field

from tunewise.methods.base import Method
from tunewise.planning.devices import Device
from tunewise.planning.rehearsal import Rehearsed, rehearse
from tunewise.planning.seconds import step_seconds
from tunewise.planning.shell import Shell
from tunewise.planning.work import Work


@dataclass(frozen=True)
class Rehearsals:
    """What is known of a shell on a device."""

    shell: Shell
    device: Device
    _known: dict[tuple[str, Work], Rehearsed] = field(default_factory=dict)

    def of(self, method: Method, work: Work) -> Rehearsed:
        """One step of this work; UserError where the method does not act on such a base."""
        key = str(method.configuration()), work
        if key not in self._known:
            self._known[key] = rehearse(self.shell, method, work, self.device.type)
        return self._known[key]

    def bytes_of(self, method: Method, work: Work) -> int:
        return self.of(method, work).memory.total

    def fits(self, method: Method, work: Work) -> bool:
        return self.bytes_of(method, work) <= self.device.memory_bytes

    def row_seconds(self, method: Method, work: Work) -> float | None:
        """Seconds of a step over its rows; None where the device's speed is not known."""
        seconds = step_seconds(self.of(method, work), self.device)
        return None if seconds is None else seconds / work.rows
