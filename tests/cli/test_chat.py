"""`tunewise chat` as it is typed: one question and many, in columns and below one another, and what is no question."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.cli.command import tunewise
from tunewise.cli import app


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, base: Path, reviews: Path) -> Path:
    """A folder with two arms."""
    root = tmp_path_factory.mktemp("chat")
    for rank in (2, 4):
        found = tunewise(
            "train", "--model", base, "--data", reviews, "--out", root / f"task/lora-{rank}/seed0",
            f"method.rank={rank}", "train.steps=2", "retention=null",
        )  # fmt: skip
        assert found.code == 0, found.err
    return root


def test_a_folder_of_runs_is_asked_arm_by_arm(runs: Path) -> None:
    found = tunewise("chat", runs, "--ask", "the soup was good", "--ask", "the boat was bad", "--json")
    assert found.code == 0, found.err
    told = json.loads(found.out)
    assert [each["question"] for each in told] == ["the soup was good", "the boat was bad"]
    for each in told:
        assert [answer["who"] for answer in each["answers"]] == ["base", "lora (rank=2)", "lora (rank=4)"]
        for answer in each["answers"]:
            assert answer["text"] in ("positive", "negative")
            assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-5)
            assert answer["text"] == max(answer["probabilities"], key=answer["probabilities"].__getitem__)


def test_a_pipe_holds_a_question_a_line_and_answers_stand_in_columns(runs: Path) -> None:
    words = ["chat", str(runs / "task/lora-2/seed0"), "--free", "--max-new-tokens", "40"]
    result = CliRunner().invoke(app, words, input='the soup\n\n{"text": "the boat"}\n', env={"COLUMNS": "100"})
    assert result.exit_code == 0, result.stderr
    blocks = result.stdout.strip().split("\n\n>")
    assert len(blocks) == 2
    assert blocks[0].startswith("> the soup\n")
    assert blocks[1].startswith(" text: the boat\n")
    assert all(
        [word for word in block.splitlines()[1].split() if word.isalnum()] == ["base", "seed0"] for block in blocks
    )


def test_a_pipe_begins_new_conversations_and_leaves(runs: Path) -> None:
    words = ["chat", str(runs / "task/lora-2/seed0"), "--json"]
    result = CliRunner().invoke(app, words, input="the soup was good\n/new\nthe boat was bad\n/quit\nthe soup\n")
    assert result.exit_code == 0, result.stderr
    assert [each["question"] for each in json.loads(result.stdout)] == ["the soup was good", "the boat was bad"]


def test_short_answers_stand_below_one_another(runs: Path) -> None:
    found = tunewise("chat", runs, "--ask", "the soup was good")
    lines = [line.strip() for line in found.out.strip().splitlines()]
    assert lines[0] == "> the soup was good"
    assert [line.split("│")[0].strip() for line in lines[1:]] == ["base", "lora (rank=2)", "lora (rank=4)"]
    assert all(line.endswith("%") for line in lines[1:])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "nobody to talk to"),
        (("nowhere",), "nowhere"),
        (("RUN", "--ask", '{"texts": "a"}'), "did you mean"),
        (("RUN", "--system", "be kind", "--ask", "a"), "system prompt"),
        (("RUN", "train.steps=3", "--ask", "a"), "changes nothing"),
    ],
)
def test_what_cannot_be_asked_is_told(runs: Path, words: tuple[str, ...], message: str) -> None:
    given = [str(runs / "task/lora-2/seed0") if word == "RUN" else word for word in words]
    found = tunewise("chat", *given)
    assert found.code == 2
    assert message in found.err


def test_a_run_whose_path_holds_an_equals_sign_is_a_run(runs: Path, tmp_path: Path) -> None:
    place = shutil.copytree(runs / "task/lora-2/seed0", tmp_path / "lr=1e-3")
    found = tunewise("chat", place, "seed=1", "--ask", "the soup was good", "--json")
    assert found.code == 0, found.err
    assert [each["who"] for each in json.loads(found.out)[0]["answers"]] == ["base", "lr=1e-3"]
    named_base = place.rename(tmp_path / "base")
    found = tunewise("chat", named_base, "--ask", "the soup was good", "--json")
    assert [each["who"] for each in json.loads(found.out)[0]["answers"]] == ["base", str(named_base)]
    place = named_base.rename(place)
    assert tunewise("eval", place, "--limit", "2", "seed=1").code == 0
    assert tunewise("eval", f"{place}x", "--limit", "2").code == 2


def test_names_of_emoji_and_brackets_stay_as_they_were_typed(runs: Path) -> None:
    asked = "meet at 10:cat:30 [bold]now"
    found = tunewise("chat", runs / "task/lora-2/seed0", "--ask", asked)
    assert found.code == 0, found.err
    assert found.out.startswith(f"> {asked}\n")
