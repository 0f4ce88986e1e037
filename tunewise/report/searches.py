"""What was searched for each arm before test was opened: which values dev chose, and what the search cost."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewise.report.arms import comparison_of


@dataclass(frozen=True)
class ArmSearch:
    """The search of one arm."""

    label: str
    n_trials: int
    values: Mapping[str, Any]
    """Dotted field -> what was chosen."""
    seconds: float
    at_edge: str
    """"lowest" or "highest" where the learning rate is that of those tried, else ""."""
    n_lost: int
    """Trials that diverged."""

    @property
    def told(self) -> str:
        """As in "learning rate 0.0032, rank 8; the highest rate tried: a higher one may do better"."""
        named = [(name.rpartition(".")[2].replace("_", " "), value) for name, value in self.values.items()]
        told = [f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in named]
        sentence = ", ".join(told) or "all its fields are stated"
        if self.at_edge:
            beyond = {"highest": "higher", "lowest": "lower"}[self.at_edge]
            sentence += f"; the {self.at_edge} rate tried: a {beyond} one may do better"
        return sentence + (f"; {self.n_lost} diverged" if self.n_lost else "")


def searches_of(root: Path) -> list[ArmSearch]:
    """The searches of the comparison in `root`, arm by arm; [] where nothing was searched."""
    return [
        ArmSearch(
            arm["label"],
            len(found["trials"]),
            found["values"],
            found["seconds"],
            found["at_edge"],
            sum(bool(trial["diverged"]) for trial in found["trials"]),
        )
        for arm in comparison_of(root)
        if (found := arm.get("search"))
    ]
