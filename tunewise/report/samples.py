"""The same test items answered by the base and by tuned models, side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewise.errors import UserError
from tunewise.files import read_json, write_json
from tunewise.report.arms import Arm

FILE = "samples.json"
N_ITEMS = 20
MOST_CHARACTERS = 1_600


@dataclass(frozen=True)
class Sample:
    """One prompt, the wanted answer, and what each model wrote: (name, text, whether it is right or None)."""

    prompt: str
    wanted: str
    answers: tuple[tuple[str, str, bool | None], ...]

    @property
    def told(self) -> str:
        """Where the prompt says what this item is: its longest line, for a headline."""
        return max(self.prompt.splitlines() or [""], key=len).strip()


def write_samples(root: Path, samples: Sequence[Sample]) -> None:
    """Put the samples beside the runs, where the page finds them."""
    write_json(root / FILE, [{"prompt": s.prompt, "wanted": s.wanted, "answers": s.answers} for s in samples])


def samples_of(root: Path) -> list[Sample]:
    """The samples beside the runs of `root`; none when nobody wrote any."""
    path = root / FILE
    if not path.is_file():
        return []
    found = read_json(path)
    if not isinstance(found, list):
        raise UserError(f"{path} is damaged: it holds no list", "run the command that made the folder again")
    return [_sample(entry) for entry in found]


@dataclass(frozen=True)
class Contested:
    """Test items as every arm answered them, those on which the arms differ most first."""

    samples: tuple[Sample, ...]
    n_items: int
    """Of the whole test part, as far as all arms answered it."""
    n_disagreed: int
    """On how many of those not all arms gave the same answer."""


def contested_items(arms: Sequence[Arm], n: int = N_ITEMS) -> Contested:
    """The `n` items on which the arms differ most, by the middle seed of each arm.

    Most differ those that most nearly half of the arms have right; among those alike (and where answers are not right
    or wrong) those with more unlike answers; then in the order of the file.
    """
    answered = [{row["id"]: _brief(row) for row in arm.middle.predictions() if "predicted" in row} for arm in arms]
    if not answered:
        return Contested((), 0, 0)
    shared = [key for key in answered[0] if all(key in rows for rows in answered)]
    split = {key: _split([rows[key] for rows in answered]) for key in shared}
    chosen = sorted(shared, key=split.__getitem__, reverse=True)[:n]  # a stable sort: the file's order stays
    samples = []
    for key in chosen:
        row = answered[0][key]
        told = tuple((arm.label, rows[key]["predicted"], rows[key].get("correct")) for arm, rows in zip(arms, answered))
        samples.append(Sample(row["prompt"], row["expected"], told))
    return Contested(tuple(samples), len(shared), sum(n_unlike > 1 for _, n_unlike in split.values()))


def _brief(row: dict[str, Any]) -> dict[str, Any]:
    """What of a prediction is shown, cut to what a reader would read."""
    texts = {name: shortened(str(row[name])) for name in ("prompt", "expected", "predicted")}
    return {**texts, "correct": row.get("correct")}


def _split(rows: Sequence[dict[str, Any]]) -> tuple[int, int]:
    """How many arms are on the smaller side of right and wrong, and how many answers are unlike."""
    n_right = sum(row["correct"] is True for row in rows)
    n_wrong = sum(row["correct"] is False for row in rows)
    return min(n_right, n_wrong), len({row["predicted"] for row in rows})


def shortened(text: str, most: int = MOST_CHARACTERS) -> str:
    """A text, or its two ends with … between them where it is longer."""
    half = most // 2
    return text if len(text) <= most else f"{text[:half]} … {text[-half:]}"


def _sample(entry: dict[str, Any]) -> Sample:
    answers = tuple((str(name), str(text), right) for name, text, right in entry["answers"])
    return Sample(str(entry["prompt"]), str(entry["wanted"]), answers)
