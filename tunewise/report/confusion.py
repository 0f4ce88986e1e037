"""Which class was taken for which: counts over the test items, added up over the seeds of an arm."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MOST_CLASSES = 12
"""More classes than these are told as the pairs that were mistaken most."""
MOST_PAIRS = 15


@dataclass(frozen=True)
class Confusion:
    """`counts[i][j]`: how often class i was answered by class j."""

    classes: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]

    @property
    def recalls(self) -> tuple[float | None, ...]:
        """Of each class the share, 0 to 1, that was answered right; None for one that no item has."""
        return tuple(row[i] / sum(row) if sum(row) else None for i, row in enumerate(self.counts))

    def share(self, i: int, j: int) -> float:
        """Of class i the share that was answered by class j; 0 for a class that no item has."""
        total = sum(self.counts[i])
        return self.counts[i][j] / total if total else 0.0

    def mistakes(self) -> list[tuple[str, str, int]]:
        """(expected, answered, how often) of all that was mistaken, most often first."""
        found = [
            (self.classes[i], self.classes[j], count)
            for i, row in enumerate(self.counts)
            for j, count in enumerate(row)
            if i != j and count
        ]
        return sorted(found, key=lambda mistake: -mistake[2])


def confusion_of(rows: Iterable[Mapping[str, Any]]) -> Confusion | None:
    """The confusion of predictions that chose among the same classes, with a score for each; None for others (texts,
    or choices that each item has of its own)."""
    counted: Counter[tuple[str, str]] = Counter()
    classes: tuple[str, ...] = ()
    for row in rows:
        if "scores" not in row or (classes and tuple(row["scores"]) != classes):
            return None
        classes = tuple(row["scores"])
        counted[row["expected"], row["predicted"]] += 1
    if not counted:
        return None
    return Confusion(classes, tuple(tuple(counted[one, other] for other in classes) for one in classes))


def mistakes_beside(found: Sequence[Confusion]) -> list[tuple[str, str, tuple[int, ...]]]:
    """(expected, answered, how often in each of `found`): what all of them together mistook most often, first."""
    counts = [{(one, other): count for one, other, count in each.mistakes()} for each in found]
    total = sum((Counter(each) for each in counts), Counter[tuple[str, str]]())
    return [
        (one, other, tuple(each.get((one, other), 0) for each in counts))
        for (one, other), _ in total.most_common(MOST_PAIRS)
    ]
