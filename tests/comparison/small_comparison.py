"""A comparison of a second or two, long enough to be killed in the middle, and its values but for what it cost."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.alike import alike
from tests.conftest import leave_out_fresh_processes
from tests.small_base import write_place
from tunewise.comparison import compare

FIELDS = {
    "data.train": 16, "dtype": "float32", "train.batch_size": 8, "train.steps": 60, "train.learning_rate": 1e-2,
    "train.checkpoint_every": 5, "train.evaluate_every": 20.0,
}  # fmt: skip
OF_ARM = ("test", "forgetting", "n_trainable", "failed_proofs")
OF_RUN = ("test", "dev", "steps", "best_step", "stopped_by", "tokens", "n_trainable")


def place_for(folder: Path) -> Path:
    """A base, reviews, and below `whole` the comparison that nobody disturbed."""
    with pytest.MonkeyPatch.context() as patch:
        leave_out_fresh_processes(patch)
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


def assert_same(root: Path, whole: Path) -> None:
    """Two comparisons found the same, but for what it cost, and for the rounding of other batches and threads."""
    (found, runs), (wanted, others) = _read(root), _read(whole)
    assert found["arms"] == wanted["arms"]
    for row, other in zip(found["rows"], wanted["rows"], strict=True):
        assert alike({name: row[name] for name in OF_ARM}, {name: other[name] for name in OF_ARM})
    assert found["verdict"]["best"] == wanted["verdict"]["best"]
    assert found["verdict"]["pairs"] == wanted["verdict"]["pairs"]
    assert len(runs) == 4
    assert runs.keys() == others.keys()
    for place, run in runs.items():
        assert alike({name: run[name] for name in OF_RUN}, {name: others[place][name] for name in OF_RUN})
        for name in ("loss_first", "loss_last"):
            assert run[name] == pytest.approx(others[place][name], abs=1e-5)
        assert run["loss_last"] < run["loss_first"] - 0.01, "it has learnt something that can be lost"


def _read(root: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The comparison, and the metrics of each run by its folder."""
    found = root.rglob("metrics.json")
    runs = {path.parent.relative_to(root).as_posix(): json.loads(path.read_text()) for path in found}
    return json.loads((root / "comparison.json").read_text()), runs


def resumed(root: Path) -> list[int]:
    """The steps at which its runs were taken up again."""
    return sorted(json.loads(path.read_text())["resumed_from"] for path in root.rglob("metrics.json"))


def wait_for_checkpoint(root: Path, seconds: float = 240.0) -> None:
    """Until a run below `root` has left one."""
    deadline = time.monotonic() + seconds
    while not any(root.glob("*/*/seed*/checkpoints/step-*/manifest.json")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
