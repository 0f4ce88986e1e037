"""Patterns over a task's own columns: what each makes of a row, what it leaves as it is, and what is refused."""

import json
import re
from pathlib import Path

import pytest

from tunewise.config import parse
from tunewise.data.config import DataConfig
from tunewise.data.load import load_task
from tunewise.data.patterns import LONGEST_LIST
from tunewise.data.task import Task
from tunewise.errors import UserError

KINDS = ("minimal", "question", "verbose")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name: str, rows: list[dict]) -> str:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return name


def rows(n: int = 40, n_labels: int = 2, **columns: str) -> list[dict]:
    """Rows whose label is the last column; "{}" in a column is the row's number."""
    *_, label = columns
    texts = [{name: text.format(i) for name, text in columns.items()} for i in range(n)]
    return [row | {label: f"{columns[label]}{i % n_labels}"} for i, row in enumerate(texts)]


def asked(path: str, **fields: object) -> Task:
    return load_task(parse(DataConfig, {"path": path, **fields}))


def by_id(task: Task) -> dict[str, tuple[str, str, str | None]]:
    every = (*task.train, *task.dev, *task.test)
    return {example.id: (example.prompt, example.answer, example.label) for example in every}


CLASSIFIED = [
    ({"review": "a {}", "stars": "s"}, "minimal", "a 3", " s1"),
    ({"review": "a {}", "stars": "s"}, "question", "a 3\nQuestion: which stars is it, s0 or s1?\nAnswer:", " s1"),
    (
        {"review": "a {}", "stars": "s"}, "verbose",
        "Read the review and say which stars it has: s0 or s1.\nReview: a 3\nStars:", " s1",
    ),
    ({"premise": "p {}", "hypothesis": "h {}", "label": "l"}, "minimal", "p 3 h 3 ?", " l1"),
    (
        {"premise": "p {}", "hypothesis": "h {}", "label": "l"}, "question",
        "p 3\nQuestion: h 3 l0 or l1?\nAnswer:", " l1",
    ),
    (
        {"premise": "p {}", "hypothesis": "h {}", "gold_label": "l"}, "verbose",
        "Read the premise and the hypothesis and say which gold label they have: l0 or l1.\nPremise: p 3\n"
        "Hypothesis: h 3\nGold label:", " l1",
    ),
    # what is asked stands behind what it is asked about
    ({"question": "q {}", "passage": "t {}", "label": "l"}, "minimal", "t 3 q 3 ?", " l1"),
    ({"question": "q {}", "passage": "t {}", "label": "l"}, "question", "t 3\nQuestion: q 3 l0 or l1?\nAnswer:", " l1"),
]  # fmt: skip


@pytest.mark.parametrize(("columns", "pattern", "prompt", "answer"), CLASSIFIED)
def test_a_classification_is_asked_by_the_pattern(here, columns, pattern, prompt, answer):
    path = write("rows.jsonl", rows(**columns))
    task = asked(path, pattern=pattern)
    assert by_id(task)["rows:4"] == (prompt, answer, answer.strip())
    assert [task.options(example) for example in task.test] == [tuple(f" {label}" for label in task.labels)] * 4
    assert repr(task.template.prompt) in task.ledger.detected


GENERATED = [
    ({"english": "e {}", "norsk": "n {}"}, "minimal", "e 3\n", "n 3"),
    ({"english": "e {}", "norsk": "n {}"}, "question", "e 3\nQuestion: what is the norsk?\nAnswer:", " n 3"),
    (
        {"english": "e {}", "norsk": "n {}"}, "verbose",
        "Read the english, then write the norsk.\nEnglish: e 3\nNorsk:", " n 3",
    ),
    ({"question": "q {}?", "norsk": "n {}"}, "question", "Question: q 3?\nAnswer:", " n 3"),
]  # fmt: skip


@pytest.mark.parametrize(("columns", "pattern", "prompt", "answer"), GENERATED)
def test_a_generation_is_asked_by_the_pattern(here, columns, pattern, prompt, answer):
    (one, _), (other, _) = columns.items()
    texts = [{name: text.format(i) for name, text in columns.items()} for i in range(40)]
    task = asked(write("rows.jsonl", texts), prompt=one, completion=other, pattern=pattern)
    assert by_id(task)["rows:4"] == (prompt, answer, None)
    plain = asked("rows.jsonl", prompt=one, completion=other)
    assert by_id(plain)["rows:4"][1].strip() == answer.strip()


def test_an_instruction_stands_behind_its_input_and_no_input_leaves_no_line(here):
    texts = [{"instruction": f"say {i}", "input": "now" * (i % 2), "output": f"o {i}"} for i in range(20)]
    found = by_id(asked(write("rows.jsonl", texts), pattern="question"))
    assert found["rows:2"][0] == "now\nQuestion: say 1\nAnswer:"
    assert found["rows:3"][0] == "Question: say 2\nAnswer:"


@pytest.mark.parametrize("pattern", KINDS)
def test_rows_fall_into_the_same_splits_however_they_are_asked(here, pattern):
    path = write("rows.jsonl", rows(200, review="a {}", stars="s"))
    plain, other = asked(path, train=50), asked(path, train=50, pattern=pattern, words={"s0": "bad"})
    assert by_id(plain).keys() == by_id(other).keys()
    for part in ("train", "dev", "test"):
        ids = [example.id for example in getattr(plain, part)]
        assert ids == [example.id for example in getattr(other, part)]
    assert all(
        plain_row[0] != other_row[0] for plain_row, other_row in zip(by_id(plain).values(), by_id(other).values())
    )


def test_words_are_written_for_labels_with_and_without_a_pattern(here):
    path = write("rows.jsonl", rows(review="a {}", stars="s"))
    for pattern in ("none", *KINDS):
        task = asked(path, pattern=pattern, words={"s0": "bad", "s1": "g{oo}d"})
        prompt, answer, label = by_id(task)["rows:4"]
        assert (answer, label) == (" g{oo}d", "s1")
        assert task.options(task.train[0]) == (" bad", " g{oo}d")
        assert task.labels == ("s0", "s1")
        assert ("bad or g{oo}d" in prompt) == (pattern in ("question", "verbose"))
    templated = asked(path, prompt="Say {review}:", words={"s1": "1"})
    assert by_id(templated)["rows:4"] == ("Say a 3:", " 1", "s1")


def test_words_are_text_whatever_yaml_makes_of_them(here):
    path = write("rows.jsonl", [{"text": f"a {i}", "label": ("true", "false", "7")[i % 3]} for i in range(60)])
    task = asked(path, words={True: "yes", False: "no", 7: 1})
    assert dict(zip(task.labels, task.options(task.train[0]))) == {"true": " yes", "false": " no", "7": " 1"}


def test_many_labels_are_not_listed(here):
    few = asked(write("few.jsonl", rows(200, LONGEST_LIST, review="a {}", stars="s")), pattern="question")
    many = asked(write("many.jsonl", rows(200, LONGEST_LIST + 1, review="a {}", stars="s")), pattern="question")
    assert few.template.prompt.count(", s") == LONGEST_LIST - 1
    assert many.template.prompt == "{review}\nQuestion: which stars is it?\nAnswer:"
    pair = write("pair.jsonl", rows(200, LONGEST_LIST + 1, premise="p {}", hypothesis="h {}", label="l"))
    assert asked(pair, pattern="question").template.prompt.endswith("{hypothesis} which label?\nAnswer:")
    assert "say which label they have.\n" in asked(pair, pattern="verbose").template.prompt


def test_a_file_without_a_header_has_no_names_to_tell(here):
    Path("sms.tsv").write_text("".join(f"{('ham', 'spam')[i % 2]}\ttext {i}\n" for i in range(40)))
    task = asked("sms.tsv", pattern="verbose")
    assert "Read the text and say which label it has: ham or spam.\nText: " in task.train[0].prompt


@pytest.mark.parametrize("pattern", KINDS)
@pytest.mark.parametrize("name", ["sentiment", "entailment", "translation", "headline", "instruction"])
def test_the_embedded_tasks_are_asked_by_every_pattern(name, pattern):
    plain, other = load_task(f"tiny:{name}"), asked(f"tiny:{name}", pattern=pattern)
    assert [example.id for example in plain.test] == [example.id for example in other.test]
    for before, after in zip(plain.train, other.train, strict=True):
        assert all(text in after.prompt for text in after.texts)
        assert after.answer.strip() == before.answer.strip()
        assert (after.label, after.texts) == (before.label, before.texts)
    assert repr(other.template.prompt) in other.ledger.detected


def test_the_end_of_a_prompt_is_what_no_row_changes():
    for pattern, end in (("minimal", "?"), ("question", "true or false?\nAnswer:"), ("verbose", "Label:")):
        assert asked("tiny:entailment", pattern=pattern).template.end == end
    assert load_task("tiny:sentiment").template.end == "Sentiment:"


REFUSED = [
    ({"path": "tiny:entailment", "words": {"tru": "a"}}, "no label of tiny:entailment named 'tru'", "mean 'true'?"),
    ({"path": "tiny:entailment", "words": {"true": " false"}}, "the word 'false' is written for true and false", "own"),
    ({"path": "tiny:entailment", "words": {"true": " "}}, "the word '' is written for true, and tells", "own"),
    ({"path": "tiny:entailment", "words": {"true": True}}, "True is no text; write it in quotes", ""),
    ({"path": "tiny:translation", "words": {"a": "b"}}, "data.words are for the labels of a classification", "leave"),
    ({"path": "tiny:retention", "pattern": "minimal"}, "minimal does not fit: tiny:retention holds text", "leave"),
    ({"path": "chat.jsonl", "pattern": "verbose"}, "chat.jsonl holds messages", "leave data.pattern out"),
    ({"path": "tiny:sentiment", "pattern": "questions"}, "questions", "question"),
    ({"path": "rows.jsonl", "pattern": "question", "prompt": "{review}:"}, "the template of prompt both say", ""),
    ({"path": "rows.jsonl", "pattern": "question", "answer": "{stars}"}, "the template of answer both say", ""),
    ({"path": "values.jsonl", "pattern": "question"}, "values.jsonl holds text and value", "leave data.pattern out"),
    ({"path": "three", "pattern": "question"}, "three has 3 columns of text that are asked", "leave data.pattern out"),
    ({"path": "two", "pattern": "question"}, "two answers with ' {a} {b}', which is more than one column", "leave"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "told", "hint"), REFUSED)
def test_what_cannot_be_asked_so_is_refused(here, fields, told, hint):
    turns = [[{"role": "user", "content": f"a {i}"}, {"role": "assistant", "content": "b"}] for i in range(9)]
    write("chat.jsonl", [{"messages": each} for each in turns])
    write("rows.jsonl", rows(review="a {}", stars="s"))
    write("values.jsonl", [{"text": f"a {i}", "score": f"{i}.5"} for i in range(40)])
    for name, kind, prompt, answer in (
        ("three", "classification", "{a} {b} {c}:", " {label}"),
        ("two", "generation", "{c}:", " {a} {b}"),
    ):
        Path(name).mkdir()
        (Path(name) / "task.yaml").write_text(
            json.dumps({"name": name, "kind": kind, "prompt": prompt, "answer": answer})
        )
        write(f"{name}/train.jsonl", [{"a": f"a {i}", "b": "b", "c": "c", "label": str(i % 2)} for i in range(8)])
    with pytest.raises(UserError, match=re.escape(told)) as error:
        asked(**fields)
    assert hint in f"{error.value.message} {error.value.hint}"
