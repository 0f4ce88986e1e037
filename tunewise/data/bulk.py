"""Ids of many texts, or rows of words, at once: what the tokenizer's own call gives, without what it spends beside."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

FEW = 16
"""As many texts go through the tokenizer's own call, to see that the core says the same."""
KNOWN, MOST_IDS = 8, 1 << 18
"""So many sets of texts are known again, none of more ids than that."""
_KNOWN: WeakKeyDictionary[PreTrainedTokenizerBase, OrderedDict[tuple[tuple[str, ...], str, int], list[list[int]]]]
_KNOWN = WeakKeyDictionary()


def ids_of(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Ids of each text alone, without begin and end tokens, as `tokenizer(texts, add_special_tokens=False)` has them.

    That call makes offsets, masks and types of every text as well. The core of a fast tokenizer is asked for ids only;
    where the first texts come out otherwise (a class that does more than its core), the call is taken for all.
    """
    few = list(texts[:FEW])
    told = _called(few, tokenizer)  # which also leaves the core without truncation and padding
    rest = tuple(texts[FEW:])
    return told + _ids_of_rest(rest, few, told, tokenizer) if rest else told


def _ids_of_rest(
    rest: tuple[str, ...], few: list[str], told: list[list[int]], tokenizer: PreTrainedTokenizerBase
) -> list[list[int]]:
    """Of texts behind the first few, which read as is `told`. What was read last is known, as every run of a comparison
    asks the same, while the first few read as they did."""
    known, key = _KNOWN.setdefault(tokenizer, OrderedDict()), (rest, str(told), len(tokenizer))
    if key in known:
        known.move_to_end(key)
        return list(map(list, known[key]))
    core = _core(tokenizer)
    if core is None or [found.ids for found in core.encode_batch_fast(few, add_special_tokens=False)] != told:
        found = _called(list(rest), tokenizer)
    else:
        found = [each.ids for each in core.encode_batch_fast(rest, add_special_tokens=False)]
    if sum(map(len, found)) <= MOST_IDS:
        known[key] = list(map(list, found))
    if len(known) > KNOWN:
        known.popitem(last=False)
    return found


def _called(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    return tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else []


def _core(tokenizer: PreTrainedTokenizerBase) -> Tokenizer | None:
    """The Rust tokenizer inside; None of one that is written in Python."""
    return tokenizer.backend_tokenizer if tokenizer.is_fast else None


MOST_WORDS = 1 << 18
"""So many words are known at a time."""


@dataclass(frozen=True)
class WordsRead:
    """The ids of a row of words, special tokens included."""

    ids: list[int]
    words: list[int | None]
    """The number of the word that each id is of; None of special tokens."""
    segments: list[int]
    """Which text each belongs to; [] where the tokenizer does not say."""


class Words:
    """Rows of words as `tokenizer(row, is_split_into_words=True)` reads them, each distinct word once.

    A fast tokenizer reads each word of such a row by itself and puts special tokens around all. Where the first rows
    come out otherwise, the call is taken for all.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Sequence[str]]) -> None:
        self._tokenizer = tokenizer
        self._known: dict[str, list[int]] = {}
        self._front, self._back, self._segment = list[int](), list[int](), list[int]()
        told = self._called(rows[:FEW])
        self._is_by_word = self._framed_by(told) and self._put_together(rows[:FEW]) == told

    def read(self, rows: Sequence[Sequence[str]]) -> list[WordsRead]:
        """Each of these rows, whole."""
        return self._put_together(rows) if self._is_by_word else self._called(rows)

    def _put_together(self, rows: Sequence[Sequence[str]]) -> list[WordsRead]:
        if len(self._known) > MOST_WORDS:
            self._known.clear()
        new = [word for word in dict.fromkeys(chain.from_iterable(rows)) if word not in self._known]
        if new:
            alone = self._tokenizer([[word] for word in new], is_split_into_words=True, add_special_tokens=False)
            self._known.update(zip(new, alone["input_ids"], strict=True))
        return [self._row(list(map(self._known.__getitem__, row))) for row in rows]

    def _row(self, words: list[list[int]]) -> WordsRead:
        ids = [*self._front, *chain.from_iterable(words), *self._back]
        of = chain.from_iterable(repeat(number, len(word)) for number, word in enumerate(words))
        return WordsRead(ids, [*[None] * len(self._front), *of, *[None] * len(self._back)], self._segment * len(ids))

    def _framed_by(self, told: Sequence[WordsRead]) -> bool:
        """Take the special tokens from a row that shows both ends; whether there is one."""
        for row in told:
            places = [place for place, word in enumerate(row.words) if word is not None]
            if places:
                self._front, self._back = row.ids[: places[0]], row.ids[places[-1] + 1 :]
                self._segment = row.segments[:1]
                return True
        return False

    def _called(self, rows: Sequence[Sequence[str]]) -> list[WordsRead]:
        found = self._tokenizer([list(row) for row in rows], is_split_into_words=True, verbose=False)
        segments = found.get("token_type_ids") or [[] for _ in rows]
        every = zip(found["input_ids"], segments, strict=True)
        return [WordsRead(ids, found.word_ids(number), segment) for number, (ids, segment) in enumerate(every)]
