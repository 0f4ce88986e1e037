"""The synthetic world: `document(seed, index)` is a pure function, and no two documents are alike.

A document is a page from a small harbour town. The order of a corpus is the order of its indices, so any slice of
the training text can be written again without what came before it. The mixture of kinds changes on the way: first the
language, the town and patterns, then drills until the base looks things up, then patterns and the rest again.
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

# From which document on, the weights of the kinds in the order of KINDS.
STAGES: tuple[tuple[int, tuple[float, ...]], ...] = (
    (0, (42, 14, 10, 8, 13, 12, 7, 5, 6, 3, 0, 0, 0, 0, 0, 0)),
    (13_760, (8, 2, 2, 2, 4, 4, 1, 1, 1, 0, 25, 25, 15, 10, 0, 0)),
    (18_560, (1, 1, 1, 1, 2, 2, 1, 0, 0, 0, 0, 0, 0, 0, 140, 0)),
    (40_256, (60, 14, 6, 5, 16, 14, 7, 3, 5, 6, 0, 0, 0, 8, 20, 0)),
    (46_656, (62, 14, 5, 4, 16, 14, 7, 2, 4, 6, 0, 0, 0, 20, 6, 0)),
    (52_288, (26, 12, 4, 4, 12, 12, 6, 2, 4, 4, 0, 0, 0, 10, 6, 60)),
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
