"""Rehearsal: rows of other sources among those that are trained on, so that less of what the base knew is lost.

Robins 1995 for the idea; a few per cent are enough: Scialom et al. 2022, arXiv:2205.12393.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tunewise.data.encode import Encoded, Ids
from tunewise.data.examples import Example, Ledger, Note
from tunewise.data.splits import few_shot
from tunewise.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Rehearsed:
    """What is replayed of one source; `is_text` where rows are plain texts and not questions with answers."""

    source: str
    examples: tuple[Example, ...]
    is_text: bool


def drawn(source: str, examples: Sequence[Example], n_wanted: int, seed: int, is_text: bool) -> Rehearsed:
    """`n_wanted` training rows of a source, or all where it has fewer, by seed; UserError where it has none."""
    if not examples:
        raise UserError(f"{source} has no training rows to replay", "name a file, or a task with a train part")
    return Rehearsed(source, few_shot(examples, n_wanted, seed, balanced=False), is_text)


def n_replayed(n_rows: int, shares: Sequence[float]) -> list[int]:
    """How many rows each source gives, so that it makes up its share of all; at least one."""
    whole = n_rows / (1 - sum(shares))
    return [max(1, round(share * whole)) for share in shares]


def encode_texts(
    examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> tuple[list[Encoded], Ledger]:
    """Rows of text and the account of them: every token is trained.

    A text that is cut to `max_length` has no end token, which does not belong there.
    """
    ids = Ids(tokenizer, [example.text for example in examples])
    rows: list[Encoded] = []
    truncated: list[Note] = []
    rejected: list[Note] = []
    for example in examples:
        if not example.text:
            rejected.append(Note(example.line, "nothing in it is trained"))
            continue
        whole = [*ids.prompt(example.text), tokenizer.eos_token_id]
        cut = tuple(whole[:max_length])
        if len(cut) < len(whole):
            truncated.append(Note(example.line, f"the text was cut to {max_length} tokens"))
        rows.append(Encoded(example.id, cut, cut, 0, len(cut) < len(whole)))
    return rows, Ledger(rows=len(examples), trained=len(rows), truncated=tuple(truncated), rejected=tuple(rejected))


def added(one: Ledger, other: Ledger, source: str, *, is_replayed: bool = True) -> Ledger:
    """The account `one` and that of more rows, each note with its source, where that has a name."""
    truncated, rejected = (
        tuple(replace(note, reason=f"{source}: {note.reason}" if source else note.reason) for note in notes)
        for notes in (other.truncated, other.rejected)
    )
    return replace(
        one,
        rows=one.rows + other.rows,
        trained=one.trained + other.trained,
        more=one.more + other.more,
        truncated=one.truncated + truncated,
        rejected=one.rejected + rejected,
        replayed=one.replayed + (other.trained if is_replayed else 0),
    )
