"""What a run says it forgot, on bases of a second."""

import json

import pytest

from tests.small_base import QUICK, write_encoder, write_place, write_reviews
from tunewise.config import parse, read_yaml
from tunewise.errors import UserError
from tunewise.evaluation.retention import retention_loss
from tunewise.methods.store import load_adapter
from tunewise.models.load import load_base
from tunewise.run import Recipe, build_recipe, evaluate, forgetting, run


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = write_place(tmp_path_factory.mktemp("place"))
    texts = [f"the kitchen water number {i} was cold" for i in range(30)]
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    write_reviews(folder / "others.csv", 80)
    counts = [{"prompt": f"count {i}:", "completion": f" the {i} boat"} for i in range(30)]
    (folder / "counts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in counts))
    return folder


def recipe(place, retention, **fields):
    given = {"model": str(place / "base"), "data": str(place / "reviews.csv"), "dtype": "float32", "method": "lora"}
    return build_recipe({**given, "retention": retention, **fields}, QUICK)


@pytest.fixture(scope="module")
def finished(place):
    suite = [
        str(place / "texts.jsonl"),
        {"data": str(place / "others.csv"), "shots": 2, "rows": 5},
        str(place / "counts.jsonl"),
    ]
    asked = recipe(place, suite)
    out = place / "run"
    return asked, out, run(asked, out, prove=False)


def test_every_task_of_the_suite_is_asked_of_both(place, finished):
    asked, out, metrics = finished
    assert parse(Recipe, read_yaml(out / "recipe.yaml")) == asked
    retention = metrics["retention"]
    texts, shown, counts = retention["suite"]
    assert {name: retention[name] for name in ("base", "tuned", "change")} == {
        name: texts[name] for name in ("base", "tuned", "change")
    }
    assert (texts["metric"], shown["metric"], counts["metric"]) == ("loss", "accuracy", "rougeL")
    assert shown["task"].endswith("others.csv, 2 shots")
    assert (texts["n_items"], shown["n_items"], counts["n_items"]) == (3, 5, 3)
    assert 0 < texts["noise_floor"] < 1e-3
    assert shown["noise_floor"] == counts["noise_floor"] == 0.0
    assert texts["n_gained"] + texts["n_lost"] == 3
    # each against the plain way to ask it
    base = load_base(asked.model, "float32")
    documents = [json.loads(line)["text"] for line in (place / "texts.jsonl").read_text().splitlines()]
    rows = [json.loads(line) for line in (out / "retention.jsonl").read_text().splitlines()]
    expected = [look["task"] for look in retention["suite"] for _ in range(look["n_items"])]
    assert [row["task"] for row in rows] == expected
    places = [int(row["id"].rpartition(":")[2]) - 1 for row in rows[:3]]
    kept = [documents[place] for place in places]
    total, losses = retention_loss(base, kept)
    assert (texts["base"], [row["base"] for row in rows[:3]]) == (pytest.approx(total), pytest.approx(losses))
    tuned = load_adapter(base.model, out / "adapter", tokenizer=base.tokenizer)
    total, losses = retention_loss(base, kept)
    assert (texts["tuned"], [row["tuned"] for row in rows[:3]]) == (pytest.approx(total), pytest.approx(losses))
    tuned.detach()
    for look, path, shots, limit in ((shown, "others.csv", 2, 5), (counts, "counts.jsonl", 0, None)):
        asked_of = {"data": str(place / path), "shots": shots, "limit": limit}
        before = evaluate(model=asked.model, overrides={"dtype": "float32"}, **asked_of)["metrics"]
        after = evaluate(out, **asked_of)["metrics"]
        assert (look["base"], look["tuned"]) == pytest.approx((before[look["metric"]], after[look["metric"]]))


def test_the_base_is_read_once_for_methods_that_leave_unlike_room(place, tmp_path, monkeypatch):
    """Unless the room of one cuts a text."""
    monkeypatch.setattr(forgetting, "_OF_BASES", {})
    texts = str(place / "texts.jsonl")
    prompt = {"name": "prompt_tuning", "virtual_tokens": 5}
    plain, beside = (
        run(recipe(place, texts, method=method), tmp_path / str(number), prove=False)["retention"]
        for number, method in enumerate(["lora", prompt])
    )
    assert plain["base"] == beside["base"]
    assert len(forgetting._OF_BASES) == 1
    long = {**prompt, "virtual_tokens": 90}  # of 96
    cut = run(recipe(place, texts, method=long), tmp_path / "cut", prove=False)["retention"]
    assert cut["base"] != plain["base"]


def test_one_task_no_text_and_nothing(place, tmp_path):
    one = run(recipe(place, str(place / "others.csv")), tmp_path / "one", prove=False)
    assert list(one["retention"]) == ["suite"], "without a loss of texts there is none on top"
    nothing = run(recipe(place, None), tmp_path / "nothing", prove=False)
    assert nothing["retention"] is None
    assert not (tmp_path / "nothing" / "retention.jsonl").exists()


def test_a_classifier_is_asked_tasks_with_its_labels(place, tmp_path):
    encoder = write_encoder(tmp_path / "encoder") or tmp_path / "encoder"
    fields = {"model": str(encoder), "method": {"name": "lora", "rank": 2}}
    metrics = run(recipe(place, str(place / "others.csv"), **fields), tmp_path / "run", prove=False)
    (look,) = metrics["retention"]["suite"]
    assert (look["metric"], look["n_items"]) == ("accuracy", 8)
    words = tmp_path / "words.csv"
    words.write_text("text,label\n" + "".join(f"water {i},{'cold' if i % 2 else 'warm'}\n" for i in range(40)))
    with pytest.raises(UserError, match=r"wants the head classes cold, warm, and .* here has classes 0, 1"):
        run(recipe(place, str(words), **fields), tmp_path / "wrong", prove=False)


@pytest.mark.parametrize(
    ("retention", "told"),
    [
        ("nowhere.jsonl", "nowhere.jsonl"),
        ({"data": "tiny:entailment_ood", "shots": 3}, "no training rows to show"),
    ],
)
def test_what_cannot_be_asked_is_told_before_the_training(place, tmp_path, retention, told):
    with pytest.raises(UserError, match=told):
        run(recipe(place, retention), tmp_path / "run", prove=False)
    assert not (tmp_path / "run" / "log.jsonl").exists()


def test_tiny_is_asked_what_it_can_do_and_is_not_trained_on():
    paths = [each.name for each in build_recipe({"data": "tiny:headline", "method": "lora"}).retention_suite]
    assert paths == ["tiny:retention", "tiny:sentiment, 8 shots", "tiny:translation, 8 shots"]
    assert build_recipe({"data": "a.csv", "method": "lora", "model": "elsewhere"}).retention_suite == ()
    assert build_recipe({"data": "tiny:sentiment", "method": "lora", "head": "classifier"}).retention_suite == ()


def test_a_task_of_the_harness_is_asked_of_both(place, tmp_path, monkeypatch):
    """What asks the harness is a stand-in here: how it answers has tests of its own."""
    asked = []

    def scores(base, tasks, *, limit, shots, include_path, **_):
        asked.append((tasks, limit, shots, include_path))
        right = float(len(asked) == 3)  # once before the training, then the base, then the tuned model
        return {tasks[0]: {"acc": right, "acc_stderr": 0.0, "n": 2, "items": [{"id": 0, "acc": right}]}}

    monkeypatch.setattr("tunewise.run.forgetting.harness_scores", scores)
    spec = {"data": {"path": "harness:boats", "folder": str(place)}, "rows": 7, "shots": 2}
    metrics = run(recipe(place, spec), tmp_path / "run", prove=False)
    (look,) = metrics["retention"]["suite"]
    assert (look["task"], look["metric"], look["change"], look["n_gained"]) == ("harness:boats, 2 shots", "acc", 1.0, 1)
    assert asked == [(["boats"], limit, 2, str(place)) for limit in (1, 7, 7)]
