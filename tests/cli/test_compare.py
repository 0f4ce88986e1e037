"""`tunewise compare`: its options reach the protocol, the verdict and the page."""

import json
from pathlib import Path

import pytest

from tests.cli.command import tunewise
from tunewise.cli.compare import arms_of, laid_over, seeds_of

pytestmark = pytest.mark.usefixtures("without_a_fresh_process")
QUICK = ("train.steps=4", "train.batch_size=4")


def test_trials_and_the_rule_stand_in_the_comparison_the_table_and_the_page(
    base: Path, reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunewise.report.decision.majority_score", lambda _: None)  # no better than it, few steps on
    words = ("--methods", "frozen,lora:rank=2", "--seeds", "0,1", "--trials", "2", "--margin", "100", "--alpha", "0.2")
    asked = ("compare", "--model", base, "--data", reviews, *words, "--weights", "bytes=1,seconds=0.5")
    found = tunewise(*asked, "--out", tmp_path, *QUICK)
    assert found.code == 0, found.err
    content = json.loads((tmp_path / "comparison.json").read_text())
    assert content["protocol"] == {
        "seeds": [0, 1], "trials": 2, "allow_unlike": [], "margin": 100, "alpha": 0.2,
        "weights": {"bytes": 1.0, "seconds": 0.5}, "against": "", "ignore_findings": False,
    }  # fmt: skip
    verdict = content["verdict"]
    assert (verdict["margin"], verdict["alpha"], verdict["weights"]) == (100, 0.2, {"bytes": 1.0, "seconds": 0.5})
    assert verdict["open"] == verdict["worse"] == [], "all are within 100 points"
    assert verdict["pick"] == "frozen", "what has no bytes and no steps"
    # two trials of each arm, both to the end, and two seeds
    counted = [line[:3] for line in found.err.splitlines() if line[1:3] == "/4"]
    assert counted == [f"{n}/4" for n in range(1, 5)] * 2
    chosen = content["arms"][1]["search"]["values"]["train.learning_rate"]
    assert chosen in (2e-4, 8e-4)
    page = (tmp_path / "report.html").read_text("utf-8")
    for text in (found.out, page):
        assert "Take frozen" in text
        assert f"learning rate {chosen:.3g}" in " ".join(text.split())
    assert "within 100 points of the best mean" in " ".join(found.out.split()) + page
    again = tunewise("report", tmp_path, "--out", tmp_path / "again.html")
    assert again.code == 0, again.err
    assert "within 100 points of the best mean" in (tmp_path / "again.html").read_text("utf-8"), "by the stored rule"


def test_a_plan_says_what_it_would_cost_and_leaves_nothing(base: Path, reviews: Path, tmp_path: Path) -> None:
    words = ("--methods", "frozen,lora,full", "--seeds", "0,1,2", "--trials", "4", "--plan", "--out", tmp_path / "runs")
    found = tunewise("compare", "--model", base, "--data", reviews, *words, "--json", *QUICK)
    assert found.code == 0, found.err
    plan = json.loads(found.out)
    assert not (tmp_path / "runs").exists()
    assert [arm["n_trials"] for arm in plan["arms"]] == [4, 4, 4]
    assert (plan["n_runs"], plan["n_trials"]) == (9, 12)
    assert plan["arms"][0]["n_trainable"] == 0 < plan["arms"][1]["n_trainable"] < plan["arms"][2]["n_trainable"]
    assert all(arm["run_seconds"] > 0 and arm["search_seconds"] > 0 for arm in plan["arms"])
    assert all(arm["peak_bytes"] > 1e6 for arm in plan["arms"])
    for arm in plan["arms"]:
        assert arm["seconds"] == pytest.approx(arm["search_seconds"] + 3 * arm["run_seconds"], abs=0.05)
    found = tunewise("compare", "--model", base, "--data", reviews, *words, *QUICK)
    assert "9 runs and 12 trials: about " in found.out


def test_a_recipe_of_a_comparison_and_what_wins_over_it(base: Path, reviews: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "both.yaml"
    recipe.write_text(
        f"model: {base}\ndata: {reviews}\narms:\n  A: lora\n  B: {{method: {{name: ia3}}, train: {{warmup: 0}}}}\n"
        "seeds: [0, 1]\ntrain: {batch_size: 4, steps: 9}\nmargin: 5\n"
    )
    found = tunewise("compare", recipe, "train.steps=2", "--seeds", "3", "--out", tmp_path / "runs", "--json")
    assert found.code == 0, found.err
    content = json.loads(found.out)
    assert [(arm["label"], arm["seeds"]) for arm in content["arms"]] == [("A", [3]), ("B", [3])]
    assert (content["verdict"]["margin"], content["arms"][0]["search"]) == (5, None)
    assert {json.loads(path.read_text())["steps"] for path in (tmp_path / "runs").rglob("metrics.json")} == {2}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--weights", "bytes"), "cannot read the weight 'bytes'"),
        (("--weights", "byte=1"), "no such cost: byte"),
        (("--alpha", "2"), "alpha = 2.0"),
        (("--trials", "0"), "trials = 0"),
        (("--seeds", "3-1"), "cannot read the seeds '3-1'"),
        (("--seeds", "one"), "cannot read the seeds 'one'"),
        (("arms.lora.train.steps=9", "arms.ia3=ia3", "trails=3"), "did you mean trials?"),
        (("--methods", "lora", "arms.lroa.train.steps=9"), "no arm of --methods named 'lroa'"),
    ],
)
def test_bad_options_are_refused(words: tuple[str, ...], told: str, base: Path, reviews: Path) -> None:
    found = tunewise("compare", "--model", base, "--data", reviews, *words)
    assert found.code == 2
    assert told in found.err


def test_seeds_are_numbers_and_ranges(caplog: pytest.LogCaptureFixture) -> None:
    assert seeds_of("0-2, 7,9-9") == [0, 1, 2, 7, 9]
    with caplog.at_level("INFO", "tunewise"):
        assert seeds_of("5") == [5]
    assert "--seeds 5 is one seed; so many are --seeds 0-4" in caplog.text


def test_words_of_an_arm_are_laid_over_those_of_methods() -> None:
    found = laid_over(arms_of("frozen,lora:rank=8"), ["arms.frozen.method.shots=2", "train.steps=3"])
    assert list(found) == ["frozen", "lora rank=8"]
    assert found["frozen"]["method"] == {"name": "frozen", "shots": 2}
    assert found["lora rank=8"]["method"]["rank"] == 8


def test_unlike_arms_are_refused_unless_it_is_meant(base: Path, reviews: Path, tmp_path: Path) -> None:
    arms = ("arms.A=lora", "arms.B.method=ia3", "arms.B.train.steps=1", "train.batch_size=4", "train.steps=2")
    arms += ("dtype=float32",)  # in bfloat16 one step of ia3 has no effect, and its proof says so
    asked = ("compare", "--model", base, "--data", reviews, *arms, "--seeds", "0", "--out", tmp_path)
    found = tunewise(*asked)
    assert found.code == 2
    assert "unlike arms: train.steps is 2 for A and 1 for B" in found.err
    found = tunewise(*asked, "--allow-unlike", "train.steps", "--json")
    assert found.code == 0, found.err
    assert json.loads(found.out)["unlike"] == {"train.steps": {"A": 2, "B": 1}}
    told = "Unlike beside the method, train.steps: A 2, B 1."
    assert told in tunewise(*asked, "--allow-unlike", "train.steps").out
    assert told in (tmp_path / "report.html").read_text("utf-8")


def test_a_comparison_is_no_recipe_of_one_run() -> None:
    found = tunewise("train", "recipes/compare-sentiment.yaml")
    assert found.code == 2
    assert "tunewise compare" in found.err
