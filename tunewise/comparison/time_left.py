"""How long a comparison will go on, from the runs that have ended and the steps of those under way.

A run of an arm that has been seen takes what that arm took, by the rows it reads; one of another arm takes what all
runs took so far, by the rows they read; before the first has ended, the steps of those under way tell. Runs that were
done before count as done, and their speed for nothing: another machine may have carried them out.
"""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tunewise.comparison.following import Planned


@dataclass
class _UnderWay:
    """Runs of one batch: since when, which share of their training was done then, and is done by now."""

    numbers: tuple[int, ...]
    start: float
    first: float = 0.0
    share: float = 0.0
    at: float = field(init=False)
    """When `share` was told."""

    def __post_init__(self) -> None:
        self.at = self.start


class TimeLeft:
    """Told what happens in a comparison, it knows the seconds that are left. Threads may share it."""

    def __init__(self, runs: Sequence[Planned], n_workers: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._runs, self._n_workers, self._clock = runs, n_workers, clock
        self._left = {number for number, run in enumerate(runs) if not run.done}
        self._under_way: dict[tuple[int, ...], _UnderWay] = {}
        self._seconds: defaultdict[str, float] = defaultdict(float)  # by arm, of runs that have ended
        self._work: defaultdict[str, float] = defaultdict(float)
        self._lock = threading.Lock()

    def begins(self, numbers: Sequence[int]) -> None:
        """These runs begin, in one batch."""
        with self._lock:
            self._under_way[tuple(numbers)] = _UnderWay(tuple(numbers), self._clock())

    def trained(self, numbers: Sequence[int], share: float, *, first: bool = False) -> None:
        """Of the training of these runs so much is done: `first`, when it begins, after a resume above 0."""
        with self._lock:
            found = self._under_way.get(tuple(numbers))
            if found is None:
                return
            found.share, found.at = share, self._clock()
            if first:
                found.first = share

    def puts_off(self, numbers: Sequence[int]) -> None:
        """These runs did not begin after all."""
        with self._lock:
            self._under_way.pop(tuple(numbers), None)

    def ends(self, number: int, seconds: float | None) -> None:
        """A run has ended; `seconds` is what it took alone or of its batch, None where that tells nothing."""
        with self._lock:
            run, first = self._runs[number], 0.0
            for group in [each for each in self._under_way.values() if number in each.numbers]:
                first = group.first
                rest = tuple(each for each in group.numbers if each != number)
                del self._under_way[group.numbers]
                if rest:
                    group.numbers = rest
                    self._under_way[rest] = group
            self._left.discard(number)
            if seconds is not None and not run.done:
                self._seconds[run.arm] += seconds
                self._work[run.arm] += run.work - first * run.training

    def seconds(self) -> float | None:
        """Until the last run has ended; None while nothing is known, 0 when all have."""
        with self._lock:
            if not self._left:
                return 0.0
            speed = self._speed()
            if speed is None:
                return None
            begun = {number for group in self._under_way.values() for number in group.numbers}
            waiting = [self._cost(number, speed) * self._runs[number].work for number in self._left - begun]
            running = [self._of_group(group, speed) for group in self._under_way.values()]
            n_at_once = min(self._n_workers, len(waiting) + len(running))
            return max([*running, *waiting, (sum(waiting) + sum(running)) / n_at_once])

    def _speed(self) -> float | None:
        """Seconds a row, over all that has been seen."""
        seconds, work = sum(self._seconds.values()), sum(self._work.values())
        if not work:
            groups = [group for group in self._under_way.values() if self._read(group)]
            seconds = sum(group.at - group.start for group in groups)
            work = sum(self._read(group) for group in groups)
        return seconds / work if work else None

    def _cost(self, number: int, otherwise: float) -> float:
        """Seconds a row of this run: what its arm took, where it has been seen."""
        arm = self._runs[number].arm
        return self._seconds[arm] / self._work[arm] if self._work.get(arm) else otherwise

    def _read(self, group: _UnderWay) -> float:
        """What a group has read in this process."""
        return (group.share - group.first) * sum(self._runs[number].training for number in group.numbers)

    def _of_group(self, group: _UnderWay, speed: float) -> float:
        """Seconds until these runs have ended, less what went by since they last told."""
        read = self._read(group)
        own = (group.at - group.start) / read if read else speed
        left = 0.0
        for number in group.numbers:
            run = self._runs[number]
            left += self._cost(number, own) * ((1 - group.share) * run.training + run.evaluation)
        return max(0.0, left - (self._clock() - group.at))
