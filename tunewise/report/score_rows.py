"""What each arm reaches on each source of a mixture, and on test sets from elsewhere: a row each, a score an arm."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tunewise.report import words
from tunewise.report.arms import Arm
from tunewise.stats import Interval


@dataclass(frozen=True)
class ScoreRow:
    """One source or test set: what it is measured in, and what each arm reaches."""

    name: str
    metric: str
    scores: tuple[str, ...]


def source_rows(arms: Sequence[Arm]) -> list[ScoreRow]:
    """A row a source, in the order of the mixture; [] for other tasks."""
    keys = {key: key.partition(".") for key in arms[0].by_source}
    return [_row(name, metric, [arm.by_source.get(key) for arm in arms]) for key, (name, _, metric) in keys.items()]


def set_rows(arms: Sequence[Arm]) -> list[ScoreRow]:
    """The own test rows first, then a row a set; [] where no arm was asked any."""
    found: list[Mapping[str, tuple[str, Interval]]] = [arm.out_of_domain for arm in arms]
    sets = {name: metric for of_arm in found for name, (metric, _) in of_arm.items()}
    if not sets:
        return []
    rows = [_row("in domain", arms[0].metric, [arm.quality for arm in arms])]
    for name, metric in sets.items():
        rows.append(_row(name, metric, [of_arm[name][1] if name in of_arm else None for of_arm in found]))
    return rows


def _row(name: str, metric: str, scores: Sequence[Interval | None]) -> ScoreRow:
    told = ("–" if score is None else words.quality(metric, score) for score in scores)
    return ScoreRow(name, words.in_unit(metric), tuple(told))
