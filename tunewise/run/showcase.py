"""A showcase: a base and what was made of it, asked the same and heard side by side."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tunewise.data.in_memory import Data
from tunewise.data.messages import Message
from tunewise.data.typed import TYPED, columns_of, told_in, typed_example
from tunewise.errors import UserError
from tunewise.evaluation.asks import Asks
from tunewise.run.speakers import Said, Speaker, Speakers, speakers_of


class Showcase:
    """Runs and adapters of one base, by name, and first of all the base itself, inside `showcase`."""

    def __init__(self, speakers: Speakers, columns: tuple[str, ...], system: str) -> None:
        self._speakers, self._system = speakers, system
        self.columns = columns
        """What a question is made of."""
        self._so_far: dict[str, list[Message]] = {}
        self.begin_again()

    @property
    def names(self) -> tuple[str, ...]:
        """Who is asked."""
        return tuple(speaker.name for speaker in self._speakers.each)

    @property
    def is_conversation(self) -> bool:
        """Whether what was said before belongs to the next question."""
        return any(speaker.task.chat is not None for speaker in self._speakers.each)

    def ask(self, question: str | Mapping[str, object]) -> list[Said]:
        """What each says: to a text, or to the columns of a question; in a conversation, after what it said before.

        UserError for a question that lacks something.
        """
        told = told_in(question, self.columns)
        asks = {number: self._asks(speaker, told) for number, speaker in enumerate(self._speakers.each)}
        found = list(self._speakers.answers(asks).values())
        for speaker, said in zip(self._speakers.each, found, strict=True):
            if speaker.task.chat is not None:
                turns = (("user", told[TYPED]), ("assistant", said.text))
                self._so_far[speaker.name] += [Message(role, text, trained=False) for role, text in turns]
        return found

    def begin_again(self) -> None:
        """A new conversation."""
        opening = [Message("system", self._system, trained=False)] if self._system else []
        self._so_far = {name: list(opening) for name in self.names}

    def _asks(self, speaker: Speaker, told: Mapping[str, str]) -> Asks[Said]:
        """The question as this one reads it."""
        example = typed_example(speaker.task, told, self._so_far[speaker.name])
        base = self._speakers.base
        (said,) = yield from speaker.says(base, speaker.questions(base, [example]))
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
    shown = Showcase(speakers, _columns(speakers.each), system)
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
