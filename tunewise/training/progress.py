"""What a person sees of a training run: a live bar on a terminal, one line an evaluation elsewhere."""

import sys
import time
from collections.abc import Mapping
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

RECENT = 0.1
"""What the last step counts in an average over recent ones."""
MOST_SOURCES = 6
"""That are shown with their losses."""


class Watcher(Protocol):
    """Whoever wants to follow `fit`; every call is cheap and returns at once."""

    def started(self, name: str, first_step: int, n_steps: int) -> None:
        """Training of `name` begins at `first_step` (above 0 after a resume)."""

    def stepped(self, step: int, loss: float, n_tokens: int) -> None:
        """Optimiser step `step` (from 1) is done."""

    def told_by_source(self, losses: Mapping[str, float]) -> None:
        """Of rows of several sources: the loss, at the step just told, of each that was among them."""

    def evaluated(self, step: int, score: float, is_best: bool) -> None:
        """The dev score after `step` is known."""

    def finished(self) -> None:
        """Nothing more comes, whether training ended or failed."""


class Silent:
    """Follows nothing."""

    def started(self, name: str, first_step: int, n_steps: int) -> None:
        pass

    def stepped(self, step: int, loss: float, n_tokens: int) -> None:
        pass

    def told_by_source(self, losses: Mapping[str, float]) -> None:
        pass

    def evaluated(self, step: int, score: float, is_best: bool) -> None:
        pass

    def finished(self) -> None:
        pass


class BySource:
    """The losses of several sources, each averaged over the last steps it was part of, in words."""

    def __init__(self) -> None:
        self._means: dict[str, float] = {}

    def add(self, losses: Mapping[str, float]) -> None:
        for name, loss in losses.items():
            self._means[name] = RECENT * loss + (1 - RECENT) * self._means.get(name, loss)

    def __str__(self) -> str:
        shown = "".join(f"  {name} {loss:.3f}" for name, loss in list(self._means.items())[:MOST_SOURCES])
        return shown + (f"  and {len(self._means) - MOST_SOURCES} more" if len(self._means) > MOST_SOURCES else "")


class Lines:
    """One line an evaluation, for logs and pipes."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._name, self._n_steps, self._loss, self._n_tokens, self._start = "", 0, 0.0, 0, 0.0
        self._by_source = BySource()

    def started(self, name: str, first_step: int, n_steps: int) -> None:
        self._name, self._n_steps, self._n_tokens, self._start = name, n_steps, 0, time.perf_counter()
        self._by_source = BySource()
        if first_step:
            self._stream.write(f"{name}  goes on behind step {first_step} of {n_steps}\n")

    def stepped(self, step: int, loss: float, n_tokens: int) -> None:
        self._loss = loss
        self._n_tokens += n_tokens

    def told_by_source(self, losses: Mapping[str, float]) -> None:
        self._by_source.add(losses)

    def evaluated(self, step: int, score: float, is_best: bool) -> None:
        rate = self._n_tokens / max(1e-9, time.perf_counter() - self._start)
        mark = "  (best)" if is_best else ""
        done = f"{self._name}  step {step}/{self._n_steps}"
        told = f"loss {self._loss:.4f}{self._by_source}"
        self._stream.write(f"{done}  {told}  dev {score:.4f}{mark}  {rate:,.0f} tokens/s\n")
        self._stream.flush()

    def finished(self) -> None:
        pass


class AsOne:
    """Lets `watcher` follow several runs as if they were one; it is the watcher of each of them."""

    def __init__(self, watcher: Watcher, n_runs: int) -> None:
        self._watcher, self._n_runs = watcher, n_runs
        self._names: list[str] = []
        self._step, self._n_steps, self._n_finished = 0, 0, 0

    def started(self, name: str, first_step: int, n_steps: int) -> None:
        self._names.append(name)
        self._step += first_step
        self._n_steps += n_steps
        if len(self._names) == self._n_runs:
            self._watcher.started(" + ".join(dict.fromkeys(self._names)), self._step, self._n_steps)

    def stepped(self, step: int, loss: float, n_tokens: int) -> None:
        self._step += 1
        self._watcher.stepped(self._step, loss, n_tokens)

    def told_by_source(self, losses: Mapping[str, float]) -> None:
        """Not passed on: several runs at once would be told as one."""

    def evaluated(self, step: int, score: float, is_best: bool) -> None:
        self._watcher.evaluated(self._step, score, is_best)

    def finished(self) -> None:
        self._n_finished += 1
        if self._n_finished == self._n_runs:
            self._watcher.finished()


class Bar:
    """A live line with loss, tokens per second and the time left."""

    def __init__(self, console: Console) -> None:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn(
                "loss {task.fields[loss]:.4f}{task.fields[by_source]}  dev {task.fields[dev]}  "
                "{task.fields[rate]:,.0f} tokens/s"
            ),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=console, transient=True)
        self._by_source = BySource()
        self._task = self._progress.add_task("", total=1, loss=0.0, dev="–", rate=0.0, by_source=self._by_source)
        self._n_tokens, self._start = 0, 0.0

    def started(self, name: str, first_step: int, n_steps: int) -> None:
        self._n_tokens, self._start = 0, time.perf_counter()
        self._by_source = BySource()
        self._progress.reset(self._task, total=n_steps, completed=first_step, description=name)
        self._progress.update(self._task, by_source=self._by_source)
        self._progress.start()

    def stepped(self, step: int, loss: float, n_tokens: int) -> None:
        self._n_tokens += n_tokens
        rate = self._n_tokens / max(1e-9, time.perf_counter() - self._start)
        self._progress.update(self._task, completed=step, loss=loss, rate=rate)

    def told_by_source(self, losses: Mapping[str, float]) -> None:
        self._by_source.add(losses)

    def evaluated(self, step: int, score: float, is_best: bool) -> None:
        self._progress.update(self._task, dev=f"{score:.4f}{' (best)' if is_best else ''}")

    def finished(self) -> None:
        self._progress.stop()


def watcher_for(stream: TextIO | None = None) -> Watcher:
    """The display that suits `stream` (standard error): a bar on a terminal, lines elsewhere."""
    stream = stream or sys.stderr
    return Bar(Console(file=stream)) if stream.isatty() else Lines(stream)
