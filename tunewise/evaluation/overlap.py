"""How much a written answer has in common with the right one: exact match, ROUGE, the F1 of SQuAD, the last number.

Each function is of one row, from 0 to 1.
"""

import re
import string
from collections import Counter, defaultdict
from collections.abc import Sequence
from decimal import Decimal

_NUMBER = re.compile(r"(?:(?<![\w.)])([-−+]))?[$€£]?((?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)")
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def rouge_n(one: str, other: str, n: int) -> float:
    """F1 of runs of n words.  Lin 2004; words as in the rouge-score package, not stemmed."""
    return _overlap_f1(*(_runs(_words(text), n) for text in (one, other)))


def rouge_l(one: str, other: str) -> float:
    """F1 of the longest common subsequence of words, wherever lines end."""
    mine, theirs = _words(one), _words(other)
    return f1(n_in_common(mine, theirs), len(mine), len(theirs))


def rouge_lsum(one: str, other: str) -> float:
    """F1 of the words of the reference that stand in a longest common subsequence with any line of the prediction.

    A line is a sentence; no word of either side counts more often than it stands there. The summary-level ROUGE-L of
    Lin 2004, section 3.2, with the clipping of rouge-score.
    """
    mine, theirs = ([_words(line) for line in text.split("\n")] for text in (one, other))
    left = [Counter(word for line in lines for word in line) for lines in (mine, theirs)]
    n_mine, n_theirs = (counter.total() for counter in left)
    n_common = 0
    for line in theirs:
        for place in sorted({place for candidate in mine for place in _common(line, candidate)}):
            if all(counter[line[place]] > 0 for counter in left):
                n_common += 1
                for counter in left:
                    counter[line[place]] -= 1
    return f1(n_common, n_mine, n_theirs)


def exact_match(one: str, other: str) -> float:
    """Whether the texts are equal, runs of white space counting as one space and none at the ends."""
    return float(one.split() == other.split())


def token_f1(one: str, other: str) -> float:
    """F1 of words as SQuAD counts them; where a side has none, whether both have none.  Rajpurkar et al. 2016, 2018."""
    mine, theirs = normalised_answer(one).split(), normalised_answer(other).split()
    return _overlap_f1(Counter(mine), Counter(theirs)) if mine and theirs else float(mine == theirs)


def normalised_match(one: str, other: str) -> float:
    """SQuAD's exact match: whether the texts are equal but for case, punctuation, articles and white space."""
    return float(normalised_answer(one) == normalised_answer(other))


def normalised_answer(text: str) -> str:
    """Lower case, then without ASCII punctuation, the words a, an and the, and more than one space."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_WITHOUT_PUNCTUATION)).split())


def numeric_match(one: str, other: str) -> float:
    """Whether the last numbers of both texts are the same number: 1,000 is 1000.0. A text without one matches none.

    So `#### 72` of gsm8k's answers is 72, whatever stands before it.  Cobbe et al. 2021, arXiv:2110.14168.
    """
    mine, theirs = last_number(one), last_number(other)
    return float(mine is not None and mine == theirs)


def last_number(text: str) -> Decimal | None:
    """The last number that the text writes in digits; commas between thousands and a currency's sign are no part of it.

    A sign behind a word, a digit or a bracket is an operator, or a hyphen.
    """
    found = _NUMBER.findall(text)
    if not found:
        return None
    sign, digits = found[-1]
    number = Decimal(digits.replace(",", ""))
    return -number if sign in ("-", "−") else number


def f1(common: int, n_predicted: int, n_reference: int) -> float:
    """2 p r / (p + r) with p = common / n_predicted and r = common / n_reference; 0 where either side is empty."""
    return 2 * common / (n_predicted + n_reference) if common else 0.0


def _words(text: str) -> list[str]:
    """Runs of a-z and 0-9 in the lower-cased text: letters beyond those separate words, as in the original ROUGE."""
    return re.findall(r"[a-z0-9]+", text.lower())


def _runs(words: list[str], n: int) -> Counter:
    return Counter(zip(*(words[start:] for start in range(n))))


def _overlap_f1(one: Counter, other: Counter) -> float:
    return f1((one & other).total(), one.total(), other.total())


def n_in_common(one: Sequence[str], other: Sequence[str]) -> int:
    """Length of the longest common subsequence, a row of its table at a time in one whole number.

    Crochemore et al. 2001, Information Processing Letters 80.
    """
    places: dict[str, int] = defaultdict(int)
    for place, word in enumerate(one):
        places[word] |= 1 << place
    everything = (1 << len(one)) - 1
    row = everything
    for word in other:
        shared = row & places.get(word, 0)
        row = (row + shared) | (row - shared)
    return (everything & ~row).bit_count()


def _common(one: list[str], other: list[str]) -> list[int]:
    """Places in `one` of a longest common subsequence; of several the one whose words stand last there.

    Which of them is told matters to rouge_lsum alone, and is as in rouge-score.
    """
    lengths = [[0] * (len(other) + 1)]
    for word in one:
        above, row = lengths[-1], [0]
        for column, against in enumerate(other):
            row.append(above[column] + 1 if word == against else max(above[column + 1], row[column]))
        lengths.append(row)
    places: list[int] = []
    i, j = len(one), len(other)
    while i and j:
        if one[i - 1] == other[j - 1]:
            places.append(i - 1)
            i, j = i - 1, j - 1
        elif lengths[i][j - 1] > lengths[i - 1][j]:
            j -= 1
        else:
            i -= 1
    return places[::-1]
