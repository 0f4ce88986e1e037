"""Trials: what is measured of a run on its way, for every kind of base, and that no test row is read."""

import json
import math

import pytest
import torch

from tests.small_base import write_base, write_encoder, write_encoder_decoder, write_reviews
from tunewise.data.task import Task
from tunewise.errors import UserError
from tunewise.evaluation.asks import Likelihoods, RowLosses
from tunewise.evaluation.by_lane import ByLane
from tunewise.models.load import Base
from tunewise.run import base_of, build_recipe, run
from tunewise.run.carry_out import Run
from tunewise.run.forecast import forecast
from tunewise.run.prepare import load_for
from tunewise.run.trials import advance, put_away
from tunewise.training.lane import Diverged
from tunewise.training.proofs import check_longest_batch

QUICK = {"train.steps": 8, "train.batch_size": 8, "train.learning_rate": 1e-2, "dtype": "float32"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trials")
    write_base(folder / "decoder")
    write_encoder(folder / "encoder")
    write_encoder_decoder(folder / "encoder_decoder")
    write_reviews(folder / "reviews.csv")
    return folder


def recipe(place, model="decoder", **changed):
    fields = {"model": str(place / model), "data": {"path": str(place / "reviews.csv"), "train": 16}, "method": "lora"}
    return build_recipe(fields, QUICK | {"retention": None} | changed)


@pytest.mark.parametrize("model", ["decoder", "encoder", "encoder_decoder"])
def test_every_kind_of_base_has_a_loss_on_the_way_and_a_score_at_the_end(model, place, tmp_path):
    asked = recipe(place, model)
    base = base_of(asked, {})
    for share in (0.25, 1.0):
        (content,) = advance([asked], [tmp_path], base, share)
    first, last = content["rungs"]
    assert (first["step"], last["step"], content["n_steps"]) == (2, 8, 8)
    assert (first["dev"], first["loss"] > last["loss"] > 0) == (None, True)
    assert 0 <= last["dev"] <= 100
    assert json.loads((tmp_path / "trial.json").read_text()) == content
    put_away(tmp_path)
    assert not (tmp_path / "checkpoints").exists()
    assert advance([asked], [tmp_path], base, 1.0) == [content], "it is not carried out again"


def test_the_loss_on_dev_is_that_of_the_answers(place, tmp_path):
    """Against the cross-entropy of the base itself, one row at a time."""
    asked = recipe(place, **{"train.batch_size": 3})
    base = base_of(asked, {})
    task = _task(asked, base)
    run = Run(asked, tmp_path, base, task)
    found = run.answers.alone(run.dev_loss())
    run.tuned.detach()
    total, n_labels = 0.0, 0
    for example in task.dev:
        prompt = base.tokenizer(example.prompt).input_ids
        answer = [*base.tokenizer(example.answer, add_special_tokens=False).input_ids, base.tokenizer.eos_token_id]
        with torch.no_grad():
            logits = base.model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1].double()
        total -= float(logits.log_softmax(-1)[range(len(answer)), answer].sum())
        n_labels += len(answer)
    assert len(task.dev) > 3
    assert found == pytest.approx(total / n_labels, rel=1e-5)


def test_no_test_row_is_ever_asked(place, tmp_path, monkeypatch):
    asked = recipe(place)
    base = base_of(asked, {})
    tests = {example.prompt for example in _task(asked, base).test}
    seen: list[Task] = []
    begin = Run.__init__

    def noting(self, recipe, out, base, task):
        seen.append(task)
        begin(self, recipe, out, base, task)

    monkeypatch.setattr(Run, "__init__", noting)
    advance([asked], [tmp_path], base, 1.0)
    forecast(asked, base)
    assert len(seen) == 2
    for task in seen:
        assert not tests & {example.prompt for example in (*task.train, *task.dev, *task.test)}


def test_a_trial_has_the_few_rows_that_its_run_has(place, tmp_path):
    """The same rows of the same seed, where `data.few_shot` draws some; so has the rehearsal of a plan."""
    asked = recipe(place, **{"data.few_shot": 4, "train.steps": None, "train.epochs": 2.0, "train.batch_size": 2})
    base = base_of(asked, {})
    (content,) = advance([asked], [tmp_path / "trial"], base, 1.0)
    metrics = run(asked, tmp_path / "run", base=base, prove=False)
    trial, whole = (json.loads((tmp_path / name / "ledger.json").read_text()) for name in ("trial", "run"))
    assert trial["few_shot"] == whole["few_shot"]
    assert trial["train"]["trained"] == whole["train"]["trained"] == 4
    assert content["n_steps"] == metrics["steps"] == forecast(asked, base).n_steps == 4


def test_a_trial_that_diverges_is_known_and_the_other_lane_goes_on(place, tmp_path):
    hot, well = recipe(place, **{"train.learning_rate": 1e38}), recipe(place)
    base = base_of(well, {})
    folders = [tmp_path / "hot", tmp_path / "well"]
    for share in (0.5, 1.0):
        lost, content = advance([hot, well], folders, base, share)
        assert isinstance(lost, Diverged)
        assert "not finite" in lost.message
        assert content["rungs"][-1]["share"] == share
    assert len((folders[0] / "log.jsonl").read_text().splitlines()) == 1, "it was not tried again"


def test_other_rungs_begin_anew(place, tmp_path):
    asked = recipe(place)
    base = base_of(asked, {})
    (whole,) = advance([asked], [tmp_path], base, 1.0)
    (content,) = advance([asked], [tmp_path], base, 0.5)
    assert [(rung["share"], rung["step"]) for rung in content["rungs"]] == [(0.5, 4), (1.0, 8)]
    assert content["rungs"][1] == whole["rungs"][0]
    assert content["rungs"][0]["loss"] > content["rungs"][1]["loss"]


def test_a_file_that_has_changed_is_refused(place, tmp_path):
    data = write_reviews(tmp_path / "reviews.csv")
    asked = recipe(place, **{"data.path": str(data), "method.name": "frozen"})
    base = base_of(asked, {})
    advance([asked], [tmp_path / "trial"], base, 1.0)
    write_reviews(data, 70)
    with pytest.raises(UserError, match="has changed since"):
        advance([asked], [tmp_path / "trial"], base, 1.0)


def test_a_forecast_is_scaled_to_the_whole_run(place):
    asked = recipe(place, **{"train.steps": None, "train.epochs": 100.0})
    base = base_of(asked, {})
    found = forecast(asked, base)
    task = _task(asked, base)
    assert (found.n_steps, found.n_looks) == (200, 100)
    assert found.n_trainable > 0
    assert found.adapter_bytes > 0
    assert found.peak_bytes > 1e6
    assert found.dev_seconds / len(task.dev) == pytest.approx(found.test_seconds / len(task.test))
    parts = found.begin_seconds + found.train_seconds + found.n_looks * found.dev_seconds
    assert found.seconds == pytest.approx(parts + found.test_seconds + found.end_seconds)
    assert math.isclose(found.trial_seconds(0.5), found.begin_seconds + 0.5 * found.train_seconds + found.dev_seconds)
    half = forecast(build_recipe(asked.model_dump(mode="json"), {"train.epochs": 50.0}), base)
    assert half.n_steps == 100


def _task(asked, base: Base) -> Task:
    return load_for(asked.data, asked.model, asked.dtype, asked.head, asked.quantise, base)[1]


def test_a_forecast_tries_the_longest_batch_whatever_is_free(place, monkeypatch):
    monkeypatch.setattr("tunewise.run.longest_batch.check_longest_batch", None)
    tried = []

    def counted(*words):
        tried.append(words[2].batch_size)
        return check_longest_batch(*words)

    monkeypatch.setattr("tunewise.run.forecast.check_longest_batch", counted)
    asked = recipe(place, **{"method.rank": 7})
    forecast(asked, base_of(asked, {}))
    assert tried == [asked.train.batch_size]


def test_trials_side_by_side_are_scored_at_once(place, tmp_path, monkeypatch):
    asked = [recipe(place), recipe(place, **{"train.learning_rate": 2e-3})]
    base, seen = base_of(asked[0], {}), []
    answers_to = ByLane._answers_to
    monkeypatch.setattr(
        ByLane, "_answers_to", lambda self, of: seen.append((type(of[0]), len(of))) or answers_to(self, of)
    )
    found = advance(asked, [tmp_path / "a", tmp_path / "b"], base, 1.0)
    assert (RowLosses, 2) in seen
    assert (Likelihoods, 2) in seen
    for each, outcome in zip(asked, found, strict=True):
        (alone,) = advance([each], [tmp_path / f"alone {each.train.learning_rate}"], base, 1.0)
        (rung,), (expected,) = outcome["rungs"], alone["rungs"]
        assert rung["dev"] == expected["dev"]
        assert rung["loss"] == pytest.approx(expected["loss"], abs=1e-5)
