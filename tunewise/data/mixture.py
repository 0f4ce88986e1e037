"""A mixture: several tasks that are trained on together, while each is asked and scored as itself."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Literal, overload

from tunewise.data.config import DataConfig, MixtureConfig
from tunewise.data.examples import Example, Ledger, Note
from tunewise.data.splits import few_shot, text_key
from tunewise.data.template import Template
from tunewise.directions import LOWER_IS_BETTER
from tunewise.errors import UserError

if TYPE_CHECKING:
    from tunewise.data.chat_template import ChatTemplate
    from tunewise.data.task import Task

MIXTURE: Literal["mixture"] = "mixture"
"""The kind of a mixture."""
MACRO_AVERAGE = "macro_average"
"""The metric that decides: the mean over the sources of the first metric of each, of those of which more is better."""


@dataclass(frozen=True)
class Mixture:
    """The sources of a mixture, by name, and how often each is drawn."""

    config: MixtureConfig
    sources: Mapping[str, Task]

    def examples(self, part: Literal["train", "dev", "test"]) -> Sequence[Example]:
        """Those of all sources behind one another, each with the name of its source."""
        return _Named({name: getattr(source, part) for name, source in self.sources.items()})


class _Named(Sequence[Example]):
    """Examples of several sources, which come to know their source when they are asked for: none is held twice."""

    def __init__(self, parts: Mapping[str, Sequence[Example]]) -> None:
        self._parts = list(parts.items())
        self._ends = list(accumulate(len(part) for part in parts.values()))

    def __len__(self) -> int:
        return self._ends[-1]

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Example, ...]: ...
    def __getitem__(self, index: int | slice) -> Example | tuple[Example, ...]:
        if isinstance(index, slice):
            return tuple(self[place] for place in range(*index.indices(len(self))))
        place = range(len(self))[index]
        number = bisect_right(self._ends, place)
        name, part = self._parts[number]
        return replace(part[place - self._ends[number] + len(part)], source=name)


def mixture_of(config: DataConfig, mixed: MixtureConfig, tasks: Mapping[str, Task]) -> Task:
    """These tasks (name -> task) as one. UserError where one has no training rows, and where nothing could decide.

    Its examples know their source; a row that stands in the test or dev part of one source and in train of another is a
    leak as any other.
    """
    empty = next((name for name, task in tasks.items() if not task.train), None)
    if empty is not None:
        raise UserError(
            f"the source {empty} has no training rows",
            "leave it out; a set that is to be asked alone is an out-of-domain set: out_of_domain.NAME=PATH",
        )
    mixture = Mixture(mixed, tasks)
    first = next(iter(tasks.values()))
    return replace(
        first,
        name=config.path,
        kind=MIXTURE,
        template=Template("", ""),
        labels=(),
        metrics=(_deciding(tasks),),
        source=config.path,
        positive="",
        asked=(),
        chat=_chat(tasks),
        train=mixture.examples("train"),
        dev=mixture.examples("dev"),
        test=mixture.examples("test"),
        ledger=_ledger(tasks),
        mixture=mixture,
    )


def few_of_each(task: Task, n: int, seed: int) -> Task:
    """The same mixture with only `n` training rows of each source, drawn as those of a task alone are."""
    assert task.mixture is not None
    sources = {
        name: replace(source, train=few_shot(source.train, n, seed)) for name, source in task.mixture.sources.items()
    }
    return replace(task, train=(mixture := replace(task.mixture, sources=sources)).examples("train"), mixture=mixture)


def _ledger(sources: Mapping[str, Task]) -> Ledger:
    ledgers = {name: task.ledger for name, task in sources.items()}
    return Ledger(
        rows=sum(each.rows for each in ledgers.values()),
        trained=sum(each.trained for each in ledgers.values()),
        rejected=tuple(
            replace(note, reason=f"{name}: {note.reason}") for name, each in ledgers.items() for note in each.rejected
        ),
        leaks=_leaks(sources),
        detected="\n".join(f"{name} = {each.detected}" for name, each in ledgers.items()),
    )


def _leaks(sources: Mapping[str, Task]) -> tuple[Note, ...]:
    """Held-out rows of any source that are training rows of any; each source has its own way to tell rows apart."""
    keys = {name: text_key([*task.train, *task.dev, *task.test]) for name, task in sources.items()}
    trained = {
        keys[name](example): f"train of {name}, line {example.line}"
        for name, task in reversed(list(sources.items()))
        for example in reversed(task.train)
    }
    return tuple(
        Note(example.line, f"this row of {part} of {name} is also in {trained[keys[name](example)]}")
        for part in ("dev", "test")
        for name, task in sources.items()
        for example in getattr(task, part)
        if keys[name](example) in trained
    )


def _chat(sources: Mapping[str, Task]) -> ChatTemplate | None:
    """The template of all conversations; None where there are none, or where sources write theirs by unlike ones."""
    written = [task.chat for task in sources.values() if task.chat]
    return written[0] if written and all(chat == written[0] for chat in written) else None


def _deciding(sources: Mapping[str, Task]) -> str:
    """The macro average; where less is better of the first metric of each, that metric, if it is the same for all."""
    firsts = {name: task.metrics[0] for name, task in sources.items()}
    if any(metric not in LOWER_IS_BETTER for metric in firsts.values()):
        return MACRO_AVERAGE
    if len(set(firsts.values())) > 1:
        told = ", ".join(f"{metric} of {name}" for name, metric in firsts.items())
        raise UserError(f"nothing can decide between states: {told} have no mean", "give the sources the same metrics")
    return next(iter(firsts.values()))
