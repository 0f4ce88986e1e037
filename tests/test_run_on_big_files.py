"""Runs on big files: they read and cut the rows that they see, and end as on files that are read whole."""

import json

import pytest

from tests.small_base import QUICK, write_base
from tunewise.data import big, token_store
from tunewise.data.config import DataConfig
from tunewise.data.load import load_task
from tunewise.data.streamed import Streamed, witnesses_of
from tunewise.data.token_store import JoinedRows, StoredRows, lengths
from tunewise.engine.backend import backend
from tunewise.engine.native.build import library
from tunewise.models.load import load_base
from tunewise.run import build_recipe, refuse_unfit, run
from tunewise.run import prepare as preparing
from tunewise.run.prepare import drawn, load_for
from tunewise.run.training_rows import training_rows

pytestmark = pytest.mark.usefixtures("without_a_fresh_process")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    write_base(folder / "base")
    rows = [
        {"prompt": f"count {n}:", "completion": f" the {n} boat" + " water" * (20 * (n % 4 == 1) + 20 * (n % 8 == 1))}
        for n in range(60)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def base(place):
    return load_base(str(place / "base"), "float32")


@pytest.fixture
def streamed(tmp_path, monkeypatch):
    """Every file is big, and all tokens are worth keeping; what was built and measured on this machine stays."""
    library()
    backend()
    monkeypatch.setenv("TUNEWISE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(big, "BIG", 1)
    monkeypatch.setattr(token_store, "WORTH_KEEPING", 1)
    preparing._TASKS.clear()
    yield
    preparing._TASKS.clear()


def recipe(place, data=None, **overrides):
    data = data or str(place / "rows.jsonl")
    given = {"model": str(place / "base"), "data": data, "dtype": "float32", "method": "bitfit"}
    return build_recipe({**given, "retention": None}, {**QUICK, "method.add": True, **overrides})


def read(asked, base):
    return drawn(load_for(asked.data, asked.model, asked.dtype, base=base)[1], asked)


def test_a_few_steps_read_a_few_rows(place, base, streamed):
    asked = recipe(place, **{"train.steps": 6, "train.batch_size": 4, "train.max_length": 32})
    task = read(asked, base)
    assert isinstance(task.train, Streamed)
    assert len(task.train) == 24
    assert task.ledger.detected.endswith("; of train the 24 rows that the run sees, by seed")
    assert task.ledger.rows == task.ledger.trained == 60
    assert task == read(asked, base)
    other = read(recipe(place, **{"train.steps": 6, "train.batch_size": 4, "seed": 1}), base)
    assert task.train != other.train
    found = training_rows(base, task, 32)
    rows, ledger = found.rows, found.ledger
    lines = {example.line for example in task.train}
    long = {line for line in lines if line % 8 == 2}
    assert long, "some of them were to be too long"
    assert (ledger.rows, ledger.trained) == (24, 24 - len(long)) == (24, len(rows))
    assert {note.line for note in ledger.rejected} == long
    assert {row.id for row in rows} == {f"rows:{line}" for line in lines - long}


def test_steps_that_see_all_rows_leave_none_out(place, base, streamed):
    for steps in (12, 100):
        assert len(read(recipe(place, **{"train.steps": steps, "train.batch_size": 4}), base).train) == 48
    assert len(read(recipe(place, **{"train.epochs": 1}), base).train) == 48
    assert len(read(recipe(place, **{"data.few_shot": 5}), base).train) == 5


def test_a_few_steps_replay_their_share_of_the_rows_they_see(place, base, streamed):
    replay = [{"path": "tiny:retention", "share": 0.2}]
    few = read(recipe(place, **{"train.steps": 2, "train.batch_size": 4, "data.replay": replay}), base)
    assert (len(few.train), [len(each.examples) for each in few.replayed]) == (8, [2])
    every = read(recipe(place, **{"train.epochs": 1, "data.replay": replay}), base)
    assert (len(every.train), [len(each.examples) for each in every.replayed]) == (48, [12])


def assert_as_read_whole(found, asked, base, folder, monkeypatch):
    """What the run in folder/streamed `found` is what one finds that holds all rows, which is left in folder/whole."""
    monkeypatch.setattr(big, "BIG", 1 << 20)
    monkeypatch.setenv(token_store.CAP, "0")
    preparing._TASKS.clear()
    expected = run(asked, folder / "whole", base=base)
    for name in ("test", "dev", "steps", "tokens", "loss_first", "loss_last", "best_step"):
        assert found[name] == expected[name], name
    for file in ("ledger.json", "predictions.jsonl"):
        assert (folder / "streamed" / file).read_text() == (folder / "whole" / file).read_text()


def test_a_run_ends_as_on_a_file_that_is_read_whole(place, base, tmp_path, monkeypatch, streamed):
    asked = recipe(place, **{"train.epochs": 1.0, "train.steps": None, "train.max_length": 32})
    found = run(asked, tmp_path / "streamed", base=base)
    rows = training_rows(base, read(asked, base), 32).rows
    assert isinstance(rows, StoredRows)
    assert_as_read_whole(found, asked, base, tmp_path, monkeypatch)
    ledger = json.loads((tmp_path / "whole" / "ledger.json").read_text())["train"]
    assert ledger["rows"] == 48 == ledger["trained"] + len(ledger["rejected"])
    assert ledger["rejected"]


def test_a_task_is_read_once_while_its_file_stays_as_it_is(place, base, streamed, monkeypatch):
    asked = recipe(place)
    first = load_for(asked.data, asked.model, asked.dtype, base=base)[1]
    assert load_for(asked.data, asked.model, asked.dtype, base=base)[1] is first
    for seed in (1, 2):
        other = recipe(place, **{"data.seed": seed})
        assert load_for(other.data, other.model, other.dtype, base=base)[1] is not first
    assert len(preparing._TASKS) == preparing.N_TASKS == 2
    content = (place / "rows.jsonl").read_text()
    try:
        (place / "rows.jsonl").write_text(content + content.splitlines()[0].replace("0", "99") + "\n")
        assert load_for(asked.data, asked.model, asked.dtype, base=base)[1].ledger.rows == 61
    finally:
        (place / "rows.jsonl").write_text(content)


def mixed(place, **overrides):
    """The rows and, as two more sources, texts and others than those."""
    contents = {
        "texts": [{"text": f"the water {n} was cold"} for n in range(40)],
        "more": [{"prompt": f"more {n}?", "completion": f" {n}"} for n in range(50)],
    }
    for name, rows in contents.items():
        if not (place / f"{name}.jsonl").exists():
            (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sources = {name: str(place / f"{name}.jsonl") for name in ("rows", "texts", "more")}
    return recipe(place, data={"path": "mixed", "mixture": {"sources": sources, "cap": 10}}, **overrides)


def test_a_mixture_of_big_files_ends_as_one_of_files_that_are_read_whole(place, base, tmp_path, monkeypatch, streamed):
    asked = mixed(place, **{"train.epochs": 6.0, "train.steps": None, "train.max_length": 32})
    read_from = []
    monkeypatch.setattr(preparing, "load_task", lambda *given: read_from.append(given) or load_task(*given))
    refuse_unfit([asked])
    task = read(asked, base)
    assert len(read_from) == 1, "the doctor and the run share what was read"
    assert all(isinstance(source.train, Streamed) for source in task.each.values())
    assert [one.id for one in task.train] == [one.id for of in task.each.values() for one in of.train]
    assert len(witnesses_of(task.train)) < 10 < len(task.train)
    found = run(asked, tmp_path / "streamed", base=base)
    rows = training_rows(base, task, 32)
    assert isinstance(rows.rows, JoinedRows)
    assert lengths(rows.rows).tolist() == [len(row.ids) for row in rows.rows]
    assert [rows.rows[number] for number in range(len(rows.rows))] == list(rows.rows)
    assert list(rows.answered) == list(rows.rows)[: rows.n_answered] == rows.rows[: rows.n_answered]
    assert_as_read_whole(found, asked, base, tmp_path, monkeypatch)


def test_a_few_steps_of_a_mixture_cut_no_more_rows_than_they_could_see(place, base, streamed):
    whole = load_for(mixed(place).data, "", base=base)[1]
    few = read(mixed(place, **{"train.steps": 6, "train.batch_size": 4}), base)
    assert (whole.n_train, few.n_train) == ({"rows": 48, "texts": 32, "more": 40}, dict.fromkeys(few.n_train, 20))
    assert few.ledger.detected.count("; of train 20 rows, by seed, which is more than the run sees") == 3
    assert training_rows(base, few, 96).sources.rates == pytest.approx([1 / 3] * 3)
    many = read(mixed(place, **{"train.steps": 24, "train.batch_size": 4}), base)
    assert many.n_train == {"rows": 31, "texts": 31, "more": 31}


def test_leaks_between_big_files_are_those_between_files_that_are_read_whole(place, base, monkeypatch, streamed):
    held = load_for(recipe(place).data, "", base=base)[1].test[0]
    asked = mixed(place)
    folder = place / "again"
    folder.mkdir()
    for part, rows in (
        ("train", [held]),
        ("dev", [held]),
        ("test", [held, *load_task(asked.data).each["more"].train[:2]]),
    ):
        lines = [{"question": one.prompt, "answer": " Yes"} for one in rows]
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    sources = {**asked.data.mixture.model_dump()["sources"], "again": {"path": str(folder)}}
    data = DataConfig.model_validate({"path": "mixed", "mixture": {"sources": sources}})
    found = load_task(data).ledger.leaks
    monkeypatch.setattr(big, "BIG", 1 << 20)
    assert found == load_task(data).ledger.leaks
    reasons = [note.reason for note in found]
    # its own, rendered alike; and those that another template asks
    assert sum(reason.startswith("again: this row of test is also in train, line ") for reason in reasons) == 1
    assert "this row of test of rows is also in train of again, line 1" in reasons
    assert sum("test of again is also in train of more, line " in reason for reason in reasons) == 2
