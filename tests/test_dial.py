"""The forgetting dial of a run against every λ set by hand."""

import json
from dataclasses import replace

import pytest

from tests.alike import alike
from tests.small_base import QUICK, write_place_with_texts
from tunewise import files
from tunewise.data.load import load_task
from tunewise.errors import UserError
from tunewise.evaluation.retention import retention_loss
from tunewise.methods import LoRA
from tunewise.methods.attach import attach
from tunewise.methods.store import load_adapter
from tunewise.models.load import load_base
from tunewise.run import build_recipe, carry_out, dial_adapter, evaluate, run
from tunewise.run.dial import DIAL, Point, knee_of, measure_dial, why_not_at_once


def points(*rows):
    return [Point(*row, retention=None) for row in rows]


def test_the_knee_keeps_the_gain_and_forgets_least():
    found = points((0.0, 50.0, 0, 2.0), (0.5, 89.0, 0, 2.1), (0.75, 88.0, 0, 2.05), (1.0, 90.0, 0, 2.9))
    assert knee_of(found, 0.95).scale == 0.75  # 38 of 40 points kept, and the least forgotten of the three that do
    assert knee_of(found, 0.97).scale == 0.5
    assert knee_of(found, 1.0).scale == 1.0
    without = points((0.0, 50.0, 0, None), (0.5, 89.0, 0, None), (1.0, 90.0, 0, None))
    assert knee_of(without, 0.95).scale == 0.5
    nothing = points((0.0, 50.0, 0, 2.0), (0.5, 40.0, 0, 2.1), (1.0, 30.0, 0, 2.9))
    assert knee_of(nothing, 0.95).scale == 0.0
    losses = points((0.0, 3.0, 0, 2.0), (0.5, 2.0, 0, 2.1), (1.0, 2.9, 0, 2.9))
    assert knee_of(losses, 0.95, lower_is_better=True).scale == 0.5


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return write_place_with_texts(tmp_path_factory.mktemp("place"), 30, 30)


def recipe(place, method, data="reviews.csv", **fields):
    given = {"model": str(place / "base"), "data": str(place / data), "dtype": "float32", "method": method}
    return build_recipe({**given, "retention": str(place / "texts.jsonl"), **fields}, QUICK)


def by_hand(place, run_folder, data, scales):
    """What each λ scores, one loaded adapter after another."""
    base = load_base(str(place / "base"), "float32")
    texts = [json.loads(line)["text"] for line in (place / "texts.jsonl").read_text().splitlines()]
    kept = [json.loads(line)["id"] for line in (run_folder / "retention.jsonl").read_text().splitlines()]
    documents = [texts[int(name.rpartition(":")[2]) - 1] for name in kept]
    found = []
    for scale in scales:
        tuned = load_adapter(base.model, run_folder / "adapter", tokenizer=base.tokenizer)
        base.model.eval()
        tuned.scale = scale
        halves = documents[::2], documents[1::2]
        found.append([retention_loss(base, half, prefix_ids=tuned.prefix_ids)[0] for half in halves])
        tuned.detach()
    return found


@pytest.mark.parametrize(
    ("method", "data", "route"),
    [
        ({"name": "lora", "rank": 2, "roles": ["all"]}, "reviews.csv", "3 lanes"),
        ("bitfit", "reviews.csv", "3 lanes"),
        ("full", "reviews.csv", "3 lanes"),
        ({"name": "prompt_tuning", "virtual_tokens": 3}, "reviews.csv", "3 lanes"),
        ("lora", "counts.jsonl", "3 lanes"),
    ],
)
def test_zero_is_the_base_and_one_the_run(place, tmp_path, method, data, route):
    fields = {"name": method, "add": True} if method == "bitfit" else method
    metrics = run(recipe(place, fields, data), tmp_path / "run", prove=False)
    found = dial_adapter(tmp_path / "run", points=3)
    assert files.read_json(tmp_path / "run" / DIAL) == found
    assert found["route"].startswith(route)
    zero, half, one = found["points"]
    name = found["metric"]
    assert [point["scale"] for point in found["points"]] == [0.0, 0.5, 1.0]
    before = evaluate(model=str(place / "base"), data=str(place / data), overrides={"dtype": "float32"})
    assert zero["test"] == before["metrics"][name]
    assert (one["test"], one["dev"]) == (metrics["test"][name], metrics["dev"][name])
    expected = by_hand(place, tmp_path / "run", data, (0.0, 0.5, 1.0))
    for point, of_halves in zip(found["points"], expected, strict=True):
        assert [point["chosen_by"], point["retention"]] == pytest.approx(of_halves, abs=1e-5)
    assert half["retention"] not in (zero["retention"], one["retention"])
    assert found["knee"] in (0.0, 0.5, 1.0)


def test_a_run_measures_its_dial_where_it_is_asked_to(place, tmp_path, monkeypatch):
    few = {"data": str(place / "texts.jsonl"), "rows": 2}
    asked = recipe(place, "lora", dial={"points": 3, "keep": 0.9}, retention=few)
    metrics = run(asked, tmp_path / "run", prove=False)
    found = files.read_json(tmp_path / "run" / DIAL)
    assert metrics["dial"] in found["points"]
    assert (metrics["dial"]["scale"], found["keep"], len(found["points"])) == (found["knee"], 0.9, 3)
    assert found["points"][-1]["test"] == metrics["test"]["accuracy"]
    (look,) = metrics["retention"]["suite"]
    assert look["n_items"] == 2
    lines = (tmp_path / "run" / "retention.jsonl").read_text().splitlines()
    first, second = (json.loads(line) for line in lines)
    for name, of_text in (("chosen_by", first), ("retention", second)):
        told = [found["points"][at][name] for at in (0, -1)]
        assert told == pytest.approx([of_text["base"], of_text["tuned"]], abs=1e-5), "each half is one text"
    assert all(proof["passed"] for proof in metrics["proofs"].values())
    assert metrics["spent"]["dial"] > 0
    assert not (tmp_path / "run" / "adapter" / DIAL).exists()
    assert carry_out.DIAL == DIAL
    without = run(recipe(place, "lora"), tmp_path / "without", prove=False)
    assert without["dial"] is None
    assert not (tmp_path / "without" / DIAL).exists()
    assert without["test"] == metrics["test"], "measuring the dial changes nothing"


def test_what_a_folder_does_not_take_is_told_all_the_same(place, tmp_path, monkeypatch, caplog):
    run(recipe(place, "lora"), tmp_path / "run", prove=False)

    def refuse(path, _):
        raise UserError(f"cannot write {path}: read-only")

    monkeypatch.setattr(files, "write_json", refuse)
    with caplog.at_level("WARNING", "tunewise"):
        found = dial_adapter(tmp_path / "run", points=2)
    assert len(found["points"]) == 2
    assert "dial.json: read-only; what was measured is told here alone" in caplog.text


def test_the_lambda_to_take_is_saved(place, tmp_path, monkeypatch):
    run(recipe(place, "lora"), tmp_path / "run", prove=False)
    monkeypatch.setattr("tunewise.run.dial.knee_of", lambda points, *_, **__: points[1])
    found = dial_adapter(tmp_path / "run" / "adapter", points=3, data=str(place / "reviews.csv"), save=tmp_path / "at")
    assert found["knee"] == 0.5
    base = load_base(str(place / "base"), "float32")
    tuned = load_adapter(base.model, tmp_path / "at", tokenizer=base.tokenizer)
    assert tuned.scale == 0.5
    tuned.detach()
    scored = evaluate(tmp_path / "at", data=str(place / "reviews.csv"))["metrics"]["accuracy"]
    assert scored == found["points"][1]["test"]
    assert not (tmp_path / "run" / DIAL).exists(), "an adapter's own folder is left as it is"
    monkeypatch.setattr("tunewise.run.dial.knee_of", lambda points, *_, **__: points[0])
    with pytest.raises(UserError, match="the λ to take is 0"):
        dial_adapter(tmp_path / "run", points=3, save=tmp_path / "zero")


def test_copies_of_large_weights_are_not_made_for_every_lambda(place, tmp_path, monkeypatch):
    run(recipe(place, "full"), tmp_path / "run", prove=False)
    at_once = dial_adapter(tmp_path / "run", points=3)
    of_one = json.loads((tmp_path / "run" / "env.json").read_text())["base"]["bytes"]
    monkeypatch.setattr("tunewise.models.aside.LARGEST_IN_MEMORY_BYTES", 2 * of_one)  # two would go, and not three
    found = dial_adapter(tmp_path / "run", points=3)
    assert found["route"] == "one by one: each λ would have its own copy of the base's tensors that were trained"
    assert alike(found["points"], at_once["points"])


@pytest.mark.parametrize("form", ["int8", "int8-ends8"])
def test_lambdas_of_int8_are_not_side_by_side(place, form):
    base = replace(load_base(str(place / "base"), "float32"), quantise=form)
    tuned = attach(base.model, LoRA())
    assert why_not_at_once(base, tuned, 3) == "a row's int8 products depend on the rows beside it"
    assert why_not_at_once(replace(base, quantise="nf4"), tuned, 3) == ""


def test_what_has_no_dial_is_refused(place, tmp_path):
    run(recipe(place, "frozen"), tmp_path / "frozen", prove=False)
    with pytest.raises(UserError, match="trained nothing"):
        dial_adapter(tmp_path / "frozen")
    with pytest.raises(UserError, match="1 point shows neither end"):
        recipe(place, "lora", dial={"points": 1})
    base = load_base(str(place / "base"), "float32")
    tuned = attach(base.model, LoRA())
    tuned.scale, asked = 0.5, recipe(place, "lora", dial={"points": 3})
    with pytest.raises(UserError, match="no dev or no test rows"):
        measure_dial(base, tuned, asked, replace(load_task(asked.data, base.tokenizer), dev=[]))
    assert tuned.scale == 0.5
