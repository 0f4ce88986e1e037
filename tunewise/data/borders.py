"""Which part of a text each of its tokens belongs to: the part that holds the token's last character.

By the offsets that fast tokenizers keep, in one call. Where there are none, or where they are wrong (a normaliser may
shift them), by prefixes: a border lies where the ids of the text up to it stop agreeing with those of the whole.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, takewhile
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROBE = "To go:\n\n {end}Naïve ﬁsh, e\u0301!  42 猫🙂{end}\n a\tb  {end} x"
"""What a normaliser composes, decomposes, or takes for one; white space, and the end token with and without it."""

_TRUSTED: WeakKeyDictionary[PreTrainedTokenizerBase, bool] = WeakKeyDictionary()


def owners(pieces: Sequence[str], ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """For each id of the joined `pieces` (tokenised without begin and end), the number of its piece."""
    text = "".join(pieces)
    borders = list(accumulate(map(len, pieces)))
    found = last_characters(text, tokenizer) if _are_right(tokenizer) else None
    if found is not None and len(found) == len(ids):
        return [min(bisect_right(borders, last), len(pieces) - 1) for last in found]
    numbers: list[int] = []
    for number, border in enumerate(borders):
        start = len(numbers)
        numbers += [number] * (agreeing(text[:border], ids, tokenizer) - start)
    return numbers + [len(pieces) - 1] * (len(ids) - len(numbers))


def last_characters(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int] | None:
    """Where the last character of each id stands (of one without characters: the next); None without offsets."""
    if not tokenizer.is_fast:
        return None
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    return list(accumulate((max(start, stop - 1) for start, stop in found), max))


def agreeing(text: str, ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> int:
    """How many of the first `ids` are also those of this text alone."""
    own = _alone(text, tokenizer)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(own, ids)))


def _are_right(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the offsets of a difficult text say what its prefixes say, wherever those are cut as the whole is."""
    if tokenizer not in _TRUSTED:
        text = PROBE.format(end=tokenizer.eos_token or "")
        found, ids = last_characters(text, tokenizer), _alone(text, tokenizer)
        _TRUSTED[tokenizer] = found is not None and all(
            len(own) == bisect_right(found, stop - 1)
            for stop in range(1, len(text))
            if (own := _alone(text[:stop], tokenizer)) == ids[: len(own)]
        )
    return _TRUSTED[tokenizer]


def _alone(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] if text else []
