"""A mixture is asked as the tasks it is made of, and scored as each of them; one figure over all decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from tunewise.data.examples import Example
from tunewise.data.mixture import MACRO_AVERAGE
from tunewise.data.task import Task
from tunewise.directions import LOWER_IS_BETTER
from tunewise.evaluation.own_metrics import called
from tunewise.evaluation.questions import LabelledRows, Questions


@dataclass(frozen=True)
class BySource:
    """What is asked of a mixture: name of a source -> its questions."""

    task: Task
    parts: Mapping[str, Questions | LabelledRows]


Prepared = Questions | LabelledRows | BySource


def examples_by_source(task: Task, examples: Sequence[Example]) -> dict[str, list[Example]]:
    """Those of each source that has one among these, in the order of the sources."""
    found: dict[str, list[Example]] = {name: [] for name in task.each}
    for one in examples:
        found[one.source].append(one)
    return {name: of_source for name, of_source in found.items() if of_source}


def scores_of(task: Task, found: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """What decides, then every metric of every source (name -> its metrics), called NAME.metric.

    What decides is the mean over sources of the first metric of each. A source whose first metric is one of which less
    is better (texts: their loss) is not part of a macro average.
    """
    decides = called(task.metrics[0])
    firsts = [next(iter(metrics.items())) for metrics in found.values()]
    counted = [value for metric, value in firsts if decides != MACRO_AVERAGE or metric not in LOWER_IS_BETTER]
    whole = fmean(counted) if counted else 0.0
    return {decides: whole} | {
        f"{name}.{metric}": value for name, metrics in found.items() for metric, value in metrics.items()
    }


def rows_of(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """The rows of all sources, each with its source; two sources may use the same ids."""
    return [{**row, "id": f"{name}:{row['id']}", "source": name} for name, rows in found.items() for row in rows]
