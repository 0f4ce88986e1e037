"""The words of many texts as numbers, so that sequences of them can be compared a million at a time.

Words are split at white space, lower-cased, and of their characters only letters, marks and digits count, as in the
search for contamination of Brown et al. 2020, arXiv:2005.14165, appendix C. What is written without spaces (Chinese,
Japanese, Thai) counts character by character.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

CHUNK = 400_000
"""Characters that are looked at at once: what is made of them stays in the cache."""
UNSPACED = ("CJK UNIFIED", "CJK COMPAT", "HIRAGANA", "KATAKANA", "THAI", "LAO ", "KHMER", "MYANMAR", "HANGUL JAMO")

_OTHER, _KEPT, _ALONE, _SPACE, _UNKNOWN = 0, 1, 2, 3, 255
_MIXER, _POWER, _STEP = (np.uint64(n) for n in (0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93, 0xBF58476D1CE4E5B9))
Hashes = NDArray[np.uint64]


@dataclass(frozen=True)
class Words:
    """Word i of text t is `hashes[starts[t] + i]`; `starts` has one number more than there are texts."""

    hashes: Hashes
    starts: NDArray[np.int64]

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """Words of each text."""
        return np.diff(self.starts)

    def sequences(self, n: int) -> tuple[Hashes, NDArray[np.int64], NDArray[np.int64]]:
        """(hash, text, place in the text) of every `n` words that follow one another in a text."""
        found = np.zeros(max(0, len(self.hashes) - n + 1), np.uint64)
        for place in range(n):
            found *= _STEP
            found += self.hashes[place : place + len(found)]
        n_of = np.maximum(self.counts - n + 1, 0)
        owners = np.repeat(np.arange(len(n_of)), n_of)
        places = np.arange(len(owners)) - np.repeat(np.cumsum(n_of) - n_of, n_of)
        return mixed(found[self.starts[owners] + places]), owners, places

    def wholes(self) -> Hashes:
        """One number for all words of each text in their order."""
        places = np.arange(len(self.hashes)) - np.repeat(self.starts[:-1], self.counts)
        powers = _powers(int(self.counts.max(initial=0)), _STEP)
        return mixed(_sums(self.hashes * powers[places], self.starts) + self.counts.astype(np.uint64))


def words_of(texts: Sequence[str]) -> Words:
    """The words of each of these texts."""
    found, counts, start = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)], 0
    while start < len(texts):
        stop, n = start, 0
        while stop < len(texts) and (n == 0 or n + len(texts[stop]) <= CHUNK):
            n += len(texts[stop])
            stop += 1
        hashes, of_each = _of_chunk([text.lower() for text in texts[start:stop]])
        found.append(hashes)
        counts.append(of_each)
        start = stop
    return Words(np.concatenate(found), np.concatenate([[0], np.cumsum(np.concatenate(counts))]).astype(np.int64))


def words_in(text: str) -> list[str]:
    """The words of one text, as text: the definition that `words_of` counts by."""
    words, word = [], ""
    for mark in f"{text.lower()} ":
        kind = _class_of(mark)
        if word and kind in (_ALONE, _SPACE):
            words.append(word)
            word = ""
        if kind == _ALONE:
            words.append(mark)
        elif kind == _KEPT:
            word += mark
    return words


def codes_of(text: str) -> NDArray[np.uint32]:
    """The numbers of a text's characters."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def is_in(values: Hashes, wanted: Hashes) -> NDArray[np.bool_]:
    """Which of these are among the wanted: np.isin, which would build a table of both."""
    if not len(wanted):
        return np.zeros(len(values), bool)
    wanted = np.sort(wanted)
    return wanted[np.minimum(np.searchsorted(wanted, values), len(wanted) - 1)] == values


def mixed(values: Hashes) -> Hashes:
    """The same numbers, spread evenly over all 64 bits."""
    values = (values ^ (values >> np.uint64(31))) * _MIXER
    return values ^ (values >> np.uint64(29))


def _of_chunk(texts: Sequence[str]) -> tuple[Hashes, NDArray[np.int64]]:
    """(word hashes of all, words of each). A word's is the sum of its characters', each by a power of its place."""
    codes = codes_of("".join(texts))
    classes = _classes(codes)
    owners = np.repeat(np.arange(len(texts), dtype=np.int32), np.fromiter(map(len, texts), np.int64, len(texts)))
    kept = np.flatnonzero((classes == _KEPT) | (classes == _ALONE))
    if not len(kept):
        return np.zeros(0, np.uint64), np.zeros(len(texts), np.int64)
    gaps = np.cumsum(classes == _SPACE, dtype=np.int32)[kept]
    alone, text = classes[kept] == _ALONE, owners[kept]
    begins = np.ones(len(kept), bool)
    begins[1:] = (np.diff(gaps) > 0) | (np.diff(text) > 0) | alone[1:] | alone[:-1]
    starts = np.flatnonzero(begins)
    lengths = np.diff(np.append(starts, len(kept)))
    places = np.arange(len(kept)) - np.repeat(starts, lengths)
    values = codes[kept].astype(np.uint64) * _powers(int(lengths.max()), _POWER)[places]
    return mixed(np.add.reduceat(values, starts)), np.bincount(text[starts], minlength=len(texts))


def _sums(values: Hashes, starts: NDArray[np.int64]) -> Hashes:
    """The sum of the values of each stretch, 0 for an empty one."""
    running = np.concatenate([np.zeros(1, np.uint64), np.cumsum(values, dtype=np.uint64)])
    return running[starts[1:]] - running[starts[:-1]]


def _powers(n: int, base: np.uint64) -> Hashes:
    factors = np.full(max(1, n), base, np.uint64)
    factors[0] = 1
    return np.multiply.accumulate(factors)


_CLASSES = np.full(0x110000, _UNKNOWN, np.uint8)


def _classes(codes: NDArray[np.uint32]) -> NDArray[np.uint8]:
    """What each character is to a word; worked out once for each character that is met."""
    found = _CLASSES[codes]
    new = np.unique(codes[found == _UNKNOWN])
    if len(new):
        _CLASSES[new] = [_class_of(chr(code)) for code in new]
        found = _CLASSES[codes]
    return found


def _class_of(mark: str) -> int:
    if mark.isspace():
        return _SPACE
    if unicodedata.category(mark)[0] not in "LMN":
        return _OTHER
    return _ALONE if ord(mark) > 0x0E00 and unicodedata.name(mark, "").startswith(UNSPACED) else _KEPT
