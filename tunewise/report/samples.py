"""The same test items answered by the base and by tuned models, side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewise.errors import UserError
from tunewise.files import read_json, write_json

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


def _sample(entry: dict[str, Any]) -> Sample:
    answers = tuple((str(name), str(text), right) for name, text, right in entry["answers"])
    return Sample(str(entry["prompt"]), str(entry["wanted"]), answers)
