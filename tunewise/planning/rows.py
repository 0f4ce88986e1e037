"""Rows that nobody wrote, as long as those of a work: what a rehearsal and a measured step are made on."""

from collections.abc import Callable, Sequence

from tunewise.data.encode import MASKED, Encoded
from tunewise.models.families import ENCODER_DECODER
from tunewise.models.heads import HeadKind
from tunewise.planning.work import Work


def unlike_rows(works: Sequence[Work], head: HeadKind, kind: str) -> list[Encoded]:
    """A row of each of these works, of which no two read the same ids, as far as they are long enough."""
    return [
        made_up_row(work, head, kind, lambda n, number=number: _digits(number, n), str(number))
        for number, work in enumerate(works)
    ]


def _digits(number: int, n: int) -> tuple[int, ...]:
    """The number in n ids of a small vocabulary: 1 to 5."""
    return tuple(1 + number // 5**place % 5 if place < 8 else 1 for place in range(n))


def made_up_row(
    work: Work, head: HeadKind, kind: str, ids: Callable[[int], tuple[int, ...]], name: str = ""
) -> Encoded:
    """One row of `work` for a base of this `kind` (families.KINDS) and head; `ids` makes so many tokens."""
    own, n_labels = ids(work.tokens), min(work.labels, work.tokens)
    labels: tuple[int | float, ...] = (MASKED,) * (work.tokens - n_labels) + own[work.tokens - n_labels :]
    if head == "tags":
        labels = (0,) * work.tokens
    elif head != "lm":
        labels = (0.0,) if head == "value" else (0,)
    elif kind == ENCODER_DECODER:
        labels = ids(work.labels)
    return Encoded(name, own, labels, work.tokens - n_labels, truncated=False)
