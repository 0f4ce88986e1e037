"""What a report is about: the runs of one folder, or of several that are held together, and how they were compared."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tunewise.report import words
from tunewise.report.arms import (
    Arm,
    DivergedArm,
    comparison_of,
    diverged_of,
    gather_arms,
    labels_of,
    refuse_unlike,
    runs_of,
)
from tunewise.report.folders import Run
from tunewise.report.protocol import HowCompared, how_compared
from tunewise.report.samples import Sample, samples_of


@dataclass(frozen=True)
class Shown:
    """Runs of one task on one base, with what is said of them."""

    runs: tuple[Run, ...]
    labels: Mapping[str, str] = field(default_factory=dict)
    """Label -> arm folder, of those that a comparison named, in its order."""
    diverged: tuple[DivergedArm, ...] = ()
    how: HowCompared = field(default_factory=HowCompared)
    samples: tuple[Sample, ...] = ()

    @property
    def arms(self) -> list[Arm]:
        return gather_arms(self.runs, self.labels, self.diverged)


def shown_in(roots: Sequence[Path]) -> Shown:
    """The runs of each root: those of its comparison, or else every finished one below it.

    Those of several roots are judged anew, by the default rule: no one protocol compared them. A label that several
    comparisons gave to unlike arms is left out, and their fields name them; an arm of several is called as the first
    calls it. UserError where a root has no finished run,
    and for runs of several tasks or bases.
    """
    if len(roots) == 1 and comparison_of(roots[0]):
        (root,) = roots
        return Shown(
            tuple(runs_of(root)), labels_of(root), tuple(diverged_of(root)), how_compared(root),
            tuple(samples_of(root)),
        )  # fmt: skip
    runs = tuple(run for root in roots for run in runs_of(root))
    if len(roots) > 1:
        refuse_unlike(runs, f"of {' and '.join(map(str, roots))}")
    named: dict[str, Path] = {}  # arm folder -> the first root that has a name for it
    every = [(root, *pair) for root in roots for pair in labels_of(root).items()]
    given = [(label, folder) for root, label, folder in every if named.setdefault(folder, root) == root]
    meant = {label: {folder for other, folder in given if other == label} for label, _ in given}
    labels = {label: folders.pop() for label, folders in meant.items() if len(folders) == 1}
    diverged = tuple(each for root in roots for each in diverged_of(root) if each.label in labels)
    samples = tuple(samples_of(roots[0])) if len(roots) == 1 else ()
    how = HowCompared(unlike=tuple(_unlike_rows(gather_arms(runs, labels))))
    return Shown(runs, labels, diverged, how, samples)


def _unlike_rows(arms: Sequence[Arm]) -> list[str]:
    """A sentence where arms that no protocol holds together were not asked the same test rows."""
    asked, told = set(), []
    for arm in arms:
        path, rows = arm.runs[0].data_path, arm.runs[0].predictions()
        asked.add((Path(path).absolute(), tuple(sorted(str(row.get("id")) for row in rows))))
        told.append(f"{arm.label} {words.rows(len(rows))} of {path}")
    if len(asked) < 2:
        return []
    return [f"Not asked the same test rows: {', '.join(told)}. Their scores are held together with care."]
