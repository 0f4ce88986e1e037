"""Whether an instruction is new: ROUGE-L against all that are kept, exact, by looking at the few that could be close.

With m and n words and a longest common subsequence of l, ROUGE-L is 2 l / (m + n). It reaches a threshold t only where
l >= t (m + n) / 2, and as l <= n, only where n >= m t / (2 - t). So l is m t / (2 - t) at least, and of any m - l + 1
words of a candidate one is shared: those are looked up that the fewest others have (the prefix filter of Bayardo et al.
2007, WWW). What is found is held by its bag of words, and what is left by the subsequence itself.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence

from tunewise.evaluation.overlap import n_in_common

Token = tuple[str, int]
"""A word, and the how manyth of its kind it is: so a bag of words is a set."""

_UNSPACED = "\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")


def words_of(text: str) -> list[str]:
    """Lower-cased runs of letters and digits of any alphabet, which in ASCII are those of the rouge-score package.

    Characters of scripts that put no spaces between words (Thai, Chinese, Japanese) stand alone.
    """
    return _WORD.findall(text.lower())


class Kept:
    """The texts that are kept, and the nearest of them to another one."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._words: list[list[str]] = []
        self._tokens: list[frozenset[Token]] = []
        self._holders: dict[Token, list[int]] = defaultdict(list)

    def __len__(self) -> int:
        return len(self._words)

    def add(self, text: str) -> None:
        """Keep a text."""
        words = words_of(text)
        tokens = frozenset(_tokens(words))
        for token in tokens:
            self._holders[token].append(len(self._words))
        self._words.append(words)
        self._tokens.append(tokens)

    def nearest(self, text: str) -> tuple[int, float] | None:
        """Number and ROUGE-L of the nearest kept text that reaches the threshold, the first of equals; or None."""
        words = words_of(text)
        best: tuple[int, float] | None = None
        for index in self._could_be_close(words):
            score = 2 * n_in_common(words, self._words[index]) / (len(words) + len(self._words[index]))
            if score >= self._threshold and (best is None or score > best[1]):
                best = index, score
        return best

    def _could_be_close(self, words: Sequence[str]) -> list[int]:
        """Numbers of the texts that share words enough, in order."""
        tokens = sorted(_tokens(words), key=lambda token: (len(self._holders.get(token, ())), token))
        fewest = _at_least(len(words) * self._threshold / (2 - self._threshold))
        found = {
            index for token in tokens[: len(tokens) - max(fewest, 1) + 1] for index in self._holders.get(token, ())
        }
        own = frozenset(tokens)
        return sorted(
            index
            for index in found
            if len(own & self._tokens[index]) >= _at_least(self._threshold * (len(own) + len(self._tokens[index])) / 2)
        )


def _tokens(words: Sequence[str]) -> list[Token]:
    seen: Counter[str] = Counter()
    tokens = []
    for word in words:
        seen[word] += 1
        tokens.append((word, seen[word]))
    return tokens


def _at_least(value: float) -> int:
    """The smallest whole number that is not below `value`, but for rounding."""
    return math.ceil(value - 1e-9)
