"""Checks of rows that stand on both sides of a split."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tunewise.data.doctor.duplicates import finding_of, in_parts
from tunewise.data.doctor.finding import N_SHOWN, Finding, share
from tunewise.data.doctor.rows import ALIKE, PARTS, Rows
from tunewise.data.doctor.words import Words, is_in, words_in
from tunewise.data.leaks import shared

HELD_OUT = ("test", "dev")
REMEDY = "remove them from train, or else what was learnt by heart is measured too"
N_WORDS, MOST_ROWS, MOST_SHARE = 13, 10, 0.01
"""Brown et al. 2020, arXiv:2005.14165, appendix C: so many words in a row, but for those of more than 10 training rows,
which are commonplaces; of few rows, those of more than a hundredth, which are the words that all are asked in."""


@dataclass(frozen=True)
class SharedWords:
    """A held-out row whose words from `place` on stand in a row of train; `n_shared` such sequences it has in all."""

    held: int
    seen: int
    place: int
    n_shared: int


def shared_words(
    words: Words, seen: range, held: range, n: int = N_WORDS, templates: NDArray[np.bool_] | None = None
) -> list[SharedWords]:
    """The rows of `held` that share `n` words that follow one another with one of `seen`, or all words if fewer.

    Not those of which half or more are commonplaces, or words of the `templates` that ask the rows.
    """
    hashes, owners, places = words.sequences(n)
    of_seen, of_held = (slice(*np.searchsorted(owners, [side.start, side.stop])) for side in (seen, held))
    common = is_in(hashes[of_seen], hashes[of_held])
    pairs = sorted(set(zip(hashes[of_seen][common].tolist(), owners[of_seen][common].tolist())))
    n_rows = Counter(value for value, _ in pairs)
    row_of = dict(reversed(pairs))
    own = hashes[of_held]
    most = max(1, min(MOST_ROWS, int(MOST_SHARE * len(seen))))
    often = is_in(own, np.array([value for value, k in n_rows.items() if k > most], np.uint64))
    told = is_in(own, np.array(list(n_rows), np.uint64))
    at = words.starts[owners[of_held]] + places[of_held]
    covered = np.zeros(len(words.hashes), bool) if templates is None else templates.copy()
    for step in range(n if often.any() else 0):
        covered[at[often] + step] = True
    running = np.concatenate([[0], np.cumsum(covered)])
    told &= 2 * (running[at + n] - running[at]) < n
    found: dict[int, SharedWords] = {}
    for number in (np.flatnonzero(told) + of_held.start).tolist():
        row = int(owners[number])
        known = found.get(row, SharedWords(row, row_of[int(hashes[number])], int(places[number]), 0))
        found[row] = SharedWords(row, known.seen, known.place, known.n_shared + 1)
    wholes, short = words.wholes(), (words.counts < n) & (words.counts > 0)
    whole_of = {int(wholes[row]): row for row in reversed(seen) if short[row]}
    for row in held:
        if short[row] and int(wholes[row]) in whole_of:
            found[row] = SharedWords(row, whole_of[int(wholes[row])], 0, 1)
    return [found[row] for row in sorted(found)]


def leaked_rows(found: Rows) -> Iterator[Finding]:
    """Rows that are asked the same in two parts, letter case and white space aside."""
    pairs = {held: _same(found, "train", held) for held in HELD_OUT}
    if any(pairs.values()):
        every = [pair for of in pairs.values() for pair in of]
        n_unlike = sum(found.asked[one] != found.asked[other] for one, other in every)
        of_them = "" if n_unlike == len(every) else f"{n_unlike:,} of them "
        but = f", {of_them}but for letter case or white space" if n_unlike else ""
        message = f"{in_parts(found, pairs)} also in train{but}"
        yield finding_of("leaked-rows", "warning", message, REMEDY, found, pairs)
    if between := _same(found, "dev", "test"):
        message = f"{share(len(between), len(found.of('test')))} of test also in dev"
        remedy = "remove them from dev: test is to be new to the state that dev chooses"
        yield finding_of("leaked-rows", "note", message, remedy, found, {"test": between})


def shared_passages(found: Rows) -> Iterator[Finding]:
    """Held-out rows that share 13 words in a row with train, or all of their words where they have fewer."""
    both: list[SharedWords] = []
    for held in HELD_OUT:
        same = {one for one, _ in _same(found, "train", held)}
        every = shared_words(found.words, found.of("train"), found.of(held), templates=found.templates)
        both += [each for each in every if each.held not in same]
    if both:
        pairs = {part: [(s.held, s.seen) for s in both if s.held in found.of(part)] for part in HELD_OUT}
        words = words_in(found.asked[both[0].held])[both[0].place :][:N_WORDS]
        message = (
            f"{in_parts(found, pairs)} sharing {N_WORDS} words in a row with one of train, or all words of a shorter "
            f"one, such as “{' '.join(words)}”"
        )
        place = {each.held: _place(found.asked[each.held], each.place) for each in both[:N_SHOWN]}
        shown = found.shown([each.held for each in both], [each.seen for each in both], place.__getitem__)
        remedy = _remedy(found, [pair for of in pairs.values() for pair in of])
        yield Finding("shared-passages", "warning", message, remedy, shown, len(both))


def leaked_nearly(found: Rows) -> Iterator[Finding]:
    """Held-out rows of which most three-word sequences stand in one row of train."""
    one, other, _ = found.near
    pairs = {}
    for part in HELD_OUT:
        ours = (found.part[one] == 0) & (found.part[other] == PARTS.index(part))
        rows, place = np.unique(other[ours], return_index=True)
        pairs[part] = list(zip(rows.tolist(), one[ours][place].tolist()))
    if any(pairs.values()):
        told = f"with at least {100 * ALIKE:.0f} % of their three-word sequences in one of train"
        message = f"{in_parts(found, pairs)} {told}"
        remedy = _remedy(found, [pair for of in pairs.values() for pair in of])
        yield finding_of("leaked-nearly", "warning", message, remedy, found, pairs)


def _remedy(found: Rows, pairs: Sequence[tuple[int, int]]) -> str:
    """To keep rows together where most of these pairs are two questions about one passage; else to remove them."""
    texts = [example.texts for example in found.examples]
    n_of_one = sum(len(texts[held]) > 1 and texts[held][:1] == texts[seen][:1] for held, seen in pairs)
    if 2 * n_of_one > len(pairs) and len(found.task.asked) > 1:
        column = found.task.asked[0]
        return f"rows of one {column} fell into several splits: data.group={column} keeps them in one"
    return REMEDY


def _same(found: Rows, seen: str, held: str) -> list[tuple[int, int]]:
    """(row of `held`, row of `seen`) that are asked the same."""
    start, first = found.of(held).start, found.of(seen).start
    texts = found.tellers
    pairs = shared(*(texts[found.of(part).start : found.of(part).stop] for part in (seen, held)))
    return [(start + there, first + here) for there, here in pairs]


def _place(text: str, place: int) -> int:
    """About where the word number `place` of a text begins."""
    words = words_in(text)[place : place + 3]
    match = re.search(r"\W+".join(map(re.escape, words)), text.lower())
    return match.start() if match else 0
