"""Proofs of runs that failed: said last of all, with what to look at, and the exit code of every verb that trains."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tunewise.cli.console import leave_unproved

if TYPE_CHECKING:
    from tunewise.report.arms import Arm


def refuse_unproved(arms: "Sequence[Arm]") -> None:
    """Leave with UNPROVED where a proof of any of their runs failed."""
    from tunewise.run import failed_proofs

    failed = [(arm.label, run, name) for arm in arms for run in arm.runs for name in failed_proofs(run.proofs())]
    names = dict.fromkeys(f"{name} of {label}" for label, _, name in failed)
    leave_unproved(list(names), look_at(list(dict.fromkeys(run.folder for _, run, _ in failed))))


def look_at(folders: Sequence[Path]) -> str:
    """What to do about runs with a proof that failed."""
    words = shlex.join(["tunewise", "adapter", "check", *map(str, folders)])
    return f"the figures: {words}; until they are understood, trust neither scores nor adapter"
