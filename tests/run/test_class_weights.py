"""Class weights and label smoothing of whole runs: what they come to on the rows, and where they are refused."""

import json

import numpy as np
import pytest
import torch

from tests.small_base import QUICK, write_encoder, write_place
from tunewise.config import parse, read_yaml
from tunewise.data.config import DataConfig
from tunewise.data.load import load_task
from tunewise.engine.criterion import CrossEntropy, minimising
from tunewise.engine.objectives import NextToken, encode_rows
from tunewise.errors import UserError
from tunewise.models.load import load_base
from tunewise.run import build_recipe, evaluate, plan, run
from tunewise.run.class_weights import check_loss, weighed, weights_of
from tunewise.run.estimate import plan as estimate
from tunewise.run.examined import refuse_unfit
from tunewise.run.prepare import drawn, load_for
from tunewise.run.together import run_together
from tunewise.run.training_rows import training_rows
from tunewise.training.config import TrainConfig


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A decoder, an encoder, and one review in five that is bad."""
    folder = write_place(tmp_path_factory.mktemp("place"))
    write_encoder(folder / "encoder")
    rows = [f"the soup {i} was {'good' if i % 5 else 'bad'},{'good' if i % 5 else 'bad'}" for i in range(80)]
    (folder / "rare.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    words = [{"tokens": ["the", "boat", str(i)], "tags": ["O", "B-THING" if i % 4 else "O", "O"]} for i in range(40)]
    (folder / "words.jsonl").write_text("".join(json.dumps(row) + "\n" for row in words))
    (folder / "values.csv").write_text("text,score\n" + "".join(f"soup {i},{i / 7}\n" for i in range(40)))
    answers = [{"prompt": f"is {i} warm?", "completion": f"it is the {i}th of all"} for i in range(40)]
    (folder / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers))
    (folder / "texts.txt").write_text("".join(f"the kitchen water number {i} was cold\n\n" for i in range(40)))
    return folder


def recipe_of(place, data, model="base", **overrides):
    told = {"model": str(place / model), "data": str(place / data), "method": "lora", "dtype": "float32"}
    return build_recipe(told, {**QUICK, **overrides})


def test_balanced_weights_are_scikit_learns():
    # compute_class_weight("balanced", classes=[0, 1], y=[1, 1, 1, 1, 0, 0]) in scikit-learn's documentation
    assert weights_of("balanced", ("0", "1"), {"0": 2, "1": 4}) == {"0": 1.5, "1": 0.75}
    drawn = np.random.default_rng(0).integers(0, 7, 500)
    counts = {str(label): int(n) for label, n in enumerate(np.bincount(drawn))}
    expected = len(drawn) / (7 * np.bincount(drawn))
    assert list(weights_of("balanced", tuple(counts), counts).values()) == pytest.approx(expected)
    assert weights_of("balanced", ("a", "b", "unseen"), {"a": 3, "b": 1}) == {"a": 2 / 3, "b": 2.0, "unseen": 1.0}
    assert weights_of({"b": 4.0}, ("a", "b"), {}) == {"a": 1.0, "b": 4.0}


def test_names_of_trainer_and_scikit_learn_are_taken_and_labels_are_texts():
    found = parse(TrainConfig, {"label_smoothing_factor": 0.1, "class_weight": {0: 2, True: 3, "no": 0.5}})
    assert (found.label_smoothing, found.class_weights) == (0.1, {"0": 2.0, "true": 3.0, "no": 0.5})
    assert (TrainConfig().label_smoothing, TrainConfig().class_weights) == (0.0, None)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"label_smoothing": 1.0}, "less than 1"),
        ({"label_smoothing": -0.1}, "greater than or equal to 0"),
        ({"class_weights": {"a": 0}}, "greater than 0"),
        ({"class_weights": {"a": float("inf")}}, "finite"),
        ({"class_weights": "even"}, "balanced, or {CLASS: WEIGHT}"),
        ({"class_weights": [1, 2]}, "balanced, or {CLASS: WEIGHT}"),
    ],
)
def test_what_is_no_weight_is_refused(fields, told):
    with pytest.raises(UserError) as refused:
        parse(TrainConfig, fields)
    assert told in refused.value.message


@pytest.mark.parametrize(
    ("data", "model", "overrides", "told"),
    [
        ("values.csv", "encoder", {"train.label_smoothing": 0.1}, "is a regression"),
        ("texts.txt", "base", {"train.label_smoothing": 0.1}, "is plain text"),
        ("texts.txt", "base", {"train.class_weights": "balanced"}, "has no classes"),
        ("values.csv", "encoder", {"train.class_weights": "balanced"}, "has no classes"),
        ("answers.jsonl", "base", {"train.class_weights": "balanced"}, "has no classes"),
        ("rare.csv", "base", {"train.class_weights": {"baad": 2}}, "no class of train.class_weights named 'baad'"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_spent(place, data, model, overrides, told, tmp_path):
    recipe = recipe_of(place, data, model, **overrides)
    with pytest.raises(UserError) as refused:
        refuse_unfit([recipe])
    assert told in refused.value.message
    with pytest.raises(UserError):
        run(recipe, tmp_path / "run")
    task = load_task(DataConfig(path=str(place / data)), None)
    check_loss(build_recipe({**recipe.model_dump(mode="json"), "method": "frozen"}), task)  # trains nothing


def test_an_answer_in_words_counts_what_its_class_counts(place, tmp_path):
    """The first step, of all rows, against the rows' own losses on the base."""
    overrides = {"train.steps": 1, "train.batch_size": 20, "train.accumulation": 4, "train.label_smoothing": 0.1}
    recipe = recipe_of(place, "rare.csv", **overrides, **{"train.class_weights": "balanced"})
    metrics = run(recipe, tmp_path / "run", prove=False)
    base = load_base(str(place / "base"), "float32")
    task = load_task(recipe.data, base.tokenizer)
    n_bad = sum(example.label == "bad" for example in task.train)
    n = len(task.train)
    weights = {"bad": n / (2 * n_bad), "good": n / (2 * (n - n_bad))}
    assert json.loads((tmp_path / "run" / "ledger.json").read_text())["class_weights"] == pytest.approx(weights)
    rows, _ = encode_rows(base, task, task.train, 96)
    objective = minimising(NextToken(base.tokenizer.pad_token_id), CrossEntropy(0.1))
    of_rows = torch.tensor([weights[example.label] for example in task.train])
    n_labels = torch.tensor([objective.n_labels(row) for row in rows])
    with torch.no_grad():
        losses = objective.row_losses(base.model, objective.collate(rows))
    first = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[0])
    assert first["loss"] == pytest.approx(float((losses * of_rows).sum() / (n_labels * of_rows).sum()), abs=1e-5)
    again = evaluate(tmp_path / "run", split="test")
    assert again["metrics"] == pytest.approx(metrics["test"], abs=1e-4)


@pytest.mark.parametrize("asked", [{"good": 0.5, "bad": 4}, "balanced"])
def test_rows_that_are_replayed_count_one_and_are_of_no_class(place, asked):
    replay = {"path": str(place / "texts.txt"), "share": 0.25}
    recipe = recipe_of(place, "rare.csv", **{"data.replay": replay, "train.class_weights": asked})
    base, task = load_for(recipe.data, recipe.model, recipe.dtype)
    found = training_rows(base, drawn(task, recipe), 96)
    weights, weighing = weighed(recipe.train.class_weights, task, "lm", found)
    assert weights == asked or weights["bad"] > 2 > 1 > weights["good"]
    n_own, n_replayed = found.sources.sizes
    assert n_replayed > 8
    assert set(weighing.rows[:n_own]) == set(weights.values())
    assert weighing.rows[n_own:] == [1.0] * n_replayed


def mixed_of(place, other, **overrides):
    sources = {"rare": str(place / "rare.csv"), "other": str(place / other)}
    data = {"path": "both", "mixture": {"sources": sources, "temperature": 1e9}}
    told = {"model": str(place / "base"), "data": data, "method": "lora", "dtype": "float32"}
    return build_recipe(told, {**QUICK, "train.class_weights": "balanced", **overrides})


def test_a_mixture_of_sources_with_the_same_classes_is_balanced_by_what_is_drawn_of_it(place, tmp_path):
    rows = [f"the boat {i} was {'good' if i % 2 else 'bad'},{'good' if i % 2 else 'bad'}" for i in range(20)]
    (place / "even.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    recipe = mixed_of(place, "even.csv")
    run(recipe, tmp_path / "run", prove=False)
    base = load_base(str(place / "base"), "float32")
    shares = []
    for source in recipe.data.each.values():  # each is drawn as often, at such a temperature
        train = load_task(source, base.tokenizer).train
        shares.append(sum(example.label == "bad" for example in train) / len(train))
    bad = sum(shares) / 2
    told = json.loads((tmp_path / "run" / "ledger.json").read_text())["class_weights"]
    assert told == pytest.approx({"bad": 1 / (2 * bad), "good": 1 / (2 * (1 - bad))}, rel=1e-6)
    steps = map(json.loads, (tmp_path / "run" / "log.jsonl").read_text().splitlines())
    assert all(np.isfinite(step["loss"]) for step in steps if "loss" in step)


def test_a_mixture_of_unlike_classes_is_not_weighed(place, tmp_path):
    (place / "other.csv").write_text(
        "text,label\n" + "".join(f"soup {i},{'hot' if i % 2 else 'bad'}\n" for i in range(40))
    )
    for other, told in (
        ("other.csv", "rare: bad, good; other: bad, hot"),
        ("answers.jsonl", "its source other is gen"),
    ):
        with pytest.raises(UserError, match=told):
            run(mixed_of(place, other), tmp_path / "run")


def test_a_tagger_and_a_frozen_trunk_weigh_what_they_are_trained_on(place, tmp_path):
    found = {}
    for trunk in ("cached", "live"):
        overrides = {"train.trunk": trunk, "train.class_weights": "balanced", "train.label_smoothing": 0.2}
        recipe = recipe_of(place, "words.jsonl", "encoder", **overrides, method="head")
        metrics = run(recipe, tmp_path / trunk, prove=False)
        log = [json.loads(line) for line in (tmp_path / trunk / "log.jsonl").read_text().splitlines()]
        found[trunk] = [step["loss"] for step in log if "loss" in step], metrics["test"]
        assert metrics["trunk"]["cached"] is (trunk == "cached")
    assert found["cached"][0] == pytest.approx(found["live"][0], abs=1e-5)
    told = json.loads((tmp_path / "live" / "ledger.json").read_text())["class_weights"]
    assert told["B-THING"] > 1 > told["O"]
    assert read_yaml(tmp_path / "live" / "recipe.yaml")["train"]["class_weights"] == "balanced"


def test_runs_of_unlike_weights_side_by_side_are_as_alone(place, tmp_path):
    shared = {"train.steps": 3, "data.few_shot": 12}
    own = ({}, {"train.label_smoothing": 0.3}, {"train.class_weights": {"bad": 6}})
    recipes = [recipe_of(place, "rare.csv", **shared, **each) for each in own]
    base = load_base(str(place / "base"), "float32")
    together = run_together(recipes, [tmp_path / f"beside{i}" for i in range(3)], base)
    assert plan(recipes, base).groups == ((0, 1, 2),)
    losses = []
    for number, (recipe, beside) in enumerate(zip(recipes, together, strict=True)):
        alone = run(recipe, tmp_path / f"alone{number}", base=base, prove=False)
        logs = [(tmp_path / f"{name}{number}" / "log.jsonl").read_text().splitlines() for name in ("alone", "beside")]
        one, other = ([json.loads(line).get("loss") for line in log] for log in logs)
        assert [loss for loss in other if loss] == pytest.approx([loss for loss in one if loss], abs=1e-4)
        assert beside["test"] == pytest.approx(alone["test"], abs=1e-2)
        losses.append(one[-2])
    assert len({round(loss, 3) for loss in losses if loss}) == 3


def test_a_plan_counts_smoothing_and_refuses_what_a_run_would(place):
    asked = {"train.label_smoothing": 0.1, "data.train": 8}
    found = estimate(str(place / "base"), ["lora"], data=str(place / "rare.csv"), overrides=asked)
    assert found.steps.worst.label_smoothing == 0.1
    with pytest.raises(UserError, match="has no classes"):
        estimate("tiny", ["lora"], data="tiny:headline", overrides={"train.class_weights": "balanced"})
