"""The synthetic world: `document(seed, index)` is a pure function, and no two documents are alike.

A document is a page from a small harbour town. The order of a corpus is the order of its indices, so any slice of
the training text can be written again without what came before it.
"""

from collections.abc import Callable, Iterator
from random import Random

from tunewise.models.tiny.patterns import pattern_list
from tunewise.models.tiny.prose import (
    arithmetic,
    dialogue,
    facts,
    letter,
    narrative,
    newspaper,
    phrase_book,
    question_list,
)
from tunewise.models.tiny.reviews import starred_review

KINDS: dict[str, tuple[Callable[[Random], str], float]] = {
    "patterns": (pattern_list, 42),
    "reviews": (starred_review, 14),
    "narrative": (narrative, 10),
    "dialogue": (dialogue, 8),
    "facts": (facts, 13),
    "phrases": (phrase_book, 12),
    "newspaper": (newspaper, 7),
    "letters": (letter, 5),
    "questions": (question_list, 6),
    "sums": (arithmetic, 3),
}
_NAMES = tuple(KINDS)
_WEIGHTS = tuple(weight for _, weight in KINDS.values())


def kind_of(seed: int, index: int) -> str:
    """The kind of a document, known without writing it."""
    return Random(f"kind/{seed}/{index}").choices(_NAMES, _WEIGHTS)[0]


def document(seed: int, index: int) -> str:
    """The text of one document."""
    write, _ = KINDS[kind_of(seed, index)]
    return write(Random(f"document/{seed}/{index}"))


def documents(seed: int, start: int = 0) -> Iterator[str]:
    """All documents of a seed, from `start` on, without end."""
    index = start
    while True:
        yield document(seed, index)
        index += 1
