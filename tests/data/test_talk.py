"""Conversations in one column or in several: what is recognised, what is trained, and what may be named instead."""

import json
from pathlib import Path

import pytest

from tests.data.tokenizers_for_tests import bytes_without_begin
from tunewise.data.config import DataConfig
from tunewise.data.load import load_task
from tunewise.data.readers import read_rows
from tunewise.data.task import Task
from tunewise.errors import UserError


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict:
    return {"role": "assistant", "content": text}


def loaded(rows: list[dict], tokenizer=None, **config) -> Task:
    """Ten copies of the rows, # being the number of the copy."""
    lines = [json.dumps(row).replace("#", str(n)) + "\n" for n in range(10) for row in rows]
    Path("rows.jsonl").write_text("".join(lines))
    return load_task(DataConfig(path="rows.jsonl", **config), tokenizer)


def first(task: Task) -> list[tuple[str, bool]]:
    """The parts of the first row."""
    examples = (*task.train, *task.dev, *task.test)
    return [(part.text, part.trained) for part in next(one for one in examples if one.line == 1).parts]


ALPACA = {"instruction": "Say it # in", "input": "French", "output": "Bonjour", "system": "Be kind.",
          "history": [["Say hello", "hello"]]}  # fmt: skip
TALKED = [
    ("System: Be kind.\nHuman: Say hello\nAssistant:", False), (" hello", True),
    ("\nHuman: Say it 0 in\nFrench\nAssistant:", False), (" Bonjour", True),
]  # fmt: skip


def test_an_instruction_with_a_system_text_and_a_history():
    task = loaded([ALPACA])
    assert first(task) == TALKED
    assert task.ledger.detected.startswith(
        "rows.jsonl: chat messages in columns instruction and input and output; system in system, history in history; "
        "choose another with data.messages=COLUMN; written by the template plain, "
    )
    bare = [ALPACA | {"system": "", "history": []}, ALPACA | {"instruction": "Other # in"}]
    assert first(loaded(bare)) == [("Human: Say it 0 in\nFrench\nAssistant:", False), (" Bonjour", True)]
    chatml = loaded([ALPACA], bytes_without_begin())
    assert "".join(text for text, _ in first(chatml)).startswith("<|im_start|>system\nBe kind.<|im_end|>\n")


def test_an_instruction_whose_system_and_history_are_empty_is_no_conversation():
    task = loaded([ALPACA | {"system": "", "history": []}])
    assert "instruction and response in columns instruction and input and output" in task.ledger.detected
    assert first(task)[0] == ("Human: Say it 0 in\nFrench\nAssistant:", False)


def test_its_columns_can_be_named():
    renamed = {"ask": "Say # it", "reply": "Bonjour", "who": "Be kind.", "before": [["Say hello", "hello"]]}
    assert first(loaded([renamed], prompt="ask", completion="reply", system="who", history="before")) == [
        *TALKED[:2], ("\nHuman: Say 0 it\nAssistant:", False), TALKED[3],
    ]  # fmt: skip
    with pytest.raises(UserError, match="no column named 'whom' in"):
        loaded([renamed], prompt="ask", completion="reply", system="whom")


def test_columns_of_a_preference_can_be_named():
    row = {"q": [user("hi #")], "good": [assistant("hello")], "bad": [assistant("no")]}
    assert first(loaded([row], prompt="q", completion="good", rejected="bad")) == PAIR
    whole = {"good": [*row["q"], *row["good"]], "bad": [*row["q"], *row["bad"]]}
    assert first(loaded([whole], completion="good", rejected="bad")) == PAIR
    assert first(loaded([{"prompt": row["q"], "chosen": row["good"], "worse": row["bad"]}], rejected="worse")) == PAIR
    with pytest.raises(UserError, match="did you mean 'worse'"):
        loaded([{"prompt": row["q"], "chosen": row["good"], "worse": row["bad"]}], rejected="wrose")


@pytest.mark.parametrize("field", ["system", "tools", "history", "rejected"])
def test_a_named_column_of_no_use_is_refused(field):
    with pytest.raises(
        UserError, match=f"data.{field} changes nothing: rows.jsonl is taken as text and label"
    ) as error:
        loaded(
            [{"text": "a #", "label": "x", "more": "b"}, {"text": "b #", "label": "y", "more": "b"}], **{field: "more"}
        )
    assert "data.messages=COLUMN" in error.value.hint


def test_columns_that_only_have_the_names_are_not_taken():
    row = {"messages": [user("hi #"), assistant("hello")], "history": "seen twice", "tools": ["hammer"], "system": None}
    task = loaded([row | {"": "x"}])
    assert "chat messages in column messages; choose another" in task.ledger.detected
    assert task.ledger.rejected == ()
    assert first(task)[0] == ("Human: hi 0\nAssistant:", False)


def test_messages_with_a_system_column():
    row = {"conversations": [user("hi #"), assistant("hello")], "system": "Be kind."}
    assert first(loaded([row]))[0] == ("System: Be kind.\nHuman: hi 0\nAssistant:", False)
    own = row | {"conversations": [{"role": "system", "content": "Be short."}, *row["conversations"]]}
    assert first(loaded([own]))[0] == ("System: Be short.\nHuman: hi 0\nAssistant:", False)


def test_messages_as_json_text_in_a_cell():
    cells = [json.dumps([user(f"hi {n}"), assistant("hello")]).replace('"', '""') for n in range(9)]
    Path("chat.csv").write_text("messages,source\n" + "".join(f'"{cell}",web\n' for cell in cells))
    assert load_task("chat.csv").train[0].answer == " hello"


PAIR = [("Human: hi 0\nAssistant:", False), (" hello", True)]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [user("hi #")], "completion": [assistant("hello")]},
        {"prompt": "hi #", "completion": [assistant("hello")]},
        {"prompt": [user("hi #")], "completion": "hello"},
        {"prompt": [user("hi #")], "chosen": [assistant("hello")], "rejected": [assistant("go away")]},
        {"chosen": [user("hi #"), assistant("hello")], "rejected": [user("hi #"), assistant("go away")]},
        {"prompt": "hi #", "prompt_id": "x", "chosen": [user("hi #"), assistant("hello")],
         "rejected": [user("hi #"), assistant("go away")], "messages": [user("hi #"), assistant("hello")]},
        {"conversations": [{"from": "human", "value": "hi #"}], "chosen": {"from": "gpt", "value": "hello"},
         "rejected": {"from": "gpt", "value": "go away"}},
    ],
)  # fmt: skip
def test_questions_and_answers_as_messages(row):
    task = loaded([row])
    assert first(task) == PAIR
    assert ("the answers in rejected are kept and not trained" in task.ledger.detected) == ("rejected" in row)
    assert read_rows("rows.jsonl")[0].value == json.loads(json.dumps(row).replace("#", "0"))


def test_of_a_prompt_only_what_answers_it_is_trained():
    before = [user("hi #"), assistant("hello"), user("why?")]
    for row in (
        {"prompt": before, "completion": [assistant("because")]},
        {"chosen": [*before, assistant("because")], "rejected": [*before, assistant("no")]},
    ):
        task = loaded([row])
        assert [text for text, trained in first(task) if trained] == [" because"]
        assert "\nAssistant: hello\n" in first(task)[0][0]


def test_chosen_and_rejected_texts():
    task = loaded([{"prompt": "hi # ", "chosen": "hello", "rejected": "go away"}])
    assert first(task) == [("hi 0 ", False), ("hello", True)]
    told = "prompt, chosen and rejected in columns prompt and chosen (rejected is kept, and not trained on), asked"
    assert told in task.ledger.detected
    both = {"chosen": "\n\nHuman: hi #\n\nAssistant: Good day", "rejected": "\n\nHuman: hi #\n\nAssistant: Go away"}
    task = loaded([both, both | {"chosen": "other # same", "rejected": "other # same"}])
    assert first(task) == [("\n\nHuman: hi 0\n\nAssistant: ", False), ("Good day", True)]
    assert {note.reason for note in task.ledger.rejected} == {"its chosen and rejected are the same"}
    named = loaded([{"q": "hi #", "good": "hello", "bad": "no"}], prompt="q", completion="good", rejected="bad")
    assert first(named) == [("hi 0", False), (" hello", True)]
    assert "columns q and good" in named.ledger.detected


def test_answers_that_are_the_same_and_empty_ones_are_rejected_rows():
    turns = [user("hi #"), assistant("hello")]
    good = {"chosen": turns, "rejected": [user("hi #"), assistant("no")]}
    task = loaded([good, {"chosen": turns, "rejected": turns}])
    assert {note.reason for note in task.ledger.rejected} == {"its chosen and rejected are the same"}
    good = {"prompt": [user("hi #")], "completion": [assistant("hello")]}
    bad = [
        good | {"completion": ""}, good | {"completion": [3]}, good | {"prompt": ""}, good | {"prompt": None},
        good | {"completion": [user("x")]}, {"completion": [assistant("hello")]},
    ]  # fmt: skip
    task = loaded([good, *bad])
    assert len(task.ledger.rejected) == 50 + 10
    assert task.ledger.rows == task.ledger.trained + len(task.ledger.rejected) == 70


def test_a_history_that_is_none_is_a_rejected_row():
    for history in ("hello", [["only one"]], [[1, 2]], ["ab"], {"a": 1}):
        task = loaded([ALPACA, ALPACA | {"instruction": "x #", "history": history}])
        assert len(task.ledger.rejected) == 10, history
        assert "history" in task.ledger.rejected[0].reason


def test_context_question_and_one_answer():
    row = {"context": "The boat # is red.", "question": "Which colour?", "answer": "red"}
    task = loaded([row])
    assert "context and question in columns context and question and answer" in task.ledger.detected
    assert first(task) == [("The boat 0 is red.\nQuestion: Which colour?\nAnswer:", False), (" red", True)]
    assert task.train[0].accepted == ("red",)
