"""`tunewise data split` writes every row once, as it was read, into the splits that `train` would take."""

import csv
import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.cli.command import tunewise
from tunewise.data import big
from tunewise.data.config import DataConfig
from tunewise.data.load import load_task


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(name: str, rows: list[dict]) -> str:
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return name


def written(folder: str) -> dict[str, list[dict]]:
    return {file.stem: [json.loads(line) for line in file.open()] for file in Path(folder).glob("*.jsonl")}


def preferences(n: int = 30) -> list[dict]:
    return [
        {
            "id": n, "prompt": [{"role": "user", "content": f"hi {n}"}], "score": 0.5 * n, "meta": {"by": None},
            "chosen": [{"role": "assistant", "content": "hello"}], "rejected": [{"role": "assistant", "content": "no"}],
        }
        for n in range(n)
    ]  # fmt: skip


def test_preferences_come_out_as_they_went_in():
    rows = preferences()
    rows[7]["chosen"] = rows[7]["rejected"] = []
    found = tunewise("data", "split", write("pairs.jsonl", rows), "--out", "out")
    assert found.code == 0, found.err
    assert "the answers in rejected are kept and not trained" in found.out
    parts = written("out")
    assert {part: len(values) for part, values in parts.items()} == {"train": 23, "dev": 3, "test": 3, "rejected": 1}
    assert sorted((row for values in parts.values() for row in values), key=lambda row: row["id"]) == rows
    assert parts["rejected"] == [rows[7]]
    task = load_task("pairs.jsonl")
    assert [str(row["id"]) for row in parts["test"]] == [example.id for example in task.test]
    again = load_task("out")
    assert [len(part) for part in (again.train, again.dev, again.test)] == [23, 3, 3]


def test_a_csv_by_group_and_its_table():
    with Path("reviews.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["author", "text", "label"])
        writer.writerows([f"a{n % 12}", f'say "{n}"', ("ham", "spam")[n // 12 % 2]] for n in range(60))
    found = tunewise("data", "split", "reviews.csv", "data.group=author", "--out", "out", "--json")
    told = json.loads(found.out)
    assert told["rows"] == {"train": 50, "dev": 5, "test": 5, "rejected": 0}
    assert told["labels"]["train"].keys() == {"ham", "spam"}
    parts = written("out")
    authors = {part: {row["author"] for row in values} for part, values in parts.items()}
    assert sum(map(len, authors.values())) == 12
    assert parts["test"][0].keys() == {"author", "text", "label"}
    assert "12 groups by author" in tunewise("data", "split", "reviews.csv", "data.group=author", "--out", "out").out


def test_given_splits_are_kept_though_their_ids_are_the_same():
    write("given/train.jsonl", preferences(20))
    write("given/test.jsonl", [row | {"prompt": f"other {row['id']}"} for row in preferences(5)])
    assert tunewise("data", "split", "given", "--out", "out").code == 0
    parts = written("out")
    assert [len(parts[part]) for part in ("train", "dev", "test")] == [18, 2, 5]
    assert all(row["prompt"] == f"other {row['id']}" for row in parts["test"])
    task = load_task("given")
    assert len({example.id for example in (*task.train, *task.dev, *task.test)}) == 25
    # a set whose lines hold several rows
    Path("flat.json").write_text(json.dumps([{"text": f"t {n}", "label": "ab"[n % 2]} for n in range(20)]))
    assert len({example.id for example in load_task("flat.json").train}) == 16


def test_big_files_are_split_as_small_ones(monkeypatch):
    write("given/train.jsonl", preferences(20))
    write("given/test.jsonl", [row | {"prompt": f"other {row['id']}"} for row in preferences(5)])
    write("alone.jsonl", [{"id": f"n{n}", "prompt": f"p {n}", "completion": "" if n == 3 else "c"} for n in range(20)])
    monkeypatch.setenv("TUNEWISE_CACHE", "cache")
    monkeypatch.setattr(big, "BIG", 1)
    for source, sizes in (("given", [18, 2, 5, 0]), ("alone.jsonl", [15, 2, 2, 1])):
        found = json.loads(tunewise("data", "split", source, "--out", f"{source}-out", "--json").out)
        assert list(found["rows"].values()) == sizes


@pytest.mark.skipif(not find_spec("pyarrow"), reason="pyarrow, of the extra `data`, is not installed")
def test_a_parquet_file_becomes_jsonl():
    import datetime

    import pyarrow
    from pyarrow import parquet

    rows = [{"prompt": f"p {n}", "completion": "c", "n": n, "day": datetime.date(2026, 1, 2)} for n in range(20)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), "a.parquet")
    assert tunewise("data", "split", "a.parquet", "--out", "out").code == 0
    train = written("out")["train"]
    assert all(row["day"] == "2026-01-02" and row["prompt"] == f"p {row['n']}" for row in train)
    parquet.write_table(pyarrow.Table.from_pylist([row | {"image": b"12"} for row in rows]), "b.parquet")
    found = tunewise("data", "split", "b.parquet", "--out", "out2")
    assert found.code == 2
    assert "b.parquet, row 1 holds 2 bytes, which are no text" in found.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tiny:sentiment"], "tiny:sentiment is no source of rows that can be written out"),
        (["glue:rte"], "glue:rte is no source of rows that can be written out"),
        (["nothing.csv"], "no such file: nothing.csv"),
        (["a.jsonl", "data.few_shot=3"], "data.train, data.few_shot and data.replay change no split"),
        (["a.jsonl", "data.group=auther"], "no column named 'auther'"),
        (["a.jsonl", "data.groups=author"], "no field named groups"),
        (["a/b"], "no such file: a/b"),
        (["m.yaml"], "m is a mixture"),
    ],
)
def test_what_cannot_be_split_is_told(words, message):
    write("a.jsonl", preferences(9))
    Path("m.yaml").write_text("sources: {a: a.jsonl}")
    found = tunewise("data", "split", *words, "--out", "out")
    assert (found.code, message in found.err, "hint: " in found.err) == (2, True, True), found.err
    assert not Path("out").exists()


def test_the_default_split_is_the_one_that_train_takes():
    path = write("pairs.jsonl", preferences(40))
    tunewise("data", "split", path, "data.seed=3", "--out", "out")
    task = load_task(DataConfig(path=path, seed=3))
    assert [str(row["id"]) for row in written("out")["dev"]] == [example.id for example in task.dev]
