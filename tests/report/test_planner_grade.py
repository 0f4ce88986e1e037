"""The planner's grade over run folders with figures written by hand."""

import json
from pathlib import Path

import pytest

from tunewise.errors import UserError
from tunewise.planning.left_out import RESUMED, SHORT
from tunewise.report.planner_grade import grade
from tunewise.report.planner_grade_figure import write_figure
from tunewise.run.planned import planned_now

MB = 1_000_000


def write_run(folder: Path, method: str, planned: dict[str, object] | None, **measured: object) -> None:
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(f"model: tiny\nmethod: {{name: {method}}}\n", "utf-8")
    metrics = {"method": method, "planned": planned, "n_trainable": 100, "adapter_bytes": 500, **measured}
    (folder / "metrics.json").write_text(json.dumps(metrics), "utf-8")
    (folder / "DONE").touch()


def plan(memory: float | None = None, seconds: float | None = None, left_out: str = "") -> dict[str, object]:
    sizes = {"n_trainable": 100, "adapter_bytes": 400, "left_out": left_out}
    told = {"train_memory_bytes": memory and memory * MB, "train_seconds": seconds}
    return {**sizes, **{name: value for name, value in told.items() if value is not None}}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    root = tmp_path / "runs"
    for seed, (memory, seconds) in enumerate(((110, 9), (95, 12), (100, 10))):
        write_run(root / f"lora/{seed}", "lora", plan(memory, seconds), train_memory_bytes=100 * MB, train_seconds=10)
    write_run(root / "full/0", "full", plan(300, 50), train_memory_bytes=400 * MB, train_seconds=40)
    beside_others = plan(left_out="3 runs shared its batches")
    write_run(root / "lanes/0", "ia3", beside_others, train_memory_bytes=None, train_seconds=7)
    write_run(root / "frozen/0", "frozen", None)
    write_run(root / "old/0", "bitfit", {"n_trainable": 100, "adapter_bytes": 400})
    return root


def test_errors_by_quantity_and_by_method(runs: Path) -> None:
    found = grade([runs, runs / "lora"], planned_now)  # a folder inside another counts once
    assert found.n_runs == 6
    assert found.left_out == {
        "memory and time: 3 runs shared its batches": 1,
        "memory and time: it was planned by an earlier version": 1,
    }
    trained, adapter, memory, time = found.by_quantity()
    assert (trained.n, trained.median, trained.worst) == (6, 0, 0)
    assert (adapter.n, adapter.worst) == (6, pytest.approx(-0.2))
    assert (memory.n, memory.median, memory.worst) == (4, pytest.approx(0.075), pytest.approx(-0.25))
    assert (time.n, time.median, time.lean) == (4, pytest.approx(0.15), pytest.approx(0.1))
    assert [(each.quantity, each.method) for each in found.by_method()] == [
        ("train_memory_bytes", "full"),
        ("train_memory_bytes", "lora"),
        ("train_seconds", "full"),
        ("train_seconds", "lora"),
    ]
    (worst,) = (point for point in found.points if point.method == "full" and point.quantity == "train_seconds")
    assert worst.error == pytest.approx(0.25)


def test_a_run_that_was_too_short_is_planned_now(tmp_path: Path) -> None:
    kept = {"rows": 4, "tokens": 16, "labels": 4, "dtype": "float32", "quantise": "", "checkpointing": False}
    trained_on = {**kept, "optimiser": "adamw", "mean_tokens": 12.5, "n_rows": 40, "head_kind": "lm", "n_labels": 0}
    told = {**plan(left_out=SHORT), "trained_on": trained_on}
    write_run(tmp_path / "short", "lora", told, train_memory_bytes=50 * MB, train_seconds=1.0)
    found = grade([tmp_path], planned_now)
    assert (found.n_planned_now, dict(found.left_out)) == (1, {})
    assert {"train_memory_bytes", "train_seconds"} <= {point.quantity for point in found.points}


def test_of_a_run_that_went_on_from_a_checkpoint_the_time_is_graded(tmp_path: Path) -> None:
    told = plan(None, 12, RESUMED)
    write_run(tmp_path / "resumed", "lora", told, train_memory_bytes=50 * MB, train_seconds=10)
    found = grade([tmp_path], planned_now)
    assert found.left_out == {f"memory: {RESUMED}": 1}
    assert [(point.quantity, round(point.error, 3)) for point in found.points][2:] == [("train_seconds", 0.2)]


def test_the_figure_has_a_dot_a_run_and_its_bands(runs: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    write_figure(grade([runs], planned_now), tmp_path / "grade.svg")
    drawn = (tmp_path / "grade.svg").read_text("utf-8")
    assert drawn.count("<svg") == 1
    write_figure(grade([runs], planned_now), tmp_path / "grade.png")
    assert (tmp_path / "grade.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UserError, match="cannot draw"):
        write_figure(grade([runs], planned_now), tmp_path / "grade.doc")


def test_folders_without_a_trained_run_say_so(tmp_path: Path) -> None:
    write_run(tmp_path / "frozen", "frozen", None)
    with pytest.raises(UserError, match="has trained anything"):
        grade([tmp_path], planned_now)
    with pytest.raises(UserError, match="no such folder"):
        grade([tmp_path / "nowhere"], planned_now)
