"""A comparison of a second or two, long enough to be killed in the middle, and its values but for what it cost."""

import json
import time
from pathlib import Path

from tests.small_base import write_place
from tunewise.comparison import compare

FIELDS = {
    "data.train": 16, "dtype": "float32", "train.batch_size": 8, "train.steps": 80, "train.learning_rate": 1e-2,
    "train.checkpoint_every": 5, "train.evaluate_every": 20.0,
}  # fmt: skip
SAME = ("test", "dev", "steps", "best_step", "stopped_by", "tokens", "loss_first", "loss_last", "n_trainable")


def place_for(folder: Path) -> Path:
    """A base, reviews, and below `whole` the comparison that nobody disturbed."""
    carry_out(write_place(folder), folder / "whole")
    return folder


def carry_out(place: Path, out: Path, **options):
    """Two methods and two seeds on the base and the reviews in `place`."""
    fields = {"model": str(place / "base"), "methods": ["lora", "ia3"], "seeds": (0, 1), "out": out}
    return compare(str(place / "reviews.csv"), **fields, overrides=FIELDS, **options)


def words_for(place: Path, out: Path) -> list[str]:
    """The same as a command line."""
    words = ["compare", "--model", str(place / "base"), "--data", str(place / "reviews.csv"), "--methods", "lora,ia3"]
    fields = [f"{name}={value}" for name, value in FIELDS.items()]
    return [*words, "--seeds", "0,1", "--out", str(out), *fields]


def values_of(root: Path) -> dict[str, object]:
    """What a comparison found: its rows and its runs, without seconds, memory and what hangs on them."""
    content = json.loads((root / "comparison.json").read_text())
    rows = [
        {name: row[name] for name in ("test", "forgetting", "n_trainable", "failed_proofs")} for row in content["rows"]
    ]
    runs = {
        path.parent.relative_to(root).as_posix(): json.loads(path.read_text()) for path in root.rglob("metrics.json")
    }
    assert len(runs) == 4
    figures = {place: {name: run[name] for name in SAME} for place, run in runs.items()}
    pairs = content["verdict"]["pairs"]
    return {"arms": content["arms"], "rows": rows, "runs": figures, "best": content["verdict"]["best"], "pairs": pairs}


def resumed(root: Path) -> list[int]:
    """The steps at which its runs were taken up again."""
    return sorted(json.loads(path.read_text())["resumed_from"] for path in root.rglob("metrics.json"))


def wait_for_checkpoint(root: Path, seconds: float = 90.0) -> None:
    """Until a run below `root` has left one."""
    deadline = time.monotonic() + seconds
    while not list(root.rglob("checkpoints/step-*/manifest.json")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
