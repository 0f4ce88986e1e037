"""Runs on a mixture, from its file to the scores of each source."""

import json
import logging
from collections import Counter
from itertools import islice

import pytest

from tests.small_base import QUICK, write_encoder, write_place_with_texts, write_reviews
from tunewise.cli.recipes import gather
from tunewise.config import parse
from tunewise.errors import UserError
from tunewise.files import read_jsonl, write_jsonl
from tunewise.models.load import load_base
from tunewise.run import Recipe, build_recipe, evaluate, mixing_table, run, run_together
from tunewise.run.forecast import forecast
from tunewise.run.prepare import load_for
from tunewise.run.training_rows import training_rows
from tunewise.run.trials import advance

pytestmark = pytest.mark.usefixtures("without_a_fresh_process")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """reviews.csv (48 rows for training), counts.jsonl (16) and texts.jsonl (24), and one that is held out."""
    folder = write_place_with_texts(tmp_path_factory.mktemp("place"), 30, 20)
    write_jsonl(folder / "held.jsonl", ({"prompt": f"add {i}:", "completion": f" {i + 1}"} for i in range(6)))
    return folder


@pytest.fixture(scope="module")
def base(place):
    return load_base(str(place / "base"), "float32")


def recipe(place, method="lora", replay=(), overrides=(), sources=("reviews.csv", "counts.jsonl"), **mixture):
    named = {name.partition(".")[0]: str(place / name) for name in sources}
    data = {"path": "mixed", "mixture": {"sources": named, **mixture}, "replay": replay}
    given = {"model": str(place / "base"), "dtype": "float32", "method": method, "retention": None, "data": data}
    return build_recipe(given, {**QUICK, **dict(overrides)})


def test_the_table_is_what_was_drawn_and_the_log_tells_each_source(place, base, tmp_path, caplog):
    asked = recipe(
        place, replay={"path": str(place / "texts.jsonl"), "share": 0.1}, mixing="equal",
        overrides={"train.steps": 20, "train.batch_size": 8},
    )  # fmt: skip
    with caplog.at_level(logging.INFO, "tunewise"):
        metrics = run(asked, tmp_path / "run", base=base)
    table = json.loads((tmp_path / "run" / "ledger.json").read_text())["mixture"]
    steps = [line for line in read_jsonl(tmp_path / "run" / "log.jsonl") if "loss" in line]
    assert [(row["source"], row["rows"]) for row in table] == [
        ("reviews", 48), ("counts", 16), (str(place / "texts.jsonl"), 7),
    ]  # fmt: skip
    # an epoch draws 48 + 16 rows of the two, and all that are replayed: 71, in 9 steps, of which the last has 7
    assert sum(row["examples"] for row in table) == 2 * 71 + 2 * 8
    for row, share in zip(table, (32 / 71, 32 / 71, 7 / 71), strict=True):
        assert abs(row["examples"] - share * 158) < 1
        assert row["epochs"] == row["examples"] / row["rows"]
        assert row["share"] == row["examples"] / 158
    assert sum(row["tokens"] for row in table) == sum(line["tokens"] for line in steps) == metrics["tokens"]
    assert set().union(*(line["by_source"] for line in steps)) == {row["source"] for row in table}
    assert any(message.startswith("source") and "reviews" in message for message in caplog.messages)
    assert all(proof["passed"] for proof in metrics["proofs"].values()), metrics["proofs"]


def test_rows_that_only_replay_have_a_table_too(place, base, tmp_path):
    given = {"model": str(place / "base"), "dtype": "float32", "method": "lora", "retention": None}
    data = {"path": str(place / "reviews.csv"), "replay": {"path": str(place / "texts.jsonl"), "share": 0.2}}
    asked = build_recipe({**given, "data": data}, {**QUICK, "train.steps": None, "train.epochs": 2})
    run(asked, tmp_path, base=base)
    table = json.loads((tmp_path / "ledger.json").read_text())["mixture"]
    assert [(row["source"], row["rows"], row["epochs"]) for row in table] == [
        ("reviews", 48, 2.0), (str(place / "texts.jsonl"), 12, 2.0),
    ]  # fmt: skip


@pytest.mark.parametrize("method", ["lora", {"name": "frozen", "shots": 2}], ids=["lora", "frozen"])
def test_each_source_is_scored_as_the_task_it_is(place, base, tmp_path, method):
    metrics = run(recipe(place, method), tmp_path / "run", base=base)
    rows = list(read_jsonl(tmp_path / "run" / "predictions.jsonl"))
    firsts = []
    for name, file in (("reviews", "reviews.csv"), ("counts", "counts.jsonl")):
        alone = evaluate(tmp_path / "run", data=str(place / file), out=tmp_path / name)
        assert {f"{name}.{metric}": value for metric, value in alone["metrics"].items()} == {
            key: value for key, value in metrics["test"].items() if key.startswith(f"{name}.")
        }
        firsts.append(next(iter(alone["metrics"].values())))
        of_source = [row for row in rows if row["source"] == name]
        answers = list(read_jsonl(tmp_path / name / "predictions.jsonl"))
        assert [row["predicted"] for row in of_source] == [row["predicted"] for row in answers]
        assert [row["id"] for row in of_source] == [f"{name}:{row['id']}" for row in answers]
    assert next(iter(metrics["test"].items())) == ("macro_average", pytest.approx(sum(firsts) / 2))
    again = evaluate(tmp_path / "run")
    assert again["metrics"] == metrics["test"]
    assert evaluate(tmp_path / "run", limit=1)["n_examples"] == 2


def test_a_text_is_trained_whole_and_its_loss_is_no_part_of_the_mean(place, base, tmp_path):
    asked = recipe(place, sources=("reviews.csv", "texts.jsonl"))
    _, task = load_for(asked.data, asked.model, asked.dtype, base=base)
    found = training_rows(base, task, 8)
    texts = found.rows[found.n_answered :]
    assert (found.n_answered, len(texts)) == (48, 24)
    assert all(row.labels == row.ids and len(row.ids) == 8 for row in texts)
    assert sum(note.reason.startswith("texts: ") for note in found.ledger.truncated) == 24
    metrics = run(asked, tmp_path, base=base)
    assert metrics["test"]["macro_average"] == metrics["test"]["reviews.accuracy"]
    assert metrics["test"]["texts.loss"] > 0


def test_proportional_rates_pass_over_every_row_once_an_epoch_and_a_cap_over_fewer(place, base):
    for cap, n in ((3_000, {"reviews": 48, "counts": 16}), (10, {"reviews": 10, "counts": 10})):
        asked = recipe(place, cap=cap)
        _, task = load_for(asked.data, asked.model, asked.dtype, base=base)
        sources = training_rows(base, task, 96).sources
        epoch = sources.epoch(0, 0)
        assert Counter(sources.names[sources.of(row)] for row in epoch) == n
        assert len(set(epoch)) == len(epoch) == sum(n.values())


def test_a_held_out_task_is_asked_of_what_the_others_taught(place, base, tmp_path):
    fields = recipe(place).model_dump(mode="json")
    asked = build_recipe({**fields, "out_of_domain": {"sums": str(place / "held.jsonl")}})
    metrics = run(asked, tmp_path / "run", base=base)
    rows = list(read_jsonl(tmp_path / "run" / "predictions-sums.jsonl"))
    assert [row["prompt"] for row in rows] == [f"add {i}:" for i in range(6)]
    alone = evaluate(tmp_path / "run", data=str(place / "held.jsonl"), split="all", out=tmp_path / "alone")
    assert metrics["out_of_domain"]["sums"] == alone["metrics"]


def test_few_shots_are_so_many_of_each_source(place, base, tmp_path):
    run(recipe(place, overrides={"data.few_shot": 3}), tmp_path, base=base)
    ledger = json.loads((tmp_path / "ledger.json").read_text())
    assert len(ledger["few_shot"]) == ledger["train"]["trained"] == 6
    assert [(row["source"], row["rows"]) for row in ledger["mixture"]] == [("reviews", 3), ("counts", 3)]


def test_a_classifier_is_trained_on_sources_with_the_same_labels_only(place, tmp_path):
    write_encoder(tmp_path / "encoder")
    write_reviews(tmp_path / "more.csv", 40)
    method = {"name": "lora", "rank": 2}
    two = {"reviews": str(place / "reviews.csv"), "more": str(tmp_path / "more.csv")}
    given = {"model": str(tmp_path / "encoder"), "dtype": "float32", "method": method, "retention": None}
    metrics = run(build_recipe({**given, "data": {"mixture": {"sources": two}}}, QUICK), tmp_path / "run")
    assert {"reviews.accuracy", "more.accuracy"} < metrics["test"].keys()
    rows = [f"cold {i},{i % 3}" for i in range(40)]
    (tmp_path / "three.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    unlike = {**two, "three": str(tmp_path / "three.csv")}
    with pytest.raises(UserError, match=r"unlike heads .*reviews: classes 0, 1; three: classes 0, 1, 2"):
        run(build_recipe({**given, "data": {"mixture": {"sources": unlike}}}, QUICK), tmp_path / "refused")
    held = {**given, "data": {"mixture": {"sources": two}}, "out_of_domain": {"three": unlike["three"]}}
    with pytest.raises(UserError, match="three has other labels than"):
        run(build_recipe(held, QUICK), tmp_path / "held")


def test_a_changed_source_is_noticed_and_its_recipe_makes_the_run_again(place, base, tmp_path):
    source = write_reviews(tmp_path / "own.csv")
    fields = {**recipe(place).model_dump(mode="json")}
    fields["data"]["mixture"]["sources"]["reviews"] = {"path": str(source)}
    asked = build_recipe(fields)
    first = run(asked, tmp_path / "run", base=base)
    assert run(asked, tmp_path / "run", base=base)["loss_last"] == first["loss_last"]
    written = parse(Recipe, gather([str(tmp_path / "run" / "recipe.yaml")], {}))
    assert written == asked
    assert run(written, tmp_path / "again", base=base, prove=False)["loss_last"] == first["loss_last"]
    write_reviews(source, 70)
    with pytest.raises(UserError, match="has changed since"):
        run(asked, tmp_path / "run", base=base)


def test_a_forecast_counts_what_a_mixture_draws(place, base):
    found = forecast(recipe(place, cap=10, overrides={"train.steps": None, "train.epochs": 4}), base)
    assert (found.n_steps, found.n_looks) == (4 * 3, 4)  # 20 draws an epoch, 8 a step


def test_runs_side_by_side_tell_their_own_sources(place, base, tmp_path):
    """Each as a lane of one batch has the log and the scores that it has alone."""
    asked = [recipe(place, mixing="equal", overrides={"seed": seed}) for seed in (0, 1)]
    found = run_together(asked, [tmp_path / str(seed) for seed in (0, 1)], base)
    for seed, metrics in enumerate(found):
        alone = run(asked[seed], tmp_path / f"alone{seed}", base=base, prove=False)
        assert (metrics["lanes"], alone["lanes"]) == (2, 1)
        assert metrics["test"] == pytest.approx(alone["test"], abs=1e-3)
        logs = [list(read_jsonl(tmp_path / name / "log.jsonl")) for name in (str(seed), f"alone{seed}")]
        told = [[line["by_source"] for line in log if "loss" in line] for log in logs]
        assert [set(line) for line in told[0]] == [set(line) for line in told[1]] != []
        for line, other in zip(*told, strict=True):
            for name, of_source in line.items():
                assert of_source == pytest.approx(other[name], abs=1e-4)


def test_a_search_looks_at_the_loss_on_dev_of_all_sources(place, base, tmp_path):
    asked = recipe(place, sources=("reviews.csv", "counts.jsonl", "texts.jsonl"))
    (found,) = advance([asked], [tmp_path], base, 0.5)
    assert [(rung["share"], rung["step"]) for rung in found["rungs"]] == [(0.5, 3)]
    assert found["rungs"][0]["loss"] > 0


def test_the_table_can_be_had_before_a_run(place, base, tmp_path):
    asked = recipe(place, replay={"path": str(place / "texts.jsonl"), "share": 0.1})
    run(asked, tmp_path, base=base, prove=False)
    assert mixing_table(asked) == json.loads((tmp_path / "ledger.json").read_text())["mixture"]
    with pytest.raises(UserError, match="is one source"):
        mixing_table(build_recipe({"model": str(place / "base"), "data": str(place / "reviews.csv"), "method": "lora"}))


def test_a_method_that_looks_first_sees_rows_of_all_sources(place, base):
    _, task = load_for(recipe(place).data, "", base=base)
    found = training_rows(base, task, 96)
    first = [row.id.partition(":")[0] for row in islice(found.in_turn(0), 8)]
    assert Counter(first) == {"reviews": 6, "counts": 2}  # three to one, as there are rows
    assert len(list(found.in_turn(0))) == 64
