"""Weighted and smoothed training: accumulated as one large batch, in lanes as alone, and of several sources."""

from dataclasses import replace

import pytest
import torch

from tests import bases
from tests.engine.test_packed_classifier import base_of
from tests.engine.test_packed_classifier import rows as classified
from tests.rows import random_rows
from tests.training.test_lanes import LORA, alone, distance, together, training
from tests.training.test_loop import log_of
from tunewise.engine.criterion import CrossEntropy, minimising
from tunewise.engine.native.build import library, why_not
from tunewise.engine.objectives import Labels, NextToken, PackedNextToken, objective_for
from tunewise.engine.sources import Sources
from tunewise.methods import parse_method
from tunewise.methods.attach import attach
from tunewise.training.config import TrainConfig
from tunewise.training.lane import Training
from tunewise.training.loop import fit_alone
from tunewise.training.weighing import Weighing

CLASSES = (3.0, 0.5, 1.25)
OF_ROWS = [0.25, 4.0, 1.0, 2.0, 0.5, 3.0, 1.0, 0.1, 2.5]


def run_on(tuned, rows, folder, objective, weighing, sources=None, **fields):
    config = TrainConfig(**{"learning_rate": 1e-2, "schedule": "constant", "steps": 3, "clip": None, **fields})
    folder.mkdir(exist_ok=True)
    trained = fit_alone(Training(tuned, rows, config, 0, folder, objective, sources=sources, weighing=weighing))
    return trained, tuned.state()


def assert_alike(one, other, tolerance):
    assert one[0].losses == pytest.approx(other[0].losses, abs=tolerance)
    for name, tensor in one[1].items():
        torch.testing.assert_close(tensor, other[1][name], rtol=0, atol=tolerance, msg=name)


def test_accumulated_batches_of_weighted_rows_make_the_step_of_one_large_batch(tmp_path):
    found = []
    for batch_size, accumulation in ((9, 1), (3, 3), (2, 5)):
        tuned = attach(bases.build("llama", torch.float64), parse_method("lora"), seed=1)
        objective = minimising(NextToken(0), CrossEntropy(0.1))
        how = {"batch_size": batch_size, "accumulation": accumulation}
        found.append(
            run_on(tuned, random_rows(9), tmp_path / str(batch_size), objective, Weighing(rows=OF_ROWS), **how)
        )
    assert_alike(found[0], found[1], 1e-10)
    assert_alike(found[0], found[2], 1e-10)


def test_the_loss_of_a_step_is_torchs_weighted_mean(tmp_path):
    base, of = base_of("bert_classes"), classified(9, pairs=False)
    tuned = attach(base.model, parse_method("lora"), seed=1)
    with torch.no_grad():
        rows = [base.model(input_ids=torch.tensor([row.ids])).logits[0] for row in of]
    labels = torch.tensor([int(row.labels[0]) for row in of])
    expected = torch.nn.functional.cross_entropy(torch.stack(rows), labels, torch.tensor(CLASSES), label_smoothing=0.1)
    objective = minimising(Labels(base), CrossEntropy(0.1, CLASSES))
    how = {"batch_size": 2, "accumulation": 5, "steps": 1}
    result, _ = run_on(tuned, of, tmp_path, objective, Weighing(classes=CLASSES), **how)
    assert result.losses == pytest.approx([float(expected)], abs=1e-6)
    assert log_of(tmp_path)[0]["label_tokens"] == 9


def test_weights_that_are_all_alike_change_nothing(tmp_path):
    found = []
    for name, weighing in (("plain", Weighing()), ("alike", Weighing(rows=[7.0] * 9))):
        tuned = attach(bases.build("llama", torch.float64), parse_method("lora"), seed=1)
        found.append(run_on(tuned, random_rows(9), tmp_path / name, NextToken(0), weighing, batch_size=3))
    assert_alike(*found, 1e-12)


def test_a_source_beside_others_is_told_by_its_weights(tmp_path):
    tuned = attach(bases.build("llama", torch.float64), parse_method("lora"), seed=1)
    objective, of = minimising(NextToken(0), CrossEntropy(0.1)), random_rows(9)
    with torch.no_grad():
        by_row = objective.row_losses(tuned.model, objective.collate(of)).tolist()
    how = {"sources": Sources({"a": 6, "b": 3}), "batch_size": 9, "steps": 1}
    run_on(tuned, of, tmp_path, objective, Weighing(rows=OF_ROWS), **how)
    told = log_of(tmp_path)[0]["by_source"]
    for name, places in (("a", range(6)), ("b", range(6, 9))):
        n = [objective.n_labels(of[place]) for place in places]
        loss = sum(OF_ROWS[place] * by_row[place] for place in places)
        assert told[name]["loss"] == pytest.approx(loss / sum(OF_ROWS[place] * k for place, k in zip(places, n)))
        assert told[name]["label_tokens"] == sum(n)


@pytest.mark.parametrize("objective", [NextToken, PackedNextToken])
def test_lanes_of_unlike_criteria_and_weights_are_as_alone(tmp_path, objective):
    if objective is PackedNextToken and library() is None:
        pytest.skip(f"no kernels here: {why_not()}")
    dtype, tolerance = (torch.float32, 1e-4) if objective is PackedNextToken else (torch.float64, 1e-9)
    model = bases.build("llama", dtype)
    criteria = (CrossEntropy(), CrossEntropy(0.1), CrossEntropy(0.4), CrossEntropy())
    weighings = (Weighing(), Weighing(), Weighing(rows=OF_ROWS), Weighing(rows=OF_ROWS[::-1]))
    runs, solo = [], []
    for number, (criterion, weighing) in enumerate(zip(criteria, weighings, strict=True)):
        method = LORA if number % 2 else {"name": "bitfit", "add": True}
        each = training(model, method, number, tmp_path / str(number), objective=objective)
        each = replace(each, objective=minimising(each.objective, criterion), weighing=weighing)
        runs.append(each)
        again = training(model, method, number, tmp_path / f"alone{number}", objective=objective)
        again = replace(again, objective=each.objective, weighing=weighing)
        solo.append(weighted_alone(again))
    for found, expected in zip(together(runs), solo, strict=True):
        assert distance(found, expected) < tolerance
    plain = alone(training(model, LORA, 1, tmp_path / "plain", objective=objective))
    assert distance(solo[1], plain) > 1e-3


def weighted_alone(training):
    training.tuned.reattach()
    try:
        return fit_alone(training), training.tuned.state()
    finally:
        training.tuned.detach()


def test_lanes_of_classifiers_with_class_weights_are_as_alone(tmp_path):
    base = base_of("bert_classes")
    packing = library() is not None
    weights = (CLASSES, (1.0, 1.0, 9.0))
    found = []
    for name in ("alone", "beside"):
        runs = []
        for number, classes in enumerate(weights):
            tuned = attach(base.model, parse_method({"name": "lora", "rank": 3}), seed=number)
            objective = minimising(objective_for(base, packing=packing), CrossEntropy(0.1 * number, classes))
            tuned.detach()
            config = TrainConfig(steps=4, batch_size=3, learning_rate=1e-2)
            folder = tmp_path / f"{name}{number}"
            of = classified(9, pairs=False)
            runs.append(Training(tuned, of, config, number, folder, objective, weighing=Weighing(classes=classes)))
        found.append(together(runs) if name == "beside" else [weighted_alone(run) for run in runs])
    for beside, solo in zip(found[1], found[0], strict=True):
        assert distance(beside, solo) < 1e-4
