"""Whatever `data.path` names becomes tables of rows: kinds of files, folders, aligned texts, saved and fetched sets."""

import gzip
import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from tunewise.data.config import DataConfig
from tunewise.data.found import find
from tunewise.data.load import load_task
from tunewise.data.plain_text import pieces, unit_of
from tunewise.data.sources import Source, files_at, name_of, open_source, read_file
from tunewise.errors import UserError

needs_datasets = pytest.mark.skipif(not find_spec("datasets"), reason="datasets, of the extra `data`, is not installed")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def reviews(n: int = 20, start: int = 0) -> list[dict]:
    return [{"text": f"text number {start + k}", "label": ("ham", "spam")[k % 2]} for k in range(n)]


def write(name: str, rows: list[dict]) -> str:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return name


def sizes(source: Source) -> dict[str, int]:
    found: dict[str, int] = {}
    for table in source.tables:
        found[table.part] = found.get(table.part, 0) + len(table.rows)
    return found


def refusal(**config) -> UserError:
    with pytest.raises(UserError) as error:
        load_task(DataConfig(**config))
    assert error.value.hint
    return error.value


def test_a_compressed_file_is_the_file():
    plain, packed = load_task(write("sms.jsonl", reviews())), load_task(write("sms.jsonl.gz", reviews()))
    assert packed.name == "sms"
    assert [example.text for example in packed.train] == [example.text for example in plain.train]
    Path("b.csv.gz").write_bytes(gzip.compress(b"text,label\na,x\n"))
    assert read_file(Path("b.csv.gz"))[0].fields == {"text": "a", "label": "x"}
    Path("cut.csv.gz").write_bytes(gzip.compress(b"text,label\na,x\n" * 99)[:40])
    assert "cut.csv.gz is no whole gzip file" in refusal(path="cut.csv.gz").message
    Path("no.csv.gz").write_text("text,label\n")
    assert "no.csv.gz is no whole gzip file" in refusal(path="no.csv.gz").message


PROSE = "The boat lay at\nthe quay.\n\n\nIt rained,\r\nand then it\ndid not.\n \nEnd.\n"


def test_text_files_by_lines_paragraphs_or_whole():
    assert unit_of(PROSE) == "paragraphs"
    assert list(pieces(PROSE, "paragraphs")) == [
        (1, "The boat lay at\nthe quay."),
        (5, "It rained,\nand then it\ndid not."),
        (9, "End."),
    ]
    assert [line for line, _ in pieces(PROSE, "lines")] == [1, 2, 5, 6, 7, 9]
    assert list(pieces("\n\n a\nb ", "paragraphs")) == [(3, "a\nb")]
    assert list(pieces(PROSE, "file")) == [(1, PROSE.strip())]
    assert unit_of("one\ntwo\nthree\n") == "lines"
    assert unit_of("one\n\ntwo\n\nthree\n") == "lines", "blocks of one line are the same either way"
    assert unit_of("\n".join(map(str, range(99))) + "\n\nlast\n") == "lines"


def test_what_was_taken_as_a_row_is_told_and_can_be_changed():
    Path("log.txt").write_text("".join(f"line {n}\n" for n in range(20)))
    told = load_task("log.txt").ledger
    assert told.rows == 20
    assert "plain text in column text" in told.detected
    assert "; its lines are the rows, data.rows=paragraphs takes paragraphs" in told.detected
    Path("book.txt").write_text("\n\n".join(f"Sentence {n}\ngoes on." for n in range(12)))
    assert "its paragraphs are the rows" in load_task("book.txt").ledger.detected
    assert load_task(DataConfig(path="book.txt", rows="lines")).ledger.rows == 24
    assert "1 different rows cannot be split" in refusal(path="book.txt", rows="file").message
    assert "data.rows changes nothing" in refusal(path=write("a.jsonl", reviews()), rows="lines").message


def test_aligned_texts_are_rows_of_two_columns():
    Path("train.en").write_text("".join(f"boat {n}\n" for n in range(20)))
    Path("train.nb").write_text("".join(f"båt {n}\r\n" for n in range(20)))
    task = load_task("train.en,train.nb")
    assert (task.name, task.ledger.rows) == ("en-nb", 20)
    assert "prompt and completion in columns en and nb" in task.ledger.detected
    first = task.train[0]
    assert (first.prompt, first.answer) == (f"boat {first.line - 1}", f" båt {first.line - 1}")
    back = load_task(DataConfig(path="train.en,train.nb", prompt="{nb}\nEnglish:", completion="en"))
    assert back.train[0].prompt.startswith("båt")
    assert files_at("train.en,train.nb") == [Path("train.en"), Path("train.nb")]
    with Path("train.nb").open("a") as stream:
        stream.write("en til\n")
    assert refusal(path="train.en,train.nb").message == "train.en has 20 lines, train.nb has 21"
    with pytest.raises(UserError, match=r"no such file: train\.nn"):
        find("train.en,train.nn")


def test_fields_without_a_use_for_aligned_texts_are_refused():
    Path("a.en").write_text("one\ntwo\nthree\n")
    Path("a.nb").write_text("en\nto\ntre\n")
    for field in ({"rows": "lines"}, {"splits": {"train": "a"}}):
        message = f"data.{next(iter(field))} changes nothing: a.en,a.nb is "
        assert message in refusal(path="a.en,a.nb", **field).message


def test_an_empty_line_of_one_of_two_texts_is_a_rejected_row():
    Path("a.en").write_text("".join(f"boat {n}\n" for n in range(9)))
    Path("a.nb").write_text("".join(f"båt {n}\n" * (n != 3) or "\n" for n in range(9)))
    (note,) = load_task("a.en,a.nb").ledger.rejected
    assert (note.line, note.reason) == (4, "its answer is empty")


def test_files_of_a_folder_by_any_usual_name():
    write("set/train.jsonl.gz", reviews(20))
    write("set/valid.jsonl", reviews(6, 20))
    write("set/test.jsonl", reviews(4, 30))
    assert sizes(open_source(DataConfig(path="set"))) == {"train": 20, "dev": 6, "test": 4}
    write("hub/data/train-00000-of-00002.jsonl", reviews(20))
    write("hub/data/train-00001-of-00002.jsonl", reviews(10, 20))
    source = open_source(DataConfig(path="hub"))
    assert [(table.part, table.name) for table in source.tables] == [
        ("train", "train-00000-of-00002.jsonl"),
        ("train", "train-00001-of-00002.jsonl"),
    ]
    task = load_task("hub")
    assert len({example.id for example in (*task.train, *task.dev, *task.test)}) == 30


def test_splits_of_other_names_are_named():
    write("set/train_sft.jsonl", reviews(20))
    write("set/test_sft.jsonl", reviews(6, 20))
    assert "neither a task.yaml nor a train file" in refusal(path="set").message
    named = {"train": "train_sft", "test": "test_sft"}
    assert [len(part) for part in (load_task(DataConfig(path="set", splits=named)).test,)] == [6]
    error = refusal(path="set", splits={"train": "train_gen"})
    assert error.message == "set has no file for train_gen"
    assert "train_sft.jsonl" in error.hint
    assert "data.splits changes nothing" in refusal(path="set/train_sft.jsonl", splits=named).message


def test_a_name_of_the_hub_that_is_no_file_gets_the_hint():
    for name in ("stanfordnlp/imdb", "org/set:config"):
        with pytest.raises(UserError, match="no such file") as error:
            find(name)
        assert error.value.hint == f"for the data set of that name on the Hugging Face hub write hf:{name}"
    with pytest.raises(UserError) as error:
        find("folder/rows.jsonl")
    assert "hf:" not in error.value.hint
    assert find("hf:stanfordnlp/imdb") == Path("hf:stanfordnlp/imdb")
    assert files_at("hf:stanfordnlp/imdb") == []


@needs_datasets
def test_parquet_files_with_the_names_of_classes():
    from datasets import ClassLabel, Dataset, Features, List, Value

    classes = ClassLabel(names=["ham", "spam"])
    rows = [{"text": f"a {n}", "label": n % 2, "tags": [0, 1]} for n in range(20)]
    features = Features({"text": Value("string"), "label": classes, "tags": List(classes)})
    for number, half in enumerate((rows[:12], rows[12:])):
        path = Path(f"set/train-0000{number}-of-00002.parquet")
        path.parent.mkdir(exist_ok=True)
        Dataset.from_list(half, features=features).to_parquet(path)
    task = load_task("set")
    assert (task.labels, task.ledger.rows) == (("ham", "spam"), 20)
    assert read_file(Path("set/train-00000-of-00002.parquet"))[1].fields["tags"] == ["ham", "spam"]
    Dataset.from_list(rows[:1], features=features).to_parquet("one.parquet")
    whole = Path("one.parquet").read_bytes()
    Path("one.parquet").write_bytes(whole[:-30])
    assert refusal(path="one.parquet").message.startswith("cannot read one.parquet")


@needs_datasets
def test_dates_numbers_and_bytes_of_a_parquet_file_become_text():
    import datetime
    from decimal import Decimal

    import pyarrow
    from pyarrow import parquet

    row = {"text": "a", "day": datetime.date(2026, 1, 2), "price": Decimal("1.50"), "image": b"12345", "n": 7,
           "nested": {"at": datetime.datetime(2026, 1, 2)}, "list": [datetime.date.max], "none": None}  # fmt: skip
    parquet.write_table(pyarrow.Table.from_pylist([row]), "a.parquet")
    (found,) = read_file(Path("a.parquet"))
    assert found.fields | {"list": 0} == {
        "text": "a", "day": "2026-01-02", "price": "1.50", "image": "5 bytes", "n": "7",
        "nested": '{"at": "2026-01-02 00:00:00"}', "list": 0, "none": "",
    }  # fmt: skip
    assert found.value["n"] == 7


@needs_datasets
def test_folders_that_datasets_saved():
    from datasets import ClassLabel, Dataset, DatasetDict

    data = Dataset.from_list(reviews(30)).cast_column("label", ClassLabel(names=["ham", "spam"]))
    data.select(range(20)).save_to_disk("one")
    task = load_task("one")
    assert (task.name, task.labels, len(task.train), len(task.test)) == ("one", ("ham", "spam"), 16, 2)
    parts = {"train": range(20), "validation": range(20, 24), "test": range(24, 28), "unsupervised": range(28, 30)}
    DatasetDict({name: data.select(part) for name, part in parts.items()}).save_to_disk("several")
    source = open_source(DataConfig(path="several"))
    assert sizes(source) == {"train": 20, "dev": 4, "test": 4}
    assert source.told == "; not read: unsupervised"
    assert [row.fields["text"] for row in source.tables[2].rows] == [f"text number {n}" for n in range(24, 28)]
    assert load_task("several").labels == ("ham", "spam")
    assert len(files_at("several")) > 8
    picked = open_source(DataConfig(path="several", splits={"train": "test", "dev": "validation"}))
    assert sizes(picked) == {"train": 4, "dev": 4}
    error = refusal(path="several", splits={"train": "tset"})
    assert error.message == "no split of several named 'tset'"
    DatasetDict({"a": data.select(range(3)), "b": data.select(range(3))}).save_to_disk("unclear")
    error = refusal(path="unclear")
    assert error.message == "unclear has the splits a, b, none of them train"
    assert error.hint == "say which serves as what: data.splits.train=a"
    Path("one/data-00000-of-00001.arrow").write_bytes(b"no arrow")
    assert refusal(path="one").message.startswith("cannot read one: ")


@needs_datasets
def test_data_sets_of_the_hub(monkeypatch, tmp_path):
    """A folder laid out as a repository stands in for one: `datasets` loads both by the same call."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    write("repo/plain/train.jsonl", reviews(20))
    write("repo/plain/test.jsonl", reviews(4, 20))
    write("repo/chat/train.jsonl", [{"prompt": f"hi {n}", "completion": "hello"} for n in range(9)])
    Path("repo/README.md").write_text(
        "---\nconfigs:\n- config_name: plain\n  data_files:\n  - {split: train, path: plain/train.jsonl}\n"
        "  - {split: test, path: plain/test.jsonl}\n- config_name: chat\n  data_files: chat/train.jsonl\n---\n"
    )
    spec = f"hf:{tmp_path / 'repo'}"
    task = load_task(f"{spec}:plain")
    assert (task.name, len(task.train), len(task.dev), len(task.test)) == ("repo-plain", 18, 2, 4)
    assert load_task(f"{spec}:chat").kind == "generation"
    part = open_source(DataConfig(path=f"{spec}:plain", splits={"train": "train[:5]", "test": "test"}))
    assert sizes(part) == {"train": 5, "test": 4}
    error = refusal(path=spec)
    assert "plain" in error.message
    assert "chat" in error.message
    assert "'nope'" in refusal(path=f"{spec}:nope").message
    assert "Unknown split" in refusal(path=f"{spec}:plain", splits={"train": "trian"}).message


@needs_datasets
def test_without_a_network_the_hub_is_told_to_be_away(monkeypatch):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    error = refusal(path="hf:nobody/nothing-of-that-name")
    assert error.message.startswith("cannot fetch nobody/nothing-of-that-name: ")
    assert error.hint == "without a network, fetch its files and name their folder instead"


def test_without_the_extra_its_packages_are_named(monkeypatch):
    import builtins

    plain_import = builtins.__import__

    def without(name, *rest):
        if name.split(".")[0] in ("datasets", "pyarrow"):
            raise ImportError(name)
        return plain_import(name, *rest)

    Path("saved").mkdir()
    Path("saved/dataset_dict.json").write_text("{}")
    Path("a.parquet").write_text("")
    monkeypatch.setattr(builtins, "__import__", without)
    for path, package in (("hf:a/b", "datasets"), ("saved", "datasets"), ("a.parquet", "pyarrow")):
        error = refusal(path=path)
        assert f"is read by the package {package}, which is not installed" in error.message
        assert error.hint.startswith("pip install 'tunewise[data]', or ")


def test_names_of_sources_are_names_of_folders():
    Path("reviews.v2").mkdir()
    names = ("hf:owner/set:config@main", "hf:imdb", "a/rows.jsonl.gz", "a/train.en,b/train.nb", "reviews.v2", "x.y.csv")
    assert [name_of(name) for name in names] == [
        "set-config-main", "imdb", "rows", "en-nb", "reviews.v2", "x.y",
    ]  # fmt: skip
    assert name_of(".") == Path.cwd().name


def test_rows_of_one_group_stay_in_one_split():
    rows = [row | {"author": f"a{k % 10}", "text": f"{row['text']} by {k}"} for k, row in enumerate(reviews(40))]
    path = write("reviews.jsonl", rows)
    task = load_task(DataConfig(path=path, group="author"))
    authors = [{example.group for example in part} for part in (task.train, task.dev, task.test)]
    assert sum(map(len, authors)) == len(set.union(*authors)) == 10
    assert "; 10 groups by author, each whole in one split" in task.ledger.detected
    assert task.ledger.leaks == ()
    for part, ours in (("train", rows[:30]), ("test", rows[30:])):
        write(f"given/{part}.jsonl", [row for row in ours if part == "test" or row["author"] != "a9"])
    given = load_task(DataConfig(path="given", group="author")).ledger
    assert "; 10 groups by author, 9 of them in several of the given splits" in given.detected
    assert given.leaks
    assert "did you mean 'author'?" in refusal(path=path, group="auther").hint
    assert "2 groups cannot be split into 3 parts" in refusal(path=path, group="label").message
    no_use = {"rows": "lines"}, {"splits": {"train": "dev"}}, {"roles": ("user",)}, {"kind": "regression"}
    for field in ({"group": "text"}, {"tools": "text"}, *no_use):
        assert f"data.{next(iter(field))} cannot change that" in refusal(path="tiny:sentiment", **field).message


@pytest.mark.parametrize("content", ["", "\n", "text,label\n"])
def test_an_empty_file_of_a_split_is_told_with_the_two_ways_on(content):
    Path("set").mkdir()
    Path("set/train.csv").write_text("text,label\n" + "".join(f"boat {n},{'ab'[n % 2]}\n" for n in range(20)))
    Path("set/test.csv").write_text(content)
    error = refusal(path="set")
    assert error.message.startswith("set/test.csv")
    assert error.hint == "put the test rows into it; or remove it, and a part of train becomes test (data.split)"
    Path("set/test.csv").unlink()
    assert len(load_task("set").test) == 2
    Path("set/train.csv").write_text(content)
    assert "name a file with at least a few rows" in refusal(path="set").hint
