"""Rows that nobody wrote, as long as those of a work: what a rehearsal and a measured step are made on."""

from collections.abc import Callable

from tunewise.data.encode import MASKED, Encoded
from tunewise.models.families import ENCODER_DECODER
from tunewise.models.heads import HeadKind
from tunewise.planning.work import Work


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
