"""The rehearsals of one base for one device: few are made, and what other batches and lengths take follows from them.

What is alive in each part of a step, and what a step computes, goes with the rows r and their tokens t, virtual ones
among them, as c₀ + c₁ r t + c₂ r t². Two rehearsals tell how it goes with r, a third how with t; the peak is that of
the highest part.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch

from tunewise.methods.base import Method
from tunewise.models.anatomy import context_length
from tunewise.models.quantise import layout_of
from tunewise.planning.correction import Correction
from tunewise.planning.devices import Device
from tunewise.planning.recorder import Computed
from tunewise.planning.rehearsal import Rehearsed, rehearse
from tunewise.planning.seconds import step_seconds
from tunewise.planning.shell import Shell
from tunewise.planning.work import Memory, Work

MOST_ROWS = 8
"""That are rehearsed: where rows go one after another, each takes its time."""
LONGER = 4
"""So many times as long are the rows of the third rehearsal."""

Quantities = dict[object, float]


@dataclass(frozen=True)
class Rehearsals:
    """What is known of a shell on a device."""

    shell: Shell
    device: Device
    correction: Correction | None = None
    """What a measured step says of all others."""
    _surfaces: dict[tuple[str, Work], "Surface"] = field(default_factory=dict)
    _fixed: dict[tuple[str, str, str], int] = field(default_factory=dict)

    def of(self, method: Method, work: Work) -> Rehearsed:
        """One step of this work; UserError where the method does not act on such a base."""
        surface = self._surface(method, work)
        self._fixed.setdefault(_fixed_by(method, work), surface.first.memory.fixed)
        found = surface.at(work)
        return found if self.correction is None else replace(found, memory=self.correction.corrected(found.memory))

    def corrected(self, correction: Correction) -> "Rehearsals":
        """The same, with every figure corrected."""
        return replace(self, correction=correction)

    def bytes_of(self, method: Method, work: Work) -> int:
        return self.of(method, work).memory.total

    def fixed_of(self, method: Method, work: Work) -> int:
        """Bytes that are there without any row; neither length nor checkpointing changes them."""
        key = _fixed_by(method, work)
        if key not in self._fixed:
            self.of(method, work)
        return self._fixed[key]

    def fits(self, method: Method, work: Work) -> bool:
        limit = self.device.memory_bytes
        return (
            self.least(work) <= limit and self.fixed_of(method, work) <= limit and self.bytes_of(method, work) <= limit
        )

    def least(self, work: Work) -> int:
        """Bytes of the base's weights below which no method comes; of quantised ones as if all were so."""
        form = work.quantise
        bits = layout_of(self.shell.config, form).bits if form else 8 * work.dtype.itemsize
        return self.shell.n_parameters * bits // 8

    def row_seconds(self, method: Method, work: Work) -> float | None:
        """Seconds of a step over its rows; None where the device's speed is not known."""
        found = self.of(method, work)
        seconds, of_trunk = self._seconds(found), self._seconds(found.trunk_pass)
        if seconds is None or of_trunk is None:
            return None
        return (seconds + found.trunk_plan.missing * of_trunk) / work.rows

    def once_seconds(self, method: Method, work: Work) -> float | None:
        """Seconds of running all rows through a frozen trunk, as far as there is room to keep what leaves it."""
        found = self.of(method, work)
        seconds = self._seconds(found.trunk_pass)
        if seconds is None or work.seen is None:
            return seconds
        return seconds / work.rows * work.seen.rows * (1 - found.trunk_plan.missing)

    def _seconds(self, of: Rehearsed | Computed) -> float | None:
        seconds = step_seconds(of, self.device)
        return seconds if seconds is None or self.correction is None else seconds * self.correction.of_seconds

    def _surface(self, method: Method, work: Work) -> "Surface":
        key = str(method.configuration()), replace(work, rows=1, tokens=1, labels=1 if work.labels == 1 else 0)
        if key not in self._surfaces:
            first = replace(work, rows=min(work.rows, MOST_ROWS))
            self._surfaces[key] = Surface(self.shell, method, self.device.type, first)
        return self._surfaces[key]


def _fixed_by(method: Method, work: Work) -> tuple[str, str, str]:
    return str(method.configuration()), f"{work.quantise} {work.dtype}", work.optimiser


class Surface:
    """One method in works that differ in rows and tokens alone; what `nearby` asks for is rehearsed when it is."""

    def __init__(self, shell: Shell, method: Method, device_type: str, work: Work) -> None:
        self._shell, self._method, self._device_type, self._work = shell, method, device_type, work
        self._n_virtual = method.virtual_positions(shell.anatomy)
        self._made: dict[Work, Rehearsed] = {}
        self.first = self._rehearsed(work)

    def at(self, work: Work) -> Rehearsed:
        """A step of this work."""
        if work in self._made:
            return self._made[work]
        told = {key: max(0, round(value)) for key, value in self._followed(work).items()}
        peaks: dict[object, dict[str, int]] = {}
        for key, value in told.items():
            if isinstance(key, tuple) and key[0] == "peak":
                peaks.setdefault(key[1], {})[key[2]] = value
        highest = max(peaks.values(), key=lambda kinds: sum(kinds.values()))
        step, trunk_pass = _computed(told, "step"), _computed(told, "trunk")
        return replace(
            self.first,
            memory=Memory(**highest),
            flops=step.flops,
            bytes_moved=step.bytes_moved,
            n_operations=step.n_operations,
            peaks={},
            trunk_pass=trunk_pass,
        )

    def _followed(self, work: Work) -> Quantities:
        first, tokens = self._work, self._work.tokens + self._n_virtual
        rows = first.rows // 2 if first.rows > 1 else 2
        one, other = _quantities(self.first), _quantities(self._rehearsed(replace(first, rows=rows)))
        slopes = {key: (one[key] - other.get(key, one[key])) / (first.rows - rows) for key in one}
        at_zero = {key: one[key] - slopes[key] * first.rows for key in one}
        if work.tokens == first.tokens:
            return {key: at_zero[key] + slopes[key] * work.rows for key in one}
        third = self._longer()
        far = _quantities(self._rehearsed(third))
        longer, wanted = third.tokens + self._n_virtual, work.tokens + self._n_virtual
        followed = {}
        for key in one:
            a_token = slopes[key] / tokens
            bend = ((far.get(key, one[key]) - at_zero[key]) / third.rows / longer - a_token) / (longer - tokens)
            followed[key] = at_zero[key] + (a_token + bend * (wanted - tokens)) * wanted * work.rows
        return followed

    def _longer(self) -> Work:
        """Fewer rows that are longer, or shorter ones where the base reads no longer ones."""
        first = self._work
        longest = context_length(self._shell.config) or LONGER * first.tokens
        tokens = min(LONGER * first.tokens, longest)
        if tokens < 1.5 * first.tokens:
            tokens = max(1, first.tokens // 2)
        rows = max(1, first.rows * first.tokens // tokens)
        labels = 1 if first.labels == 1 else max(1, round(first.labels * tokens / first.tokens))
        return replace(first, rows=min(rows, MOST_ROWS), tokens=tokens, labels=labels)

    def _rehearsed(self, work: Work) -> Rehearsed:
        if work not in self._made:
            self._made[work] = rehearse(self._shell, self._method, work, self._device_type)
        return self._made[work]


def _quantities(found: Rehearsed) -> Quantities:
    """All numbers of a rehearsal by name."""
    peaks = {("peak", segment, kind): n for segment, kinds in found.peaks.items() for kind, n in kinds.items()}
    told: Quantities = dict(peaks)
    for name, of in (("step", found), ("trunk", found.trunk_pass)):
        told |= {(name, dtype): n for dtype, n in of.flops.items()}
        told |= {(name, "bytes"): of.bytes_moved, (name, "operations"): of.n_operations}
    return told


def _computed(told: Mapping[object, int], name: str) -> Computed:
    """What is told of the step, or of the pass through its trunk."""
    own = {key[1]: n for key, n in told.items() if isinstance(key, tuple) and key[0] == name}
    flops = {dtype: n for dtype, n in own.items() if isinstance(dtype, torch.dtype)}
    return Computed(flops, own["bytes"], own["operations"])
