"""Seed tasks in both forms, and what is shown of them."""

import json
from pathlib import Path

import pytest

from tunewise.errors import UserError
from tunewise.teacher import prompts
from tunewise.teacher.outputs import read_prompts
from tunewise.teacher.rows import Row
from tunewise.teacher.seeds import Task, read_seeds
from tunewise.teacher.shown import LONGEST, Shown, of_different_instructions

PLAIN = [{"instruction": f"Do {i}.", "input": "x" if i % 2 else "", "output": str(i)} for i in range(5)]


def written(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def test_both_forms(tmp_path: Path) -> None:
    nested = {"id": "a", "instruction": " Sort it. ", "instances": [{"input": "p", "output": "q"}, {"output": "r"}]}
    path = written(tmp_path / "seeds.jsonl", [*PLAIN, {**nested, "is_classification": True}])
    seeds = read_seeds(path)
    assert seeds[1] == Task("seed2", "Do 1.", (("x", "1"),), None)
    assert seeds[5] == Task("a", "Sort it.", (("p", "q"), ("", "r")), True)
    (tmp_path / "seeds.csv").write_text("instruction,output\n" + "".join(f"Do {i}.,{i}\n" for i in range(4)))
    assert [task.instances for task in read_seeds(tmp_path / "seeds.csv")] == [(("", str(i)),) for i in range(4)]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (PLAIN[:3], "holds 3 seed tasks"),
        ([*PLAIN, {"text": "x"}], "line 6 has no instruction"),
        ([*PLAIN, {"instruction": "Do it.", "output": " "}], "line 6 has no output"),
        ([*PLAIN, {"instruction": "Do it.", "instances": [{"input": "x"}]}], "line 6 has no output"),
        ([{**row, "id": "same"} for row in PLAIN], "two tasks with the id same"),
    ],
)
def test_seeds_that_are_none(tmp_path: Path, rows: list[dict], message: str) -> None:
    with pytest.raises(UserError, match=message) as told:
        read_seeds(written(tmp_path / "seeds.jsonl", rows))
    assert told.value.hint


def test_what_is_shown_depends_on_seed_and_place_alone(tmp_path: Path) -> None:
    seeds = [Task(f"s{i}", f"Do {i}.", (("", str(i)),), i % 3 == 0) for i in range(30)]
    made = [Row(f"Make {i}.", "", "x", "writer", f"0/{i}") for i in range(9) for _ in range(2)]
    generated = of_different_instructions(made)
    assert [task.instruction for task in generated] == [f"Make {i}." for i in range(9)]
    shown, again, other = Shown(seeds, 0), Shown(seeds, 0), Shown(seeds, 1)
    first = shown.instructions("1/4", generated)
    assert [task in generated for task in first].count(True) == 2
    assert len({task.id for task in first}) == 8
    assert first == again.instructions("1/4", generated)
    assert first != shown.instructions("1/5", generated)
    assert first != other.instructions("1/4", generated)
    assert len(shown.instructions("0/0", [])) == 8
    assert {task.is_classification for task in shown.classes} == {True}
    assert {task.is_classification for task in shown.others} == {False}
    assert sorted(task.is_classification for task in shown.mixed) == [False] * 3 + [True] * 3


def test_examples_of_ours_stand_in_where_the_seeds_have_none() -> None:
    unsaid = [Task(f"s{i}", f"Do {i}.", (("", "x" * LONGEST),)) for i in range(5)]
    shown = Shown(unsaid, 0)
    assert [len(shown.classes), len(shown.others), len(shown.mixed)] == [2, 2, 4]
    assert not set(shown.mixed) - set(prompts.EXAMPLES)


def test_the_texts_end_with_the_label_of_what_is_wanted() -> None:
    task = Task("a", "Sort\nit.", (("p", "q"), ("", "r")), True)
    assert prompts.instructions([task] * 2, 8).endswith("Task 1: Sort it.\nTask 2: Sort it.\nTask 3:")
    assert prompts.is_classification([task], "Do\nit.").endswith("Task: Sort it.\nAnswer: yes\n\nTask: Do it.\nAnswer:")
    assert prompts.input_first([task], "Do it.").endswith("Task: Sort it.\nInput: p\nOutput: q\n\nTask: Do it.\nInput:")
    expected = "Task: Sort it.\nLabel: q\nInput: p\nLabel: r\nInput: none\n\nTask: Do it.\nLabel:"
    assert prompts.output_first([task], "Do it.").endswith(expected)
    assert prompts.whole([task], 8).endswith("Task 1: Sort it.\nInput: p\nOutput: q\n\nTask 2:")
    assert prompts.answer("Do it.", "p", chats=True) == "Do it.\n\np"
    assert prompts.answer("Do it.", "p", chats=False) == "Human: Do it.\np\nAssistant:"
    assert prompts.answer("Do it.", "", chats=False) == "Human: Do it.\nAssistant:"


def test_prompts_of_any_column(tmp_path: Path) -> None:
    path = written(tmp_path / "prompts.jsonl", [{"question": "Why?", "context": "It rains."}, {"question": "How?"}])
    assert [(one.line, one.instruction, one.input) for one in read_prompts(path)] == [
        (1, "Why?", "It rains."),
        (2, "How?", ""),
    ]
    with pytest.raises(UserError, match="has none of the columns instruction, prompt"):
        read_prompts(written(path, [{"sentence": "Why?"}]))
