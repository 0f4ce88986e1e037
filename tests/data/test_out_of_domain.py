import gzip
import json

import pytest

from tunewise.config import parse
from tunewise.data.config import DataConfig
from tunewise.data.load import load_task
from tunewise.data.out_of_domain import OutOfDomainConfig, load_out_of_domain
from tunewise.errors import UserError

CLASSES = ("contradiction", "entailment", "neutral")


@pytest.fixture(scope="module")
def natural(tmp_path_factory):
    """A task of pairs with three classes."""
    path = tmp_path_factory.mktemp("natural") / "natural.jsonl"
    rows = [{"premise": f"it rains {i}", "hypothesis": f"it is wet {i}", "label": CLASSES[i % 3]} for i in range(60)]
    path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    return load_task(DataConfig(path=str(path)))


def write(path, rows):
    path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    return path


def heuristics(path, labels=("entailment", "non-entailment"), names=("sentence1", "sentence2", "gold_label"), n=6):
    rows = [dict(zip(names, (f"the cat saw {i}", f"{i} saw the cat", labels[i % 2]), strict=True)) for i in range(n)]
    return write(path, rows)


def config(path, **fields):
    return parse(OutOfDomainConfig, {"path": str(path), **fields})


HANS = {"non-entailment": "neutral,contradiction"}


@pytest.mark.parametrize("names", [("sentence1", "sentence2", "gold_label"), ("premise", "hypothesis", "label")])
def test_every_row_of_a_file_is_asked_by_the_template_of_the_task(natural, tmp_path, names):
    found = load_out_of_domain("hans", config(heuristics(tmp_path / "hans.jsonl", names=names), labels=HANS), natural)
    prompts = [example.prompt for example in found.task.test]
    assert prompts[:2] == ["the cat saw 0\n0 saw the cat\nLabel:", "the cat saw 1\n1 saw the cat\nLabel:"]
    assert len(prompts) == 6
    assert found.task.train == natural.train  # the demonstrations are those of the task
    assert found.task.labels == natural.labels
    assert found.task.template == natural.template
    assert [example.texts for example in found.task.test][1] == ("the cat saw 1", "1 saw the cat")


def test_columns_are_taken_by_name_whatever_their_order(natural, tmp_path):
    rows = [{"hypothesis": "b", "label": "neutral", "premise": "a"}]
    found = load_out_of_domain("one", config(write(tmp_path / "one.jsonl", rows)), natural)
    assert found.task.test[0].prompt == "a\nb\nLabel:"  # and one row, of one class, is enough to ask


def test_columns_can_be_named(natural, tmp_path):
    rows = [{"left": "a", "right": "b", "gold": "neutral", "note": "x"}]
    said = config(write(tmp_path / "named.jsonl", rows), text="right,left", label="gold")
    assert load_out_of_domain("named", said, natural).task.test[0].prompt == "b\na\nLabel:"


def test_of_a_folder_only_the_test_rows_are_asked(natural, tmp_path):
    heuristics(tmp_path / "train.jsonl", labels=("neutral", "entailment"), n=4)
    heuristics(tmp_path / "test.jsonl", labels=("neutral", "entailment"), n=2)
    found = load_out_of_domain("two", config(tmp_path), natural)
    assert [example.label for example in found.task.test] == ["neutral", "entailment"]
    assert (found.expected, found.counts_as) == ((), {})  # a subset of the task's classes needs no word


def test_a_coarser_label_is_answered_by_the_first_of_its_classes(natural, tmp_path):
    found = load_out_of_domain("hans", config(heuristics(tmp_path / "hans.jsonl"), labels=HANS), natural)
    assert found.counts_as == {
        "neutral": "non-entailment",
        "contradiction": "non-entailment",
        "entailment": "entailment",
    }
    assert found.expected[:2] == ("entailment", "non-entailment")
    assert [(example.label, example.answer) for example in found.task.test[:2]] == [
        ("entailment", " entailment"),
        ("neutral", " neutral"),
    ]


def test_numbers_and_truths_are_labels_as_json_writes_them():
    said = config("x", labels={1: True, "no": [0, 2]})
    assert said.labels == {"1": ("true",), "no": ("0", "2")}


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        ({}, "the label 'non-entailment' is none of the task's: contradiction, entailment, neutral"),
        ({"non-entailment": "neutral,contrary"}, "no class of natural named 'contrary'"),
        ({"not-entailment": "neutral"}, "no label of hans named 'not-entailment'"),
        ({"non-entailment": "neutral,entailment"}, "the label 'entailment' is none of the task's"),
    ],
)
def test_labels_that_do_not_fit_are_told(natural, tmp_path, labels, told):
    with pytest.raises(UserError) as error:
        load_out_of_domain("hans", config(heuristics(tmp_path / "hans.jsonl"), labels=labels), natural)
    assert told in error.value.message


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"labels": {"a": "neutral", "b": ["neutral"]}}, "the class neutral counts as two labels"),
        ({"train": 4}, "nothing is trained on an out-of-domain set"),
        ({"trained_on": "everything", "replay": "y"}, "leave trained_on and replay out"),
        ({"prompt": "{premise}?"}, "asked by the template of the task"),
    ],
)
def test_fields_without_a_meaning_here_are_refused(fields, told):
    with pytest.raises(UserError) as error:
        config("x", **fields)
    assert told in error.value.message


@pytest.mark.parametrize("field", [{"pattern": "question"}, {"words": {"neutral": "no"}}, {"metrics": "mcc"}])
def test_how_rows_are_asked_and_scored_is_a_field_of_the_task(natural, tmp_path, field):
    asked = config(heuristics(tmp_path / "hans.jsonl"), labels=HANS, **field)
    with pytest.raises(UserError) as error:
        load_out_of_domain("hans", asked, natural)
    assert f"those of {natural.name}; {next(iter(field))} cannot change that" in error.value.message
    assert error.value.hint == f"leave out_of_domain.hans.{next(iter(field))} out"


def test_rows_of_another_kind_or_shape_are_told(natural, tmp_path):
    pairs = write(tmp_path / "pairs.jsonl", [{"prompt": f"say {i}", "completion": "no"} for i in range(4)])
    with pytest.raises(UserError, match="is generation, and natural is classification"):
        load_out_of_domain("pairs", config(pairs), natural)
    single = write(tmp_path / "single.jsonl", [{"text": f"row {i}", "label": "neutral"} for i in range(4)])
    with pytest.raises(UserError, match="is asked by text, and natural by premise, hypothesis"):
        load_out_of_domain("single", config(single), natural)
    with pytest.raises(UserError, match="has no test file"):
        load_out_of_domain("folder", config(tmp_path), natural)


def test_a_row_that_stands_in_train_is_a_leak(natural, tmp_path):
    one = natural.train[0]
    rows = [dict(zip(("premise", "hypothesis", "label"), (*one.texts, one.label), strict=True))]
    found = load_out_of_domain("seen", config(write(tmp_path / "seen.jsonl", rows)), natural)
    assert len(found.ledger.leaks) == 1


def test_generated_answers_keep_the_template_of_the_task(tmp_path):
    own = write(tmp_path / "own.jsonl", [{"question": f"q {i}", "answer": f"a {i}"} for i in range(20)])
    task = load_task(DataConfig(path=str(own)))
    other = write(tmp_path / "other.jsonl", [{"prompt": "p 1", "completion": "c 1"}])
    asked = load_out_of_domain("other", config(other), task).task.test[0]
    assert (asked.prompt, asked.answer) == ("p 1\nAnswer:", " c 1")


def test_conversations_of_another_column_are_asked_too(tmp_path):
    def talks(name, column, who, said):
        turns = [[{who: "user", said: f"{name} {n}"}, {who: "assistant", said: "yes"}] for n in range(9)]
        return write(tmp_path / f"{name}.jsonl", [{column: each} for each in turns])

    task = load_task(str(talks("own", "messages", "role", "content")))
    far = config(talks("far", "conversations", "from", "value"))
    found = load_out_of_domain("chat", far, task).task.test
    assert [example.prompt for example in found][:2] == ["Human: far 0\nAssistant:", "Human: far 1\nAssistant:"]
    assert len(found) == 9


def test_the_test_split_of_a_folder_is_asked_whatever_its_kind(natural, tmp_path):
    rows = [{"premise": f"a {n}", "hypothesis": "b", "label": CLASSES[n % 3]} for n in range(6)]
    (tmp_path / "far").mkdir()
    content = "\n".join(map(json.dumps, rows)).encode()
    (tmp_path / "far" / "test.jsonl.gz").write_bytes(gzip.compress(content))
    found = load_out_of_domain("far", config(tmp_path / "far"), natural).task.test
    assert [example.id for example in found][:2] == ["far-test:1", "far-test:2"]
