"""The synthetic world: `document(seed, index)` is a pure function, and no two documents are alike.

A document is a page from a small harbour town. The order of a corpus is the order of its indices, so any slice of
the training text can be written again without what came before it. The mixture of kinds changes on the way (STAGES).
"""

from collections.abc import Callable, Iterator
from random import Random

from tunewise.models.tiny.drills import (
    glossary,
    judgement_list,
    repetition,
    short_drill,
    sorted_judgements,
    sorted_words,
)
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

KINDS: dict[str, Callable[[Random], str]] = {
    "patterns": pattern_list,
    "reviews": starred_review,
    "narrative": narrative,
    "dialogue": dialogue,
    "facts": facts,
    "phrases": phrase_book,
    "newspaper": newspaper,
    "letters": letter,
    "questions": question_list,
    "sums": arithmetic,
    "repetition": repetition,
    "glossary": glossary,
    "sorted words": sorted_words,
    "sorted judgements": sorted_judgements,
    "short drills": short_drill,
    "judgement lists": judgement_list,
}
_NAMES = tuple(KINDS)

# From which document on, the weights of the kinds in the order of KINDS: language and drills until the base looks
# things up, then lists of every kind beside the language, then fewer drills and longer lists.
STAGES: tuple[tuple[int, tuple[float, ...]], ...] = (
    (0, (10, 12, 7, 5, 9, 9, 5, 3, 4, 3, 0, 0, 0, 0, 120, 0)),
    (30_000, (40, 10, 6, 5, 10, 10, 6, 2, 4, 4, 2, 4, 8, 12, 30, 20)),
    (57_000, (40, 12, 8, 5, 14, 14, 8, 3, 5, 5, 0, 2, 4, 8, 6, 32)),
)


def kind_of(seed: int, index: int) -> str:
    """The kind of a document, known without writing it."""
    weights = next(weights for start, weights in reversed(STAGES) if start <= index)
    return Random(f"kind/{seed}/{index}").choices(_NAMES, weights)[0]


def document(seed: int, index: int) -> str:
    """The text of one document."""
    return KINDS[kind_of(seed, index)](Random(f"document/{seed}/{index}"))


def documents(seed: int, start: int = 0) -> Iterator[str]:
    """All documents of a seed, from `start` on, without end."""
    index = start
    while True:
        yield document(seed, index)
        index += 1
