"""What each arm reaches on test sets from elsewhere, beside its own: a row a set."""

from collections.abc import Sequence
from dataclasses import dataclass

from tunewise.report import words
from tunewise.report.arms import Arm


@dataclass(frozen=True)
class SetRow:
    """One out-of-domain test set: what it is measured in, and what each arm reaches."""

    name: str
    metric: str
    scores: tuple[str, ...]


def set_rows(arms: Sequence[Arm]) -> list[SetRow]:
    """The own test rows first, then a row a set; [] where no arm was asked any."""
    sets = {name: metric for arm in arms for name, (metric, _) in arm.out_of_domain.items()}
    if not sets:
        return []
    own = tuple(words.quality(arm.metric, arm.quality) for arm in arms)
    rows = [SetRow("in domain", _called(arms[0].metric), own)]
    for name, metric in sets.items():
        told = (words.quality(*arm.out_of_domain[name]) if name in arm.out_of_domain else "–" for arm in arms)
        rows.append(SetRow(name, _called(metric), tuple(told)))
    return rows


def _called(metric: str) -> str:
    return words.metric_name(metric) + words.unit(metric)
