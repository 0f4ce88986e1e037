"""From a file as a person has it to a task: what is recognised, told, overridden and refused."""

import json
from collections import Counter
from pathlib import Path

import pytest

from tests.data.tokenizers_for_tests import bytes_without_begin
from tunewise.config import parse
from tunewise.data.config import DataConfig
from tunewise.data.examples import Part
from tunewise.data.found import EMBEDDED
from tunewise.data.load import load_task
from tunewise.errors import UserError


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name: str, rows: list[dict]) -> str:
    with Path(name).open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return name


def classified(n: int = 40, text: str = "text", label: str = "label") -> list[dict]:
    return [{text: f"text number {index}", label: ("ham", "spam")[index % 2]} for index in range(n)]


def refusal(spec) -> UserError:
    with pytest.raises(UserError) as error:
        load_task(spec)
    return error.value


def test_text_and_label(here):
    task = load_task(write("sms.jsonl", classified()))
    assert (task.name, task.kind, task.labels, task.source) == ("sms", "classification", ("ham", "spam"), "sms.jsonl")
    assert [len(part) for part in (task.train, task.dev, task.test)] == [32, 4, 4]
    first = task.train[0]
    assert first.prompt == f"text number {first.line - 1}\nLabel:"
    assert first.answer == f" {first.label}"
    assert task.options(first) == (" ham", " spam")
    assert first.id == f"sms:{first.line}"
    assert task.metrics == ("accuracy", "macro_f1", "mcc", "ece", "brier")
    assert task.ledger.rows == task.ledger.trained == 40
    assert task.ledger.detected == (
        "sms.jsonl: text and label in columns text and label, asked as '{text}\\nLabel:'; choose others with "
        "data.text=COLUMN data.label=COLUMN; 2 labels: ham, spam; 32 train, 4 dev, 4 test"
    )
    assert load_task("sms.jsonl") == task


@pytest.mark.parametrize(
    ("row", "shape", "prompt", "answer"),
    [
        ({"review": "a{}", "stars": "5"}, "text and label", "a{}\nLabel:", " 5"),
        ({"premise": "p", "hypothesis": "h{}", "label": 1}, "pair and label", "p\nh{}\nLabel:", " 1"),
        ({"prompt": "p{}:", "completion": "c"}, "prompt and completion", "p{}:", " c"),
        ({"prompt": "p{}: ", "completion": "c"}, "prompt and completion", "p{}: ", "c"),
        ({"question": "q{}?", "answer": "a"}, "prompt and completion", "q{}?\nAnswer:", " a"),
        ({"question": "q{}?", "answer": "a{}", "category": "x"}, "prompt and completion", "q{}?\nAnswer:", " a{}"),
        ({"question": "q{}?", "answer": "yes", "label": 1}, "text and label", "q{}?\nLabel:", " 1"),
        ({"source": ["one.", " two{} "], "target": ["s."]}, "prompt and completion", "one. two{}", " s."),
        ({"instruction": "i{}", "input": "", "output": "o"}, "instruction and response",
         "Human: i{}\nAssistant:", " o"),
        ({"instruction": "i", "context": "c{}", "response": "o"}, "instruction and response",
         "Human: i\nc{}\nAssistant:", " o"),
        ({"text": "t{}"}, "plain text", "", "t{}"),
        ({"story": "t{}"}, "plain text", "", "t{}"),
        ({"messages": [{"role": "user", "content": "u{}"}, {"role": "assistant", "content": "a"}]}, "chat messages",
         "Human: u{}\nAssistant:", " a"),
    ],
)  # fmt: skip
def test_shapes_by_name(here, row, shape, prompt, answer):
    other = {"stars": "1", "label": 0}
    rows = [
        json.loads(json.dumps(row).replace("{}", f"#{index}"))
        | ({k: other[k] for k in row if k in other} if index % 2 else {})
        for index in range(20)
    ]
    task = load_task(write("rows.jsonl", rows))
    assert shape in task.ledger.detected
    first = next(example for part in (task.train, task.dev, task.test) for example in part if example.line == 1)
    assert (first.prompt, first.answer) == (prompt.replace("{}", "#0"), answer.replace("{}", "#0"))


def test_shapes_by_content_without_a_header(here):
    (here / "a.tsv").write_text("".join(f"{('ham', 'spam')[n % 2]}\tmessage {n}, so long\n" for n in range(20)))
    task = load_task("a.tsv")
    assert task.template.prompt == "{column2}\nLabel:"
    assert "(no header line): text and label in columns column2 and column1" in task.ledger.detected
    (here / "b.tsv").write_text("".join(f"one {n}\tother {n}\t{n % 2}\n" for n in range(20)))
    assert load_task("b.tsv").template.prompt == "{column1}\n{column2}\nLabel:"


def test_columns_and_templates_can_be_chosen(here):
    rows = [{"a": f"x {n}", "b": f"y {n}", "c": "uv"[n % 2], "label": "none"} for n in range(20)]
    path = write("rows.jsonl", rows)
    assert load_task(DataConfig(path=path, text="b", label="c")).template.prompt == "{b}\nLabel:"
    assert load_task(DataConfig(path=path, text="a,b", label="c")).template.prompt == "{a}\n{b}\nLabel:"
    assert load_task(DataConfig(path=path, prompt="b", completion="a")).train[0].answer.startswith(" x ")
    asked = load_task(DataConfig(path=path, label="c", prompt="{a}? {b}!\nWhich:", answer=" it is {label}"))
    assert asked.train[0].prompt.startswith("x ")
    assert asked.train[0].prompt.endswith("!\nWhich:")
    assert asked.options(asked.train[0]) == (" it is u", " it is v")
    assert load_task(DataConfig(path=path, text="a", label="c")).labels == ("u", "v")
    written = load_task(DataConfig(path=path, completion="b", prompt="{a} ->", answer=" {b}."))
    assert written.train[0].answer.endswith(".")


def test_columns_can_be_named_together():
    told = DataConfig.model_validate({"path": "a.csv", "columns": {"text": "review", "label": "stars"}})
    assert told == DataConfig(path="a.csv", text="review", label="stars")
    for columns, more, message in (
        ({"txt": "review"}, {}, "columns.txt names no column; known: text, label"),
        ({"text": "review"}, {"text": "review"}, "text and columns.text are the same field"),
    ):
        with pytest.raises(ValueError, match=message):
            DataConfig.model_validate({"path": "a.csv", "columns": columns, **more})


def test_messages_use_the_tokenizers_own_template(here):
    talk = [{"role": "user", "content": "hi {}"}, {"role": "assistant", "content": "hello"}]
    rows = [{"messages": json.loads(json.dumps(talk).replace("{}", str(n)))} for n in range(10)]
    path = write("chat.jsonl", rows)
    assert load_task(path, bytes_without_begin()).train[0].answer == "hello"
    assert load_task(path).train[0].answer == " hello"
    renamed = write("renamed.jsonl", [{"talk": row["messages"], "x": 1} for row in rows])
    assert len(load_task(DataConfig(path=renamed, messages="talk")).train) == 8


def test_rows_that_cannot_be_used_are_in_the_ledger(here):
    rows = classified(20)
    rows[3]["label"] = ""
    rows[5]["text"] = " "
    rows[7]["text"] = [{"a": 1}]
    task = load_task(write("rows.jsonl", rows))
    assert [(note.line, note.reason) for note in task.ledger.rejected] == [
        (4, "it has no label"),
        (6, "its text is empty"),
        (8, "it has no text in text"),
    ]
    assert task.ledger.rows == 20 == task.ledger.trained + 3
    assert (
        task.ledger.sentence() == "20 rows: 17 used, 0 cut, 3 rejected; rejected: line 4: it has no label (and 2 more)"
    )


def test_files_of_a_folder_are_its_splits(here):
    (here / "intents").mkdir()
    write("intents/train.jsonl", classified(20))
    task_rows = [{"text": f"held out {n}", "label": ("ham", "spam")[n % 2]} for n in range(5)]
    write("intents/test.jsonl", [*task_rows, {"text": "TEXT number  3", "label": "spam"}, {"text": "", "label": "ham"}])
    task = load_task("intents")
    assert (task.name, len(task.train), len(task.dev), len(task.test)) == ("intents", 18, 2, 6)
    (note,) = task.ledger.rejected
    assert (note.line, note.reason) == (7, "test.jsonl: its text is empty")
    (leak,) = task.ledger.leaks
    assert (leak.line, leak.reason) == (6, "this row of test is also in train, line 4")
    write("intents/validation.jsonl", [{"text": "v", "label": "ham"}])
    assert [len(part) for part in (load_task("intents").train, load_task("intents").dev)] == [20, 1]


def test_train_can_be_limited(here):
    task = load_task(DataConfig(path=write("rows.jsonl", classified()), train=10))
    assert len(task.train) == 10
    assert sum(example.label == "ham" for example in task.train) == 5
    assert task.ledger.detected.endswith("; 10 of 32 training examples taken")
    assert load_task(DataConfig(path="tiny:sentiment", train=7)).ledger.trained == 1200


def test_dev_and_test_can_be_limited_and_keep_their_classes():
    whole = load_task(DataConfig(path="tiny:sentiment"))
    few = load_task(DataConfig(path="tiny:sentiment", train=12, dev=10, test=20))
    assert [len(part) for part in (few.train, few.dev, few.test)] == [12, 10, 20]
    assert set(few.test) < set(whole.test)
    assert [example for example in whole.test if example in set(few.test)] == list(few.test)
    assert sorted(Counter(example.label for example in few.test).values()) == [10, 10]
    assert few.ledger.detected.endswith(
        "; 12 of 500 training examples taken; 10 of 200 dev examples taken; 20 of 500 test examples taken"
    )
    of_two = {"mixture": {"sources": {"a": {"path": "tiny:sentiment", "test": 7}, "b": "tiny:entailment"}}}
    mixed = load_task(DataConfig.model_validate({**of_two, "test": 9}))
    assert {name: len(task.test) for name, task in mixed.each.items()} == {"a": 7, "b": 9}


@pytest.mark.parametrize("name", sorted(folder.parent.name for folder in EMBEDDED.glob("*/task.yaml")))
def test_embedded_tasks(name):
    task = load_task(f"tiny:{name}")
    assert task.name == name
    assert task.source == f"tiny:{name}"
    assert len(task.test) > 100
    assert task.ledger.rejected == task.ledger.leaks == ()
    assert task.ledger.trained == len(task.train) + len(task.dev) + len(task.test)
    assert task.metrics
    if task.kind == "classification":
        for example in task.test:
            assert example.label in task.labels
            assert example.answer == task.options(example)[task.labels.index(example.label)]
    if task.kind == "language_modelling":
        assert task.test[0].parts == (Part(task.test[0].text, True),)


@pytest.fixture
def task_folder(here):
    folder = here / "mood"
    folder.mkdir()
    (folder / "task.yaml").write_text(
        'name: mood\nkind: classification\nprompt: "{text}\\nMood:"\nanswer: " {label}"\n'
        "labels: [yes, no]\nmetrics: [accuracy]\n"
    )
    rows = [{"id": f"m{n}", "text": f"text {n}", "label": ("yes", "no")[n % 2]} for n in range(6)]
    for split in ("train", "test"):
        write(str(folder / f"{split}.jsonl"), [row | {"text": f"{split} {row['text']}"} for row in rows])
    return folder


def test_a_task_folder_of_ones_own(task_folder):
    task = load_task(task_folder)
    assert task.labels == ("yes", "no")
    assert (len(task.train), len(task.dev), len(task.test)) == (6, 0, 6)
    assert task.train[0].id == "m0"
    assert task.ledger.detected == f"{task_folder}: classification as its task.yaml says; 6 train, 0 dev, 6 test"


def test_bad_task_folders_are_told(task_folder):
    assert refusal(DataConfig(path=str(task_folder), text="text")).message == (
        "mood has a task.yaml, which says what its columns mean; data.text cannot change that"
    )
    write(str(task_folder / "dev.jsonl"), [{"text": "a", "label": "yess"}])
    error = refusal(task_folder)
    assert error.message.endswith("line 1: the label 'yess' is none of the task's")
    assert error.hint == "did you mean 'yes'? known: yes, no"
    write(str(task_folder / "dev.jsonl"), [{"txt": "a", "label": "yes"}])
    assert "did you mean 'txt'?" in refusal(task_folder).hint
    write(str(task_folder / "dev.jsonl"), [{"text": "a", "label": "yes"}])
    plain = (task_folder / "task.yaml").read_text()
    (task_folder / "task.yaml").write_text(plain.replace("[accuracy]", "[f1]"))
    assert "the metric f1 counts one label, and positive is ''" in refusal(task_folder).message
    (task_folder / "task.yaml").write_text(plain.replace("[accuracy]", "[f1]\npositive: yes"))
    assert (load_task(task_folder).metrics, load_task(task_folder).positive) == (("f1",), "yes")
    (task_folder / "task.yaml").write_text("name: mood\nkinds: classification\n")
    assert "no field named kinds" in refusal(task_folder).message


def test_bad_specs_are_told(here):
    write("reviews.jsonl", classified())
    error = refusal("review.jsonl")
    assert str(error) == "no such file: review.jsonl\ndid you mean reviews.jsonl?"
    assert refusal("sentiment").hint == "did you mean the embedded task tiny:sentiment?"
    error = refusal("tiny:sentimnt")
    assert error.message == "no embedded task named 'sentimnt'"
    assert error.hint.startswith("did you mean 'sentiment'? known: ")
    (here / "empty").mkdir()
    assert "neither a task.yaml nor a train file" in refusal("empty").message
    write("empty/train.jsonl", classified())
    (here / "empty" / "train.csv").write_text("text,label\n")
    assert refusal("empty").message == "empty has train.csv and train.jsonl for train"


def test_bad_rows_are_told(here):
    one = write("one.jsonl", [{"text": f"t{n}", "label": "ham"} for n in range(9)])
    error = refusal(one)
    assert error.message == "one.jsonl has one class only: every label is 'ham'"
    assert "data.label=COLUMN" in error.hint
    error = refusal(DataConfig(path=one, text="txt"))
    assert str(error) == "no column named 'txt' in one.jsonl\ndid you mean 'text'? known: text, label"
    error = refusal(DataConfig(path=one, label="lable"))
    assert "did you mean 'label'?" in error.hint
    error = refusal(DataConfig(path=one, label="label", prompt="{txt}?"))
    assert str(error) == "no column for the template of one.jsonl named 'txt'\ndid you mean 'text'? known: text, label"
    error = refusal(DataConfig(path=one, label="label", answer=" {text}"))
    assert error.message == "the answer of a classification is its label alone, not ' {text}'"
    error = refusal(DataConfig(path=one, label="label", prompt="{text} is {label}:"))
    assert error.message == "the prompt '{text} is {label}:' would contain its own answer, label"
    assert "would contain its own answer" in refusal(DataConfig(path=one, prompt="text", completion="text")).message
    talk = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]
    chat = write("chat.jsonl", [{"messages": talk}] * 3)
    assert "which no template of data.prompt or data.answer" in refusal(DataConfig(path=chat, answer=" {a}")).message
    empty = write("none.jsonl", [{"text": "", "label": "ham"}] * 3)
    assert refusal(empty).message == "no row of none.jsonl can be used: line 1: its text is empty"
    unclear = write("unclear.jsonl", [{"alpha": f"a {n}", "beta": f"b {n}"} for n in range(9)])
    error = refusal(unclear)
    assert error.message == "cannot tell what the columns of unclear.jsonl mean: alpha, beta"
    assert error.hint.startswith("say it: data.text=COLUMN data.label=COLUMN")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"path": "a", "split": [0.8, 0.1, 0.2]}, "should be three shares above 0 with the sum 1"),
        ({"path": "a", "split": [1.0, 0.0, 0.0]}, "should be three shares above 0 with the sum 1"),
        ({"path": "a", "train": 0}, "train = 0: should be greater than or equal to 1"),
        ({"path": "a", "label": "x", "completion": "y"}, "label and completion are columns of different shapes"),
        ({"path": "a", "text": "x", "prompt": "y"}, "text and prompt both name the column that is asked"),
        ({"path": "a", "txt": "x"}, "no field named txt"),
        ({}, "path is missing"),
    ],
)
def test_bad_configurations_are_told(data, message):
    with pytest.raises(UserError) as error:
        parse(DataConfig, data)
    assert message in error.value.message


def unpaired(talks: bool = False) -> list[dict]:
    rows = []
    for n in range(20):
        asked, told = f"where is boat {n}?", f"boat {n} is at sea"
        turns = [{"role": "user", "content": asked}], [{"role": "assistant", "content": told}]
        prompt, completion = turns if talks else (asked, told)
        rows.append({"prompt": prompt, "completion": completion, "label": n % 4 != 3})
    return rows


@pytest.mark.parametrize("talks", [False, True])
def test_unpaired_preferences_are_refused_unless_the_desirable_ones_are_asked_for(talks, tmp_path):
    path = tmp_path / "kto.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in unpaired(talks)))
    for said in ({}, {"completion": "completion"}):
        with pytest.raises(UserError, match="unpaired preferences, as for KTO: label says of each") as error:
            load_task(DataConfig(path=str(path), **said))
        assert "data.desirable=label trains on the desirable completions alone" in error.value.hint
    task = load_task(DataConfig(path=str(path), desirable="label"))
    lines = sorted(one.line for part in (task.train, task.dev, task.test) for one in part)
    assert lines == [n + 1 for n in range(20) if n % 4 != 3]
    assert (task.kind, task.ledger.rows, task.ledger.trained) == ("generation", 20, 15)
    assert {note.line for note in task.ledger.rejected} == {4, 8, 12, 16, 20}
    assert all(note.reason.endswith("is not desirable by label") for note in task.ledger.rejected)
    if not talks:
        judged = load_task(DataConfig(path=str(path), text="prompt,completion", label="label"))
        assert (judged.kind, judged.labels, judged.asked) == (
            "classification",
            ("false", "true"),
            ("prompt", "completion"),
        )


def test_what_is_desirable_is_asked_of_completions_alone(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": f"t {n}", "label": "ab"[n % 2], "ok": True}) + "\n" for n in range(9)))
    with pytest.raises(UserError, match="desirable changes nothing"):
        load_task(DataConfig(path=str(path), desirable="ok"))
