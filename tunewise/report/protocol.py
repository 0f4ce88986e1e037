"""How the arms of a comparison were compared: the rule, what was searched for each, and in what else they differ."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunewise.report.arms import comparison_of
from tunewise.verdict import Rule


@dataclass(frozen=True)
class ArmSearch:
    """What was tried for one arm before test was opened."""

    label: str
    n_trials: int
    values: Mapping[str, Any]
    """Dotted field -> what dev chose."""
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


@dataclass(frozen=True)
class HowCompared:
    """What a reader of the verdict has to know of the comparison."""

    rule: Rule | None = None
    """None where nobody has judged: the default one."""
    searches: tuple[ArmSearch, ...] = ()
    """Arm by arm; () where nothing was searched."""
    unlike: tuple[str, ...] = ()
    """A sentence for each field in which arms differ although it would decide beside the method."""
    against: Mapping[str, str] = field(default_factory=dict)
    """Arm -> the arm that it is held against."""
    items: Mapping[tuple[str, str], Mapping[str, float]] = field(default_factory=dict)
    """Two arms -> how many more test rows the first has right, as comparison.json says it."""
    elsewhere: Mapping[str, Mapping[tuple[str, str], Mapping[str, float]]] = field(default_factory=dict)
    """An out-of-domain test set -> the same of its rows; {} where no arm is held against another."""


def how_compared(root: Path) -> HowCompared:
    """Of the comparison that was carried out in `root`; nothing where none was."""
    content = comparison_of(root)
    judged = content.get("verdict")
    rule = Rule.of(judged["metric"], judged["margin"], judged["alpha"], judged["weights"]) if judged else None
    searches = tuple(
        ArmSearch(
            arm["label"],
            len(found["trials"]),
            found["values"],
            found["seconds"],
            found["at_edge"],
            sum(bool(trial["diverged"]) for trial in found["trials"]),
        )
        for arm in content.get("arms", ())
        if (found := arm.get("search"))
    )
    unlike = tuple(
        f"Unlike beside the method, {name}: {', '.join(f'{label} {value}' for label, value in values.items())}."
        for name, values in content.get("unlike", {}).items()
    )
    elsewhere = {name: _items(found) for name, found in content.get("elsewhere", {}).items()}
    return HowCompared(rule, searches, unlike, content.get("against", {}), _items(judged), elsewhere)


def _items(judged: Mapping[str, Any] | None) -> dict[tuple[str, str], Mapping[str, float]]:
    pairs = judged["pairs"] if judged else ()
    return {(pair["first"], pair["second"]): pair["items"] for pair in pairs if pair["items"]}
