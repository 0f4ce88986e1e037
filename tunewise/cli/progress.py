"""What a person sees of many runs: how many are done and which one is running; one line a run where no one watches."""

import sys
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class RunsProgress:
    """Follows a grid: `begins` and `ends` frame each run, and the training loop reports its steps in between.

    On a terminal two live bars; elsewhere a line when a run ends. Use it as a context manager.
    """

    def __init__(self, n_runs: int, console: Console | None = None) -> None:
        self._console = console or Console(file=sys.stderr, highlight=False)
        self._n_runs, self._n_done, self._label = n_runs, 0, ""
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[told]}", style="dim"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._all = self._bars.add_task("all runs", total=n_runs, told="")
        self._one = self._bars.add_task("", total=1, told="", visible=False)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def begins(self, label: str) -> None:
        """The run `label` starts."""
        self._label = label
        self._bars.reset(self._one, total=1, description=label, told="", visible=True)

    def ends(self, told: str) -> None:
        """The run that started last is done; `told` is its result in a few words."""
        self._n_done += 1
        self._bars.update(self._all, completed=self._n_done)
        width = len(str(self._n_runs))
        self._console.print(f"{self._n_done:>{width}}/{self._n_runs}  {self._label:<24} {told}")

    def started(self, name: str, first_step: int, n_steps: int) -> None:
        self._bars.reset(self._one, total=n_steps, completed=first_step, description=self._label or name, told="")

    def stepped(self, step: int, loss: float, n_tokens: int) -> None:
        self._bars.update(self._one, completed=step, told=f"loss {loss:.3f}")

    def evaluated(self, step: int, score: float, is_best: bool) -> None:
        self._bars.update(self._one, told=f"dev {score:.1f}{' (best)' if is_best else ''}")

    def finished(self) -> None:
        """The training of the current run is over; evaluation and proofs follow."""
        self._bars.update(self._one, told="evaluation and proofs")
