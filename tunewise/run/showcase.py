"""A showcase: a base and what was made of it, asked the same and heard side by side."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tunewise.data.in_memory import Data
from tunewise.data.messages import Message
from tunewise.data.task import Task
from tunewise.data.typed import TYPED, columns_of, free_task, may_be_empty, told_in, typed_example, whole
from tunewise.engine.decoding import Sampling
from tunewise.errors import UserError
from tunewise.evaluation.asks import Asks
from tunewise.evaluation.questions import Questions
from tunewise.run.measure import find_rows
from tunewise.run.prepare import task_of
from tunewise.run.speakers import WRITES, Said, Speaker, Speakers, speakers_of


@dataclass(frozen=True)
class Writing:
    """How answers are written, in place of what the runs say."""

    max_new_tokens: int
    sampling: Sampling | None = None
    """How tokens are drawn; None takes the most probable one."""


class Showcase:
    """Runs and adapters of one base, by name, and first of all the base itself, inside `showcase`.

    `asked` are those who are asked, by their number among the `speakers`.
    """

    def __init__(self, speakers: Speakers, asked: Mapping[int, Speaker], columns: tuple[str, ...], system: str) -> None:
        self._speakers, self._asked, self._system = speakers, asked, system
        self.columns = columns
        """What a question is made of."""
        self.may_be_empty = {name for speaker in asked.values() for name in may_be_empty(speaker.task)}
        """Of these columns those that it does without."""
        self._so_far: dict[str, list[Message]] = {}
        self.begin_again()

    @property
    def names(self) -> tuple[str, ...]:
        """Who is asked."""
        return tuple(speaker.name for speaker in self._asked.values())

    @property
    def model(self) -> str:
        """The name of the base."""
        return self._speakers.base.name

    @property
    def task(self) -> Task:
        """That of the first who is asked: a question to all of them is made of the same columns."""
        return self._first.task

    @cached_property
    def rows(self) -> Task | None:
        """The same task with its rows, where they still are."""
        if self.task.gist is None:
            return self.task
        try:
            find_rows(self._first.recipe, self._first.name)
            return task_of(self._first.recipe.data, self._speakers.base.tokenizer)
        except UserError:
            return None

    @property
    def writing(self) -> Writing | None:
        """How the first who is asked writes its answers; None where they are all chosen."""
        if self._speakers.base.head.kind != "lm" or all(each.task.kind not in WRITES for each in self._asked.values()):
            return None
        return Writing(self._first.task.max_new_tokens, self._first.recipe.asking.sampling)

    @property
    def is_conversation(self) -> bool:
        """Whether what was said before belongs to the next question."""
        return any(speaker.task.chat is not None for speaker in self._asked.values())

    def freely(self) -> "Showcase":
        """The same, inside `showcase` too, asked what is typed in place of their tasks, as by its `free`.

        UserError where they answer by a new head.
        """
        base = self._speakers.base
        if base.head.kind != "lm" or base.tokenizer is None:
            raise UserError(f"{base.name} answers by a new head, which writes no text", "ask it by its task")
        task = free_task(base.tokenizer)
        # one that shows demonstrations is the base where it shows none
        asked = {number: one for number, one in self._asked.items() if not one.recipe.in_context.shots}
        system = self._system if task.chat is not None else ""
        freed = {number: replace(speaker, task=task) for number, speaker in asked.items()}
        return Showcase(self._speakers, freed, columns_of(task), system)

    def ask(self, question: str | Mapping[str, object], writing: Writing | None = None) -> list[Said]:
        """What each says: to a text, or to the columns of a question; in a conversation, after what it said before.

        UserError for a question that lacks something.
        """
        told = told_in(question, self.columns, self.may_be_empty)
        asks = {number: self._asks(speaker, told, writing) for number, speaker in self._asked.items()}
        found = list(self._speakers.answers(asks).values())
        for speaker, said in zip(self._asked.values(), found, strict=True):
            if speaker.task.chat is not None:
                turns = (("user", told[TYPED]), ("assistant", said.text))
                self._so_far[speaker.name] += [Message(role, text, trained=False) for role, text in turns]
        return found

    def begin_again(self, said: Mapping[str, Sequence[tuple[str, str]]] = MappingProxyType({})) -> None:
        """A new conversation; or one that goes on from another, of which `said` has the questions and answers of each,
        by its name."""
        opening = [("system", self._system)] if self._system else []
        for name in self.names:
            turns = chain.from_iterable(zip(("user", "assistant"), each) for each in said.get(name, ()))
            self._so_far[name] = [Message(role, text, trained=False) for role, text in (*opening, *turns)]

    def end(self) -> None:
        """Break off what is asked in other threads, and whatever is asked from now on: by UserError."""
        self._speakers.end()

    @property
    def _first(self) -> Speaker:
        return next(iter(self._asked.values()))

    def _asks(self, speaker: Speaker, told: Mapping[str, str], writing: Writing | None) -> Asks[Said]:
        """The question as this one reads it."""
        base, asking = self._speakers.base, speaker.recipe.asking
        if writing is not None:
            speaker = replace(speaker, task=replace(speaker.task, max_new_tokens=writing.max_new_tokens))
            asking = replace(asking, sampling=writing.sampling)
        questions = speaker.questions(base, [typed_example(speaker.task, told, self._so_far[speaker.name])])
        if isinstance(questions, Questions) and speaker.task.kind in WRITES:
            longest = speaker.written_at_most(base, questions)
            if longest < 1:
                raise UserError(f"this is as long as the context of {base.longest} tokens", "shorten it")
            questions = replace(questions, task=replace(questions.task, max_new_tokens=longest))
        (said,) = yield from speaker.says(base, questions, asking)
        return said


@contextmanager
def showcase(
    targets: Mapping[str, str | Path],
    *,
    model: str | None = None,
    data: Data | None = None,
    free: bool = False,
    system: str = "",
    max_new_tokens: int | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Iterator[Showcase]:
    """`tunewise chat`: the runs and adapters of `targets` by name, asked beside their base inside the block.

    Each is asked as it was in its run: by its template, after its demonstrations. With `free` all are asked what is
    typed, by the tokenizer's chat template where it has one. `system` opens every conversation; `max_new_tokens` are
    those of a written answer, in place of the task's own. A base with a new classifier on top is not asked itself, as
    nothing has trained that. `overrides` are those of `evaluate`. UserError for targets on unlike bases, and for tasks
    that ask for unlike things.
    """
    speakers = speakers_of(
        targets, model=model, data=data, free=free, overrides=overrides, max_new_tokens=max_new_tokens
    )
    shown = Showcase(speakers, dict(enumerate(speakers.each)), _columns(speakers.each), whole(system))
    if system and not shown.is_conversation:
        raise UserError("a system prompt belongs to a conversation, and this is none", "leave --system out")
    with speakers.at_once():
        yield shown


def _columns(speakers: Iterable[Speaker]) -> tuple[str, ...]:
    """What a question to all of them is made of."""
    found = {speaker.name: columns_of(speaker.task) for speaker in speakers}
    if len(set(found.values())) > 1:
        told = "; ".join(f"{name}: {', '.join(columns)}" for name, columns in found.items())
        raise UserError(f"they are asked by unlike columns ({told})", "--free asks all what is typed")
    return next(iter(found.values()))
