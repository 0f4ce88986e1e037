"""Whether a text is written in the scripts of the seed tasks, which tells Latin from Cyrillic and no more."""

from collections import Counter
from collections.abc import Iterable

from tunewise.data.scripts import JAPANESE, script_of_letter

SHARE = 0.05
"""A script that holds less of the seeds' letters is an exception in them: a name, a formula."""


def letters_by_script(texts: Iterable[str]) -> Counter[str]:
    """How many letters of each script."""
    counts: Counter[str] = Counter()
    for letter, n in Counter(letter for text in texts for letter in text).items():
        counts[script_of_letter(letter)] += n
    counts.pop("", None)
    return counts


def scripts_of(texts: Iterable[str]) -> frozenset[str]:
    """The scripts in which texts are written, exceptions aside."""
    counts = letters_by_script(texts)
    found = frozenset(script for script, n in counts.items() if n >= SHARE * counts.total())
    return found | JAPANESE if found & {"Hiragana", "Katakana"} else found


def foreign(text: str, scripts: frozenset[str]) -> str:
    """The script, none of `scripts`, in which most of a text is written; "" where it is written in those."""
    counts = letters_by_script([text])
    others = Counter({script: n for script, n in counts.items() if script not in scripts})
    return others.most_common(1)[0][0].lower() if 2 * others.total() > counts.total() else ""
