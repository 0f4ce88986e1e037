"""Runs, adapters and folders of runs, each by the name under which it is talked to."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tunewise.report.arms import Arm, gather_arms, read_arms
from tunewise.report.folders import read_run
from tunewise.run.speakers import BASE

OWN_FILES = ("recipe.yaml", "tunewise.json", "adapter_config.json")
"""By which a folder is known as a run or an adapter."""


@dataclass(frozen=True)
class Named:
    """The folder that is asked: a run or an adapter; of a folder of runs the middle seed of one of its arms."""

    folder: Path
    arm: Arm | None = None

    def figures(self) -> Arm | None:
        """The arm, or the finished run as an arm of one seed; None for an adapter, and for a run without scores."""
        if self.arm is None and (self.folder / "DONE").is_file():
            run = read_run(self.folder)
            return gather_arms([run])[0] if run.metrics.get("test") else None
        return self.arm


def named(targets: Sequence[Path]) -> dict[str, Named]:
    """Name -> what is asked: a folder's own name, or the label of an arm; its path where that name is taken, as the
    base's is."""
    found: dict[str, Named] = {}
    for target in targets:
        if holds_runs(target):
            each = {arm.label: Named(arm.middle.folder, arm) for arm in read_arms(target)}
        else:
            # of . and .. too
            each = {target.name if target.name not in ("", "..") else target.resolve().name: Named(target)}
        for name, one in each.items():
            own = str(one.folder.absolute()) if name == BASE else name
            found[own if own not in found else str(one.folder)] = one
    return found


def holds_runs(target: Path) -> bool:
    """Whether it is a folder of runs, and not a run or an adapter itself."""
    return target.is_dir() and not any((target / name).is_file() for name in OWN_FILES)
