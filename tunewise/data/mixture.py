"""A mixture: several tasks that are trained on together, while each is asked and scored as itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from tunewise.data.config import DataConfig, MixtureConfig
from tunewise.data.examples import Example, Ledger, Note
from tunewise.data.leaks import find_leaks_between
from tunewise.data.splits import few_shot
from tunewise.data.streamed import Named
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
        return Named({name: getattr(source, part) for name, source in self.sources.items()})


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
        ledger=replace(_ledger(tasks), leaks=_leaks(tasks)),
        mixture=mixture,
    )


def few_of_each(task: Task, n: int, seed: int) -> Task:
    """The same mixture with only `n` training rows of each source, drawn as those of a task alone are."""
    return of_sources(task, {name: replace(one, train=few_shot(one.train, n, seed)) for name, one in task.each.items()})


def of_sources(task: Task, sources: Mapping[str, Task]) -> Task:
    """The same mixture with other training rows of its sources."""
    assert task.mixture is not None
    mixture = replace(task.mixture, sources=sources)
    ledger = replace(task.ledger, detected=_ledger(sources).detected)
    return replace(task, train=mixture.examples("train"), mixture=mixture, ledger=ledger)


def _ledger(sources: Mapping[str, Task]) -> Ledger:
    ledgers = {name: task.ledger for name, task in sources.items()}
    return Ledger(
        rows=sum(each.rows for each in ledgers.values()),
        trained=sum(each.trained for each in ledgers.values()),
        more=sum(each.more for each in ledgers.values()),
        rejected=tuple(
            replace(note, reason=f"{name}: {note.reason}") for name, each in ledgers.items() for note in each.rejected
        ),
        detected="\n".join(f"{name} = {each.detected}" for name, each in ledgers.items()),
    )


def _leaks(sources: Mapping[str, Task]) -> tuple[Note, ...]:
    """Held-out rows of any source that are training rows of it, or of another one."""
    own = (
        replace(note, reason=f"{name}: {note.reason}") for name, task in sources.items() for note in task.ledger.leaks
    )
    held_out = {(name, part): getattr(task, part) for part in ("dev", "test") for name, task in sources.items()}
    return (*own, *find_leaks_between({name: task.train for name, task in sources.items()}, held_out))


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
