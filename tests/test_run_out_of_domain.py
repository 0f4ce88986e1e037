"""Runs that are asked an out-of-domain set, and runs whose few training rows are drawn by their seed."""

import json

import pytest

from tests.small_base import QUICK, write_place
from tunewise.data.config import DataConfig
from tunewise.data.load import load_task
from tunewise.data.splits import few_shot
from tunewise.errors import UserError
from tunewise.run import build_recipe, evaluate, run

pytestmark = pytest.mark.usefixtures("without_a_fresh_process")
COARSE = {"well": "1", "badly": "0"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = write_place(tmp_path_factory.mktemp("out_of_domain"))
    rows = [{"review": f"a pot {i} was {'good' if i % 2 else 'bad'}", "told": list(COARSE)[i % 2]} for i in range(7)]
    (folder / "pots.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    return folder


def recipe(place, method, seed=0, **fields):
    pots = {"path": str(place / "pots.jsonl"), "text": "review", "label": "told", "labels": COARSE}
    data = {"path": str(place / "reviews.csv"), "few_shot": 4}
    given = {"model": str(place / "base"), "data": data, "out_of_domain": {"pots": pots}, "method": method}
    return build_recipe({**given, "seed": seed, "dtype": "float32", **fields}, QUICK)


def read(path):
    return json.loads(path.read_text("utf-8"))


@pytest.mark.parametrize("method", ["full", {"name": "frozen", "shots": 4}], ids=["full", "frozen"])
def test_a_run_is_asked_the_set_and_writes_its_answers(place, tmp_path, method):
    metrics = run(recipe(place, method), tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "predictions-pots.jsonl").read_text().splitlines()]
    assert [row["expected"] for row in rows] == [list(COARSE)[i % 2] for i in range(7)]
    assert metrics["out_of_domain"]["pots"]["accuracy"] == pytest.approx(100 * sum(r["correct"] for r in rows) / 7)
    assert rows[0]["prompt"] == "a pot 0 was bad\nLabel:"
    ledger = read(tmp_path / "run" / "ledger.json")
    assert (ledger["out_of_domain"]["pots"]["rows"], ledger["out_of_domain"]["pots"]["trained"]) == (7, 0)
    # a task that has the set's rows as its own test rows is answered alike, whatever the demonstrations
    folder = tmp_path / "as_a_task"
    folder.mkdir()
    told = [{"id": r["id"], "text": r["prompt"].removesuffix("\nLabel:"), "label": COARSE[r["expected"]]} for r in rows]
    (folder / "test.jsonl").write_text("\n".join(map(json.dumps, told)), "utf-8")
    known = load_task(DataConfig(path=str(place / "reviews.csv")))
    for part in ("train", "dev"):
        own = [{"id": one.id, "text": one.texts[0], "label": one.label} for one in getattr(known, part)]
        (folder / f"{part}.jsonl").write_text("\n".join(map(json.dumps, own)), "utf-8")
    data = {"path": str(folder), "few_shot": 4}
    again = evaluate(tmp_path / "run", data=data, out=tmp_path / "again")
    answers = [json.loads(line) for line in (tmp_path / "again" / "predictions.jsonl").read_text().splitlines()]
    assert [row["scores"] for row in answers] == [row["scores"] for row in rows]
    assert again["metrics"]["accuracy"] == metrics["out_of_domain"]["pots"]["accuracy"]


def test_the_rows_of_a_few_shot_run_are_the_demonstrations_of_its_seed(place, tmp_path):
    train = load_task(DataConfig(path=str(place / "reviews.csv"))).train
    drawn = {}
    for seed in (0, 1):
        for method in ("full", {"name": "frozen", "shots": 4}):
            name = f"{seed}-{method if isinstance(method, str) else 'frozen'}"
            run(recipe(place, method, seed), tmp_path / name)
            drawn[name] = read(tmp_path / name / "ledger.json")["few_shot"]
        assert drawn[f"{seed}-full"] == drawn[f"{seed}-frozen"]
        assert drawn[f"{seed}-full"] == [example.id for example in few_shot(train, 4, seed)]
        assert read(tmp_path / f"{seed}-full" / "ledger.json")["train"]["trained"] == 4
    assert set(drawn["0-full"]) != set(drawn["1-full"])


def test_without_a_set_nothing_is_asked(place, tmp_path):
    metrics = run(recipe(place, "frozen", out_of_domain={}), tmp_path)
    assert metrics["out_of_domain"] == {}
    assert [path.name for path in tmp_path.glob("predictions*")] == ["predictions.jsonl"]


def test_a_set_that_has_changed_is_noticed(place, tmp_path):
    run(recipe(place, "frozen"), tmp_path)
    before = (place / "pots.jsonl").read_text("utf-8")
    (place / "pots.jsonl").write_text(before + '\n{"review": "one more", "told": "well"}', "utf-8")
    try:
        with pytest.raises(UserError, match="has changed since"):
            run(recipe(place, "frozen"), tmp_path)
    finally:
        (place / "pots.jsonl").write_text(before, "utf-8")


def test_a_row_of_the_set_in_train_fails_the_proof(place, tmp_path):
    seen = load_task(DataConfig(path=str(place / "reviews.csv"))).train[0]
    (tmp_path / "seen.jsonl").write_text(json.dumps({"text": seen.texts[0], "label": seen.label}), "utf-8")
    sets, data = {"seen": str(tmp_path / "seen.jsonl")}, str(place / "reviews.csv")
    metrics = run(recipe(place, "frozen", out_of_domain=sets, data=data), tmp_path / "run")
    assert metrics["proofs"]["no_test_row_in_train"] == {"passed": False, "value": 1, "tolerance": 0}


def test_a_name_that_is_no_name_of_a_file_is_refused(place):
    with pytest.raises(UserError, match="part of a file's name"):
        recipe(place, "frozen", out_of_domain={"a/b": "x"})
