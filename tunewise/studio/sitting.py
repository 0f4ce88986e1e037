"""What is asked on a page and answered: turn by turn, by each of a showcase, as in its run or freely."""

import random
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from tunewise.data.drawn import Drawn, draw
from tunewise.engine.decoding import Sampling
from tunewise.errors import UserError
from tunewise.run.showcase import Showcase, Writing
from tunewise.run.speakers import Said

AS_IN_ITS_RUN, FREE = "as in its run", "free"


@dataclass(frozen=True)
class Turn:
    """One question to all (of an image its name), and what they said; `drawn` is the row of dev that it was."""

    question: Mapping[str, str]
    said: tuple[Said, ...]
    drawn: Drawn | None = None

    def marks(self) -> dict[str, bool | None]:
        """Whether each is right, by its name; None where that cannot be said."""
        return {one.speaker: None if self.drawn is None else self.drawn.is_right(one.text) for one in self.said}


Turns = tuple[Turn, ...]
"""What was asked in one tab of a browser, and in one way: the first question first."""


class Sitting:
    """A showcase as a page asks it: by many threads, one after another, each going on from its own turns."""

    def __init__(self, shown: Showcase, *, is_free: bool = False) -> None:
        self._ways = {FREE: shown} if is_free else {AS_IN_ITS_RUN: shown}
        self._lock = threading.Lock()
        if not is_free:
            with suppress(UserError):  # a new head writes no text
                self._ways[FREE] = shown.freely()
        self.way = next(iter(self._ways))
        """In which they are asked at first."""

    @property
    def ways(self) -> tuple[str, ...]:
        return tuple(self._ways)

    @property
    def can_draw(self) -> bool:
        """Whether there is a row of dev that can be typed."""
        return self.drawn(0) is not None

    @property
    def reads_images(self) -> bool:
        """Whether a question is the path of an image."""
        return self._ways[self.way].task.reads_images

    def names(self, way: str) -> tuple[str, ...]:
        """Who is asked: freely all but those who are the base behind demonstrations."""
        return self._ways[way].names

    def columns(self, way: str) -> tuple[str, ...]:
        """What a question is made of."""
        return self._ways[way].columns

    def is_conversation(self, way: str) -> bool:
        return self._ways[way].is_conversation

    def writing(self, way: str) -> Writing | None:
        """How they write as long as nothing else is asked for; None where all answers are chosen."""
        return self._ways[way].writing

    def ask(
        self, way: str, question: Mapping[str, str], before: Turns, writing: Writing | None = None,
        drawn: Drawn | None = None,
    ) -> Turns:  # fmt: skip
        """The turns with one more. `drawn` belongs to it only while the question is still that row, which begins a new
        conversation, as in its run.

        UserError for a question that lacks something.
        """
        shown = self._ways[way]
        if drawn is not None and not all(self._is_alike(question[name], drawn.told[name]) for name in shown.columns):
            drawn = None
        if drawn is not None and shown.is_conversation:
            before = ()
        with self._lock:
            shown.begin_again(_conversations(shown, before))
            said = tuple(shown.ask(question, writing))
        told = {name: Path(text).name if self.reads_images else text for name, text in question.items()}
        return (*before, Turn(told, said, drawn))

    def _is_alike(self, one: str, other: str) -> bool:
        """Whether these are the same text, or files of the same image."""
        if not self.reads_images:
            return one == other
        return Path(one).is_file() and Path(one).read_bytes() == Path(other).read_bytes()

    def end(self) -> None:
        """Break off what is being asked, and answer no more."""
        self._ways[self.way].end()
        with self._lock:
            pass  # nobody uses the model any more

    def drawn(self, number: int) -> Drawn | None:
        """The row of dev that this number draws."""
        task = self._ways[self.way].rows
        return None if task is None else draw(task, random.Random(number))


def written_by(
    initial: Writing | None, max_new_tokens: float | None, temperature: float, n_asked: int
) -> Writing | None:
    """What the page's settings come to; None while they are the initial ones, so that each writes as in its run.

    Each question draws its tokens anew.
    """
    if initial is None:
        return None
    longest = int(max_new_tokens or initial.max_new_tokens)  # an emptied field asks for nothing else
    if (longest, temperature) == (initial.max_new_tokens, temperature_of(initial)):
        return None
    sampling = replace(initial.sampling or Sampling(), temperature=temperature, seed=n_asked) if temperature else None
    return Writing(longest, sampling)


def temperature_of(writing: Writing) -> float:
    """0 where the most probable token is taken."""
    return writing.sampling.temperature if writing.sampling else 0.0


def _conversations(shown: Showcase, before: Turns) -> dict[str, list[tuple[str, str]]]:
    """The questions and answers of each, where they converse."""
    if not shown.is_conversation:
        return {}
    (column,) = shown.columns
    said = [(turn.question[column], one) for turn in before for one in turn.said]
    return {name: [(asked, one.text) for asked, one in said if one.speaker == name] for name in shown.names}
