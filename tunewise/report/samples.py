"""The same test items answered by the base and by tuned models, side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewise.errors import UserError
from tunewise.files import read_json, write_json
from tunewise.report.arms import Arm

FILE = "samples.json"


@dataclass(frozen=True)
class Sample:
    """One prompt, the wanted answer, and what each model wrote: (name, text, whether it is right or None)."""

    prompt: str
    wanted: str
    answers: tuple[tuple[str, str, bool | None], ...]


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


def samples_from_predictions(arms: Sequence[Arm], n: int = 4) -> list[Sample]:
    """`n` test items, evenly spread over the file, as the given arms answered them; the middle seed of each arm."""
    answered = [
        (arm.label, {row.get("id"): row for row in arm.middle.predictions() if "predicted" in row}) for arm in arms
    ]
    if not answered:
        return []
    shared = [key for key in answered[0][1] if all(key in rows for _, rows in answered)]
    chosen = [shared[index * len(shared) // n] for index in range(n)] if len(shared) >= n else shared
    samples = []
    for key in chosen:
        row = answered[0][1][key]
        answers = tuple((label, str(rows[key]["predicted"]), rows[key].get("correct")) for label, rows in answered)
        samples.append(Sample(str(row["prompt"]), str(row["expected"]), answers))
    return samples


def _sample(entry: dict[str, Any]) -> Sample:
    answers = tuple((str(name), str(text), right) for name, text, right in entry["answers"])
    return Sample(str(entry["prompt"]), str(entry["wanted"]), answers)
