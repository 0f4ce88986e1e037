"""`tunewise plan --grade` and `--measure` through the real command."""

import json
from pathlib import Path

import pytest

from tests.cli.command import tunewise
from tunewise.run import build_recipe, run


@pytest.fixture(scope="module")
def runs(base: Path, reviews: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("graded") / "runs"
    recipe = build_recipe(
        {"model": str(base), "data": str(reviews), "method": "lora"}, {"train.steps": 3, "train.batch_size": 4}
    )
    run(recipe, root / "lora", prove=False)
    return root


def test_runs_grade_the_planner(runs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(runs.parent)
    found = tunewise("plan", "--grade")
    assert found.code == 0, found.err
    for told in ("1 run that trained", "trained parameters", "exact", "memory of training", "planned them now"):
        assert told in found.out
    data = json.loads(tunewise("plan", "--grade", runs / "lora", "--json", "--plot", tmp_path / "g.svg").out)
    assert data["n_runs"] == 1
    assert {each["quantity"] for each in data["by_quantity"]} >= {"n_trainable", "train_seconds", "train_memory_bytes"}
    assert "<svg" in (tmp_path / "g.svg").read_text("utf-8")


def test_a_measured_plan_tells_the_step(base: Path) -> None:
    found = tunewise("plan", base, "--method", "lora", "--measure", "train.batch_size=2", "train.max_length=24")
    assert found.code == 0, found.err
    told = " ".join(found.out.split())
    assert "measured: 3 steps of lora" in told
    assert "in every row time ×" in told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--grade", "nowhere"], "no such folder"),
        ([], "no base is named"),
        (["llama-3.1-8b", "--measure", "--method", "lora"], "a shape without weights"),
        (["tiny", "--measure", "--device", "h200"], "measured here, not on h200"),
    ],
)
def test_what_cannot_be_graded_or_measured_says_why(words: list[str], told: str) -> None:
    found = tunewise("plan", *words)
    assert found.code == 2
    assert told in " ".join(found.err.split())
