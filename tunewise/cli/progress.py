"""What a person sees of many runs: how many are done, which are under way, and how long it will go on."""

import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from tunewise.comparison.following import Planned
from tunewise.comparison.outcome import Outcome, in_words, seconds_of
from tunewise.comparison.time_left import TimeLeft
from tunewise.report.words import duration
from tunewise.training.progress import Silent, Watcher

SECONDS_BETWEEN_LINES = 30.0  # that tell of a run under way, where nobody watches


class RunsProgress:
    """Follows a comparison. On a terminal a live bar for all runs, with the time left, and one for each batch under
    way; elsewhere a line when a run ends, and now and then one on those under way. Use it as a context manager."""

    def __init__(self, console: Console | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console or Console(file=sys.stderr, highlight=False, markup=False, emoji=False)
        self._clock = clock
        self._runs: Sequence[Planned] = ()
        self._left = TimeLeft((), 1, clock)
        self._ended: set[int] = set()
        self._under_way: dict[tuple[int, ...], _Batch] = {}
        self._last_line = clock()
        # other threads tell of runs in other processes. The display has a lock of its own, and asks for the time left
        # while it holds it: it must never need this one
        self._lock = threading.RLock()
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),  # an arm may be called anything
            BarColumn(bar_width=None),
            TextColumn("{task.fields[unit]} {task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[told]}", style="dim"),
            TimeElapsedColumn(),
            _LeftColumn(self.time_left),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._all: TaskID | None = None

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def time_left(self) -> str:
        """As in "about 3 min left"; "" while nothing is known, and at the end."""
        seconds = self._left.seconds()
        return f"about {duration(max(1.0, seconds))} left" if seconds else ""

    def planned(self, runs: Sequence[Planned], n_workers: int) -> None:
        """All runs of a stage, before the first begins; trials are a stage of their own at each rung."""
        with self._lock:
            self._runs, self._left = runs, TimeLeft(runs, n_workers, self._clock)
            self._ended.clear()
            if self._all is not None:
                self._bars.remove_task(self._all)
            self._all = self._bars.add_task("all runs", total=len(runs), unit="run", told="", left=True)

    def begins(self, numbers: Sequence[int]) -> Watcher:
        """These runs begin in one batch; who follows their steps."""
        with self._lock:
            if self._ended & set(numbers):  # told late, by another process: they are over
                return Silent()
            self._left.begins(numbers)
            more = f" + {len(numbers) - 1} more" if len(numbers) > 1 else ""
            label = f"{self._runs[numbers[0]].label}{more}"
            task = self._bars.add_task(label, total=1, unit="step", told="", left=False)
            batch = _Batch(self, tuple(numbers), label, task)
            self._under_way[batch.numbers] = batch
            return batch

    def puts_off(self, numbers: Sequence[int]) -> None:
        """These runs did not begin after all."""
        with self._lock:
            self._left.puts_off(numbers)
            self._remove(numbers)

    def ends(self, number: int, outcome: Outcome) -> None:
        """A run has ended, or was done before."""
        with self._lock:
            run = self._runs[number]
            self._ended.add(number)
            self._left.ends(number, seconds_of(outcome))
            self._remove([number])
            if self._all is not None:
                self._bars.update(self._all, completed=len(self._ended))
            told = f"{in_words(outcome)}{'  (done before)' if run.done else ''}"
            self._line(f"{self._count()}  {run.label:<24} {told}")

    def _remove(self, numbers: Sequence[int]) -> None:
        for key in [key for key in self._under_way if set(key) & set(numbers)]:
            self._bars.remove_task(self._under_way.pop(key).task)

    def _count(self) -> str:
        return f"{len(self._ended):>{len(str(len(self._runs)))}}/{len(self._runs)}"

    def _line(self, text: str) -> None:
        """With the time left, where no bar shows it."""
        left = "" if self._console.is_terminal else self.time_left()
        self._console.print(f"{text}  {left}".rstrip(), soft_wrap=True)
        self._last_line = self._clock()

    def trained(self, batch: "_Batch", told: str, *, first: bool = False) -> None:
        """What the watcher of a batch hears goes here."""
        with self._lock:
            if batch.numbers not in self._under_way:
                return
            self._left.trained(batch.numbers, batch.step / batch.n_steps, first=first)
            self._bars.update(batch.task, completed=batch.step, total=batch.n_steps, told=told)
            if not self._console.is_terminal and self._clock() - self._last_line >= SECONDS_BETWEEN_LINES:
                self._line(f"{self._count()}  {batch.label:<24} step {batch.step}/{batch.n_steps}  {told}")


class _Batch:
    """The watcher of the runs of one batch, which count as one."""

    def __init__(self, progress: RunsProgress, numbers: tuple[int, ...], label: str, task: TaskID) -> None:
        self._progress, self.numbers, self.label, self.task = progress, numbers, label, task
        self.step, self.n_steps = 0, 1

    def started(self, name: str, first_step: int, n_steps: int) -> None:
        self.step, self.n_steps = first_step, n_steps
        self._progress.trained(self, "", first=True)

    def stepped(self, step: int, loss: float, n_tokens: int) -> None:
        self.step = step
        self._progress.trained(self, f"loss {loss:.3f}")

    def told_by_source(self, losses: Mapping[str, float]) -> None:
        """Not shown: a line tells of several runs."""

    def evaluated(self, step: int, score: float, is_best: bool) -> None:
        self._progress.trained(self, f"dev {score:.1f}{' (best)' if is_best else ''}")

    def finished(self) -> None:
        """The training is over; evaluation and proofs follow."""
        self._progress.trained(self, "evaluation and proofs")


class _LeftColumn(ProgressColumn):
    """The time left for all runs, beside their bar alone."""

    def __init__(self, time_left: Callable[[], str]) -> None:
        super().__init__()
        self._time_left = time_left

    def render(self, task: Task) -> Text:
        return Text(self._time_left() if task.fields["left"] else "", style="cyan")
