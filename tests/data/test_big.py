"""Big files, read row by row: the same task as of files that are read whole; `BIG` is forced down to a byte."""

import gzip
import json
import os
import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.data.tokenizers_for_tests import bytes_without_begin
from tunewise import files
from tunewise.data import big
from tunewise.data.config import DataConfig
from tunewise.data.load import load_task
from tunewise.data.out_of_domain import OutOfDomainConfig, load_out_of_domain
from tunewise.data.splits import few_shot
from tunewise.data.streamed import Streamed
from tunewise.data.task import Task
from tunewise.errors import UserError

WORDS = "the cat sat on a mat and ate fish while it rained over this harbour".split()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNEWISE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "indexes"


def some(n: int, make) -> list[dict]:
    rng = random.Random(n)
    return [make(rng, " ".join(rng.choices(WORDS, k=rng.randint(2, 6))), number) for number in range(n)]


SHAPES = {
    "labels": some(90, lambda rng, text, n: {"text": text, "label": rng.choice(["ham", "spam", "eggs"])}),
    "own ids": some(60, lambda rng, text, n: {"id": f"é{n}", "text": text, "label": rng.choice([0, 1, 10])}),
    "one id twice": some(60, lambda rng, text, n: {"id": n // 2, "text": text, "label": rng.choice("ab")}),
    "ids that are asked": some(60, lambda rng, text, n: {"id": text, "label": rng.choice("ab")}),
    "pairs": some(60, lambda rng, text, n: {"premise": text, "hypothesis": text[::-1], "label": rng.choice("ab")}),
    "values": some(60, lambda rng, text, n: {"text": text, "score": rng.random() * 5}),
    "prompts": some(60, lambda rng, text, n: {"prompt": text, "completion": f"{text}!\n\nyes"}),
    "one prompt": some(60, lambda rng, text, n: {"prompt": "Write a story.", "completion": f"{text} {n}"}),
    "arithmetic": some(60, lambda rng, text, n: {"question": f"{text} {n}", "answer": f"so #### {n}"}),
    "texts": some(60, lambda rng, text, n: {"text": f"{text} {n}"}),
    "tags": some(60, lambda rng, text, n: {"tokens": text.split(), "ner_tags": ["B-X", *["O"] * text.count(" ")]}),
    "messages": some(
        60,
        lambda rng, text, n: {
            "messages": [{"role": "user", "content": f"{text} {n}"}, {"role": "assistant", "content": text}]
        },
    ),
    "accepted": some(
        60, lambda rng, text, n: {"context": text, "question": f"what {n}?", "answers": [text, WORDS[n % 9]]}
    ),
    "bad rows": some(60, lambda rng, text, n: {"text": text if n % 7 else "", "label": "ab"[n % 2] if n % 5 else ""}),
}


def written(path, rows) -> str:
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\ufeff" + "\n\n".join(lines[:2]) + "\r\n" + "\n".join(lines[2:]), "utf-8")
    return str(path)


def both(config: DataConfig, tokenizer=None) -> tuple[Task, Task]:
    """The task of files that are read whole, and that of the same read row by row, its parts as tuples."""
    whole = load_task(config, tokenizer)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(big, "BIG", 1)
        streamed = load_task(config, tokenizer)
    assert isinstance(streamed.train, Streamed)
    return whole, replace(streamed, **{name: tuple(vars(streamed)[name]) for name in ("train", "dev", "test")})


@pytest.mark.parametrize("name", SHAPES)
def test_the_task_is_the_same(tmp_path, name):
    path = written(tmp_path / "rows.jsonl", SHAPES[name])
    for seed in (0, 1):
        whole, streamed = both(DataConfig(path=path, seed=seed), bytes_without_begin())
        assert streamed == whole


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "tsv", "parquet"])
def test_so_is_that_of_files_of_other_kinds(tmp_path, kind, cache):
    rows = [{"text": f"{row['text']} “{n}”", "label": row["label"]} for n, row in enumerate(SHAPES["labels"])]
    rows[3]["text"], rows[7]["text"] = 'a "quoted", one' + "\nover two lines" * (kind[0] == "c"), ""
    path = tmp_path / f"rows.{kind}"
    if kind == "parquet":
        pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=40)
    else:
        quoted = kind.startswith("csv")
        cells = [[row["text"], row["label"]] for row in rows]
        marked = [
            [f'"{text.replace(chr(34), 2 * chr(34))}"', label] if quoted else [text, label] for text, label in cells
        ]
        lines = ["text,label" if quoted else "text\tlabel", "", *("\t,"[quoted].join(row) for row in marked)]
        content = ("\ufeff" + "\r\n".join(lines[:5]) + "\n" + "\n".join(lines[5:])).encode()
        path.write_bytes(gzip.compress(content) if kind.endswith("gz") else content)
    whole, streamed = both(DataConfig(path=str(path)))
    assert streamed == whole
    assert len(whole.ledger.rejected) == 1
    (copy,) = cache.with_name("copies").glob("*/rows.jsonl")
    before = copy.stat().st_mtime_ns
    assert both(DataConfig(path=str(path), seed=1))[1].ledger.rejected == whole.ledger.rejected
    assert copy.stat().st_mtime_ns == before, "it is written once"


@pytest.mark.parametrize(
    "content", [b"text,label\na,b\nc,d,e\n", b"text,label\na,b\nc\xff,d\n", b"t\0e\0x\0t\0,\0l\0\n\0"]
)
def test_what_is_wrong_with_a_table_is_told_as_ever(tmp_path, monkeypatch, content):
    path = tmp_path / "rows.csv"
    path.write_bytes(content)
    told = []
    for size in (1 << 30, 1):
        monkeypatch.setattr(big, "BIG", size)
        with pytest.raises(UserError) as error:
            load_task(str(path))
        told.append(str(error.value))
    assert told[0] == told[1]


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "A ", "c d", "", "é"]), st.sampled_from("xy")), max_size=30))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_also_where_texts_come_again(tmp_path, pairs):
    rows = [{"text": text, "label": label} for text, label in [*pairs, ("e", "x"), ("f", "y"), ("g", "x")]]
    whole, streamed = both(DataConfig(path=written(tmp_path / "rows.jsonl", rows)))
    assert streamed == whole


def test_parts_of_a_folder(tmp_path):
    rows = SHAPES["labels"]
    written(tmp_path / "set" / "train.jsonl", rows[:60])
    written(tmp_path / "set" / "test.jsonl", [*rows[60:], rows[3]])
    whole, streamed = both(DataConfig(path=str(tmp_path / "set")))
    assert streamed == whole
    assert any("this row of test is also in train, line 5" in note.reason for note in streamed.ledger.leaks)


@pytest.mark.parametrize("name", ["labels", "own ids", "one prompt"])
def test_samples_are_the_same(tmp_path, monkeypatch, name):
    path = written(tmp_path / "rows.jsonl", SHAPES[name])
    whole, streamed = both(DataConfig(path=path, train=20))
    assert len(whole.train) == 20
    assert streamed == whole
    whole = load_task(path)
    monkeypatch.setattr(big, "BIG", 1)
    streamed = load_task(path)
    for balanced in (True, False):
        for k in (5, 1000):
            drawn = few_shot(streamed.train, k, 3, balanced)
            assert drawn == few_shot(whole.train, k, 3, balanced)
            assert len(drawn) == min(k, len(whole.train))


def test_rows_are_replayed_and_sets_from_elsewhere_compared(tmp_path, monkeypatch):
    path = written(tmp_path / "rows.jsonl", SHAPES["labels"])
    other = written(tmp_path / "other.jsonl", SHAPES["prompts"])
    whole, streamed = both(DataConfig(path=path, replay=({"path": other, "share": 0.1},)))
    assert streamed == whole
    elsewhere = written(tmp_path / "elsewhere.jsonl", [*SHAPES["labels"][:9], {"text": "new", "label": "ham"}])
    config = OutOfDomainConfig(path=elsewhere)
    monkeypatch.setattr(big, "BIG", 1)
    found = load_out_of_domain("elsewhere", config, load_task(path), None)
    monkeypatch.undo()
    expected = load_out_of_domain("elsewhere", config, load_task(path), None)
    assert found.ledger.leaks == expected.ledger.leaks
    assert len(found.ledger.leaks) > 3


def test_rows_by_place(tmp_path, monkeypatch):
    monkeypatch.setattr(big, "BIG", 1)
    train = load_task(written(tmp_path / "rows.jsonl", SHAPES["labels"])).train
    assert isinstance(train, Streamed)
    every = list(train)
    assert [train[place] for place in range(len(train))] == every
    assert train[-1] == every[-1]
    assert train[2:5] == every[2:5]
    assert train == load_task(str(tmp_path / "rows.jsonl")).train
    assert train != train.only([0, 1])
    assert list(train.only([4, 1])) == [every[1], every[4]]
    with pytest.raises(IndexError):
        train[len(train)]


def test_little_is_held_out_of_a_big_file(tmp_path, monkeypatch):
    monkeypatch.setattr(big, "BIG", 1)
    monkeypatch.setattr(big, "MOST_HELD_OUT", 4)
    task = load_task(written(tmp_path / "rows.jsonl", SHAPES["texts"]))
    assert (len(task.train), len(task.dev), len(task.test)) == (52, 4, 4)


def test_the_index_is_made_once(tmp_path, monkeypatch, cache, caplog):
    monkeypatch.setattr(big, "BIG", 1)
    path = written(tmp_path / "rows.jsonl", SHAPES["labels"])
    first = load_task(path)
    with monkeypatch.context() as patch:
        patch.setattr(big, "_index", lambda *_: pytest.fail("it was to be read"))
        assert load_task(path) == first
    for name in ("prompt.bin", "rows.json", "manifest.json"):
        (next(cache.iterdir()) / name).write_bytes(b"{")
        assert load_task(path) == first
        assert f"{next(cache.iterdir())} is damaged" in caplog.text
        caplog.clear()
    load_task(DataConfig(path=path, seed=1))
    load_task(DataConfig(path=path, prompt="{text}?"))
    written(tmp_path / "rows.jsonl", SHAPES["labels"][1:])
    load_task(path)
    assert len(list(cache.iterdir())) == 4
    monkeypatch.setattr(big, "KEPT", 2)
    load_task(DataConfig(path=path, seed=2))
    assert len(list(cache.iterdir())) == 2


def test_a_pass_that_ends_early_leaves_nothing(tmp_path, monkeypatch, cache):
    monkeypatch.setattr(big, "BIG", 1)
    monkeypatch.setattr(big, "FLUSH", 4)
    path = written(tmp_path / "rows.jsonl", SHAPES["labels"])

    def stopped(*_):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "write_json", stopped)
        with pytest.raises(KeyboardInterrupt):
            load_task(path)
    assert list(cache.iterdir()) == []
    assert len(load_task(path).train) == 72


def test_how_far_it_is_is_told(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO", "tunewise")
    for name, value in (("BIG", 1), ("FLUSH", 30), ("TELL_SECONDS", 0.0)):
        monkeypatch.setattr(big, name, value)
    load_task(written(tmp_path / "rows.jsonl", SHAPES["texts"]))
    assert "rows.jsonl: 30 rows read, 4" in caplog.text


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"text": "a", "label": "x"}\n{"text": \n', "line 2 is no valid JSON: column 10"),
        ('{"text": "a", "label": "x"}\n\n[1]\n', "line 3 holds a list, not an object"),
        (b'{"text": "a"}\n{"text": "b"}\n{"text": "\xff"}\n', "line 3: byte 0xff is not UTF-8"),
        ('{"text": "\\ud800", "label": "x"}\n', "line 1 holds half a surrogate pair"),
        ("\n \n", "is empty"),
        (
            '{"text": "", "label": "x"}\n{"text": "", "label": "y"}',
            "no row of .* can be used: line 1: its text is empty",
        ),
        ('{"text": "a", "label": "x"}\n{"text": "b", "label": "x"}', "has one class only"),
    ],
)
def test_bad_files_are_told_as_ever(tmp_path, monkeypatch, content, told):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    errors = []
    for limit in (1 << 20, 1):
        monkeypatch.setattr(big, "BIG", limit)
        with pytest.raises(UserError, match=told) as error:
            load_task(str(path))
        errors.append((error.value.message, error.value.hint))
    assert errors[0] == errors[1]


def test_what_is_not_read_row_by_row(tmp_path, monkeypatch):
    monkeypatch.setattr(big, "BIG", 1)
    rows = SHAPES["labels"]
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(rows))
    assert isinstance(load_task(str(path)).train, tuple), "one list under a name that says otherwise"
    written(path, rows)
    asked = DataConfig(path=str(path), pattern="question")
    assert isinstance(load_task(asked).train, tuple), "rows that are asked in other words"
    article = {"title": "a", "paragraphs": [{"context": "a", "qas": [{"question": "b", "answers": [{"text": "a"}]}]}]}
    path.write_text(json.dumps(article))
    with pytest.raises(UserError, match="line 1 is an article of questions") as error:
        load_task(str(path))
    assert "write one question a line" in error.value.hint


def test_a_file_that_changes_meanwhile_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(big, "BIG", 1)
    path = tmp_path / "rows.jsonl"
    task = load_task(written(path, SHAPES["labels"]))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="has changed while it was used"):
        task.train[0]
    same = load_task(written(path, SHAPES["texts"]))
    size = path.stat().st_size
    path.write_bytes(b"x" * size)
    os.utime(path, ns=(1, 1))
    with pytest.raises(UserError, match="has changed while it was used"):
        same.train[0]


def test_conversations_that_become_several_texts_are_read_whole(tmp_path, monkeypatch):
    """Qwen3's template writes earlier answers without their thoughts, so that those stand in texts of their own."""
    turns = lambda text, n: [
        {"role": ("user", "assistant")[k % 2], "content": f"<think>\n{text}\n</think>\n\n{n} {k}"} for k in range(4)
    ]
    rows = some(60, lambda rng, text, n: {"messages": turns(text, n)})
    template = Path(__file__).parent / "chat_templates" / "qwen3.jinja"
    config = DataConfig(path=written(tmp_path / "rows.jsonl", rows), template=str(template))
    whole = load_task(config, bytes_without_begin())
    assert len(whole.train) > 60  # two answers of a row each
    monkeypatch.setattr(big, "BIG", 1)
    assert load_task(config, bytes_without_begin()) == whole
    assert not cached(tmp_path)


def cached(tmp_path):
    return [path for path in (tmp_path / "cache" / "indexes").glob("*") if not path.name.startswith(".")]
