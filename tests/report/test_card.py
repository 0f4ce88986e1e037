"""A model card beside a real adapter: the hub's own reader takes its front matter, and its code loads the adapter."""

import re
from importlib import import_module
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results
from typer.testing import CliRunner

import tunewise
from tests.report.runs import write_runs
from tests.small_base import write_reviews
from tunewise.cli import app
from tunewise.errors import UserError
from tunewise.report.arms import Arm, read_arms
from tunewise.report.card import scores_of, shipped_run, write_card
from tunewise.report.decision import decide
from tunewise.report.folders import Run
from tunewise.report.proof_table import planner_grades
from tunewise.report.words import base_called, cell
from tunewise.stats import mean_interval

CODE = re.compile(r"```python\n(.*?)```", re.S)
TRAINING = {"train.steps": 4, "train.learning_rate": 4e-3}


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of LoRA and of whole layers, which peft has no format for."""
    root = tmp_path_factory.mktemp("compared")
    methods = ["lora", {"name": "top_layers", "layers": 1}]
    with pytest.MonkeyPatch.context() as patch:  # the reload in a fresh process is tested elsewhere
        patch.setattr(import_module("tunewise.comparison.grid"), "add_reload_proof", lambda *_: [])
        data = str(write_reviews(root / "reviews.csv"))
        tunewise.compare(data, methods=methods, seeds=(0, 1), out=root, overrides=TRAINING)
    return root


def card_of(root: Path, label: str) -> tuple[Path, Arm]:
    arm = next(arm for arm in read_arms(root) if arm.label.startswith(label))
    return write_card([arm], decide([arm])), arm


@pytest.mark.parametrize(("label", "library"), [("lora", "peft"), ("top_layers", "tunewise")])
def test_the_hub_reads_the_front_matter(compared: Path, label: str, library: str) -> None:
    path, arm = card_of(compared, label)
    assert path == shipped_run(arm).folder / "adapter" / "README.md"
    card = ModelCard.load(path)
    data = card.data.to_dict()
    assert (data["base_model"], data["library_name"]) == ("tiny", library)
    assert (data["pipeline_tag"], data["datasets"]) == ("text-generation", ["reviews"])
    assert data["metrics"] == ["accuracy", "f1", "matthews_correlation", "ece", "brier"]
    assert {"tunewise", "adapter"} <= set(data["tags"])
    name, results = model_index_to_eval_results(data["model-index"])
    assert name.startswith(f"tiny-reviews-{label}")
    found = {result.metric_type: result.metric_value for result in results}
    test = shipped_run(arm).metrics["test"]
    assert found == dict(zip(data["metrics"], (round(value, 4) for value in test.values())))
    assert results[0].dataset_split == "test"
    for heading in ("How to use it", "What it reaches", "What it forgot", "How it was trained", "What was proved"):
        assert f"\n## {heading}\n" in card.text
    assert (
        f"| accuracy % | {arm.quality.mean:.1f} ± {arm.quality.half_width:.1f} | {test['accuracy']:.1f} |" in card.text
    )
    assert "{text}" in card.text
    assert ("peft loads this folder" in card.text) == (library == "peft")


def test_the_code_on_the_card_loads_the_adapter(compared: Path) -> None:
    path, arm = card_of(compared, "lora")
    code = [body.replace("FOLDER_OF_THIS_CARD", str(path.parent)) for body in CODE.findall(path.read_text("utf-8"))]
    assert len(code) == 2
    ours: dict[str, object] = {}
    exec(code[0], ours)
    tuned = ours["tuned"]
    assert isinstance(tuned, tunewise.Tuned)
    assert tuned.n_trainable == arm.n_trainable
    theirs = {"base": tunewise.load_base("tiny")}
    exec(code[1], theirs)
    n_theirs = sum(p.numel() for name, p in theirs["model"].named_parameters() if "lora_" in name)
    assert n_theirs == arm.n_trainable


def test_the_runs_grade_the_planner(compared: Path) -> None:
    arms = [card_of(compared, label)[1] for label in ("lora", "top_layers")]
    grades = planner_grades(arms)
    assert [(grade.label, grade.what) for grade in grades] == [
        (arm.label, what) for arm in arms for what in ("trained parameters", "adapter on disk")
    ]
    assert [grade.error for grade in grades[::2]] == ["exact", "exact"]
    assert all(grade.error.startswith("−") for grade in grades[1::2])  # a folder holds more than its tensors


def test_a_card_does_not_spoil_the_folder(compared: Path) -> None:
    path, _ = card_of(compared, "lora")
    base = tunewise.load_base("tiny")
    tunewise.load_adapter(base.model, path.parent, tokenizer=base.tokenizer).detach()


def test_the_seed_to_ship_is_the_best_on_dev(tmp_path: Path) -> None:
    arms = {arm.label: arm for arm in read_arms(write_runs(tmp_path))}
    assert shipped_run(arms["lora"]).metrics["seed"] == 2
    assert shipped_run(arms["frozen (shots=0)"]).metrics["seed"] == 0  # all alike: the first


def test_what_trains_nothing_has_no_card(tmp_path: Path) -> None:
    arms = [arm for arm in read_arms(write_runs(tmp_path)) if not arm.n_trainable]
    with pytest.raises(UserError, match="has no adapter"):
        write_card(arms, decide(arms))


def test_the_verb_writes_page_csv_and_card(compared: Path, tmp_path: Path) -> None:
    root = next(compared.rglob("lora-*"))
    words = ["report", str(root), "--out", str(tmp_path / "page.html"), "--csv", str(tmp_path / "table.csv"), "--card"]
    result = CliRunner().invoke(app, words, prog_name="tunewise")
    assert result.exit_code == 0, result.output
    assert result.output.count("wrote ") == 3
    assert (tmp_path / "table.csv").read_text().startswith("arm,method,seeds,")
    page = (tmp_path / "page.html").read_text("utf-8")
    assert "Take none yet" in page, "so few steps teach nothing"
    assert "The adapter to ship" not in page


def test_a_bar_in_a_name_ends_no_column() -> None:
    assert cell("lora | rank=8\nand more") == "lora \\| rank=8 and more"


@pytest.mark.parametrize(
    ("base", "called"),
    [
        ("tiny", "tiny"),
        ("a/b/stories/hf", "stories/hf"),
        ("EleutherAI/pythia-70m", "pythia-70m"),
        ("hf", "hf"),
        ("o/n@refs/pr/3", "n"),
        ("o/n@v1", "n"),
    ],
)
def test_what_a_base_is_called(base: str, called: str) -> None:
    assert base_called(base) == called


def test_the_score_of_the_seed_is_written_as_the_mean_beside_it() -> None:
    test = {"macro_average": 50.0, "news.loss": 0.4625, "quiz.accuracy": 61.26}
    run = Run(Path("seed0"), {}, {"test": test}, {}, ())
    arm = Arm("lora", (run,), "macro_average", (50.0,), mean_interval([50.0]), None)
    assert [(mean, own) for _, mean, own in scores_of(arm)] == [("50.0", "50.0"), ("0.463", "0.463"), ("61.3", "61.3")]
