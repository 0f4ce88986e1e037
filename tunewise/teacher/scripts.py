"""Which scripts a text is written in: a guess of the language that needs no model and tells Latin from Cyrillic."""

import unicodedata
from collections import Counter
from collections.abc import Iterable
from functools import cache

SHARE = 0.05
"""A script that holds less of the seeds' letters is an exception in them: a name, a formula."""

JAPANESE = ("HIRAGANA", "KATAKANA", "CJK")


def letters_by_script(texts: Iterable[str]) -> Counter[str]:
    """How many letters of each script."""
    counts: Counter[str] = Counter()
    for letter, n in Counter(letter for text in texts for letter in text if letter.isalpha()).items():
        counts[_script(letter)] += n
    return counts


def scripts_of(texts: Iterable[str]) -> frozenset[str]:
    """The scripts in which texts are written, exceptions aside."""
    counts = letters_by_script(texts)
    found = {script for script, n in counts.items() if n >= SHARE * counts.total()}
    return frozenset(found.union(JAPANESE) if found & {"HIRAGANA", "KATAKANA"} else found)


def foreign(text: str, scripts: frozenset[str]) -> str:
    """The script, none of `scripts`, in which most of a text is written; "" where it is written in those."""
    counts = letters_by_script([text])
    others = Counter({script: n for script, n in counts.items() if script not in scripts})
    return others.most_common(1)[0][0].lower() if 2 * others.total() > counts.total() else ""


@cache
def _script(letter: str) -> str:
    """The first word of a letter's name in Unicode, which is its script."""
    return unicodedata.name(letter, "UNKNOWN").split()[0]
