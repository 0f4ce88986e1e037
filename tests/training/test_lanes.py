"""A lane equals its solo run, whatever stands beside it: losses, log, weights, best state, checkpoints."""

import json
import os
import re
import signal
from dataclasses import replace

import pytest
import torch

from tests import bases
from tests.engine.test_packed_classifier import base_of
from tests.engine.test_packed_classifier import rows as labelled_rows
from tests.methods.test_contract import VARIANTS
from tests.rows import random_rows
from tests.training.test_loop import At, same
from tunewise.engine.joining import joint_row_losses
from tunewise.engine.objectives import NextToken, PackedNextToken, objective_for
from tunewise.engine.packing import why_not_packed
from tunewise.errors import UserError
from tunewise.methods import METHODS, parse_method
from tunewise.methods.alone import CannotShare
from tunewise.methods.attach import attach
from tunewise.models.heads import TaskHead
from tunewise.training.config import TrainConfig
from tunewise.training.interrupt import Interrupted
from tunewise.training.lane import Diverged, Training
from tunewise.training.loop import CHECKPOINTS, LOG, fit
from tunewise.training.together import fit_together
from tunewise.training.trial import why_not_together

TRAINED = [name for name in METHODS if name != "frozen"]
BITFIT = {"name": "bitfit", "add": True}
LORA = {"name": "lora", "rank": 3, "dropout": 0.4}


def training(model, method, seed, folder, rows=None, objective=NextToken, dev_score=None, progress=None, **fields):
    """A run whose method is attached and detached again."""

    def losses():
        for row in random_rows(4, seed=9):
            batch = NextToken(0).collate([row])
            yield NextToken(0).loss(model, batch) / batch.n_labels

    tuned = attach(model, parse_method(method), seed=seed, losses=losses)
    prefix_ids = tuned.prefix_ids
    tuned.detach()
    config = TrainConfig(**{"steps": 5, "batch_size": 3, "learning_rate": 1e-2, **fields})
    rows = random_rows(9, seed=seed) if rows is None else rows
    return Training(tuned, rows, config, seed, folder, objective(0, prefix_ids), dev_score, progress)


def alone(training):
    """The result of the run by itself, and its state."""
    training.tuned.reattach()
    try:
        result = fit(
            training.tuned, training.rows, training.config, seed=training.seed, folder=training.folder,
            objective=training.objective, dev_score=training.dev_score, progress=training.progress,
        )  # fmt: skip
        return result, training.tuned.state()
    finally:
        training.tuned.detach()


def together(trainings):
    """The same of each, side by side."""
    results = fit_together(trainings)
    found = []
    for training, result in zip(trainings, results, strict=True):
        training.tuned.reattach()
        found.append((result, training.tuned.state()))
        training.tuned.detach()
    return found


def distance(found, expected):
    (result, state), (solo, solo_state) = found, expected
    assert len(result.losses) == len(solo.losses) == solo.steps
    assert state.keys() == solo_state.keys()
    apart = [float((tensor - solo_state[name]).abs().max()) for name, tensor in state.items()]
    return max(*apart, *(abs(a - b) for a, b in zip(result.losses, solo.losses, strict=True)))


@pytest.fixture(scope="module")
def all_methods(tmp_path_factory):
    """Every method of the registry as a lane of one batch, each with its own rank, rate, rows, batch size and steps."""
    folder, model = tmp_path_factory.mktemp("all"), bases.build("llama", torch.float64)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    runs = [
        training(model, method(name), number, folder / name, **unlike(number)) for number, name in enumerate(TRAINED)
    ]
    found = dict(zip(TRAINED, together(runs), strict=True))
    assert same(dict(model.state_dict()), before)
    assert not any(parameter.grad is not None for parameter in model.parameters())
    return found


def method(name):
    return {"name": name, **VARIANTS[name][0]}


def unlike(number):
    fields = {"batch_size": 2 + number % 3, "steps": 3 + number % 3, "clip": 0.1 * (1 + number % 4)}
    schedule = ("cosine", "linear", "constant")[number % 3]
    return {**fields, "learning_rate": 1e-3 * (1 + number), "schedule": schedule, "accumulation": 1 + number % 2}


@pytest.mark.parametrize("name", TRAINED)
def test_a_lane_of_every_method_equals_its_run_alone(name, all_methods, tmp_path):
    number = TRAINED.index(name)
    solo = alone(training(bases.build("llama", torch.float64), method(name), number, tmp_path, **unlike(number)))
    assert distance(all_methods[name], solo) < 1e-10
    assert all_methods[name][0].lanes == len(TRAINED) >= 23


@pytest.mark.parametrize("family", ["llama_tied", "gpt2", "qwen3", "gpt_neox", "phi3"])
def test_tied_ends_fused_and_transposed_layers(family, tmp_path):
    """gpt2 and gpt_neox move by 1e-11 where Adam divides two tiny numbers."""

    def runs(folder):
        model = bases.build(family, torch.float64)
        without_dropout(model)
        return [
            training(model, "full", 1, folder / "full"),
            training(model, {**LORA, "roles": ["q", "down"]}, 2, folder / "lora", batch_size=2),
            training(model, {"name": "prefix_tuning", "virtual_tokens": 2}, 3, folder / "prefix", steps=3),
        ]

    found = together(runs(tmp_path / "together"))
    for lane, run in zip(found, runs(tmp_path / "alone"), strict=True):
        assert distance(lane, alone(run)) < 1e-10


def without_dropout(model):
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0


def test_seeds_of_one_method(tmp_path):
    """Through batched products as long as their batches are alike; the last has fewer rows in its last one."""

    def runs(folder):
        model, fields = bases.build("llama", torch.float64), {"name": "lora", "rank": 4, "roles": ["all"]}
        return [
            training(model, fields, seed, folder / str(seed), random_rows(n, seed=seed))
            for seed, n in enumerate((9, 9, 8))
        ]

    found = together(runs(tmp_path / "together"))
    for lane, run in zip(found, runs(tmp_path / "alone"), strict=True):
        assert distance(lane, alone(run)) < 1e-10


def test_packed_lanes_equal_packed_runs(tmp_path):
    """Dropout included: its masks have the shape that they have alone."""
    assert not why_not_packed(bases.build("llama", torch.float32))
    methods = [LORA, "full", {"name": "prompt_tuning", "virtual_tokens": 3}, {"name": "lora", "rank": 4}, BITFIT]

    def runs(folder):
        model = bases.build("llama", torch.float32)
        return [
            training(model, each, number, folder / str(number), objective=PackedNextToken, **unlike(number))
            for number, each in enumerate(methods)
        ]

    found = together(runs(tmp_path / "together"))
    for lane, run in zip(found, runs(tmp_path / "alone"), strict=True):
        assert distance(lane, alone(run)) < 1e-5


@pytest.mark.parametrize("objective", [NextToken, PackedNextToken])
def test_a_neighbours_rows_do_not_move_a_lane(objective, tmp_path):
    """Not by one bit, where the shapes of all products stay the same; and a neighbour that is lost does not either."""
    found = []
    for number, rows in enumerate([random_rows(6, seed=4), [perturbed(row) for row in random_rows(6, seed=4)]]):
        model = bases.build("llama", torch.float32)
        runs = [
            training(model, {"name": "lora", "rank": 4}, 1, tmp_path / f"{number}a", objective=objective),
            training(model, "full", 2, tmp_path / f"{number}b", rows=rows, objective=objective),
        ]
        found.append(together(runs))
    assert found[0][0][0].losses == found[1][0][0].losses
    assert same(found[0][0][1], found[1][0][1])
    assert found[0][1][0].losses != found[1][1][0].losses


def perturbed(row):
    ids = tuple(3 + (token * 7) % 60 for token in row.ids)
    labels = tuple(label if label == -100 else token for token, label in zip(ids, row.labels, strict=True))
    return type(row)(row.id, ids, labels, row.prompt_length, False)


def test_each_lane_ends_when_it_would_end_alone(tmp_path):
    """One by patience, one after fewer steps; scores are taken with that lane alone on the base, in its best state."""

    def runs(folder):
        model = bases.build("llama", torch.float64)
        rows = random_rows(8, seed=5)

        def norm(sign):
            """Falls or rises as the weights on the base move away from where they began."""
            start = [parameter.detach().clone() for parameter in model.parameters()]
            return lambda: (
                sign * sum(float((p.detach() - q).norm()) for p, q in zip(model.parameters(), start, strict=True))
            )

        return [
            training(model, "full", 1, folder / "a", rows, dev_score=norm(-1), epochs=6, steps=None, patience=2),
            training(model, "full", 2, folder / "b", rows, dev_score=norm(1), epochs=5, steps=None, patience=2),
            training(model, LORA, 3, folder / "c", rows, dev_score=norm(1), steps=2),
        ]

    found, solo = together(runs(tmp_path / "together")), [alone(run) for run in runs(tmp_path / "alone")]
    assert [result.stopped_by for result, _ in found] == ["patience", "steps", "steps"]
    for (result, state), (expected, expected_state) in zip(found, solo, strict=True):
        assert (result.steps, result.best_step, result.stopped_by) == (
            expected.steps, expected.best_step, expected.stopped_by,
        )  # fmt: skip
        assert [score for _, score in result.scores] == pytest.approx(
            [score for _, score in expected.scores], abs=1e-10
        )
        for name, tensor in state.items():
            torch.testing.assert_close(tensor, expected_state[name], rtol=0, atol=1e-10)
    assert [score for _, score in found[2][0].scores] == [0.0], "a lane beside saw its neighbours on the base"


def test_the_log_of_a_lane_is_that_of_its_run(tmp_path):
    def runs(folder):
        model = bases.build("llama", torch.float64)
        return [training(model, LORA, 1, folder / "a"), training(model, BITFIT, 2, folder / "b", accumulation=2)]

    together(runs(tmp_path / "together"))
    for run in runs(tmp_path / "alone"):
        alone(run)
    for name in ("a", "b"):
        lines, expected = (
            [json.loads(line) for line in (tmp_path / how / name / LOG).read_text().splitlines()]
            for how in ("together", "alone")
        )
        assert len(lines) == len(expected) == 5
        for line, other in zip(lines, expected, strict=True):
            assert line.pop("seconds") > 0
            other.pop("seconds")
            assert line == pytest.approx(other, abs=1e-9)


@pytest.mark.parametrize("resumed", ["together", "alone"])
def test_an_interrupt_leaves_every_lane_with_a_checkpoint(resumed, tmp_path):
    """One lane has ended by then, one is inside an accumulated step; all go on as if nothing had been."""

    def runs(folder, stop=None):
        model = bases.build("llama", torch.float64)
        fields = {"checkpoint_every": 0}
        return [
            training(model, LORA, 1, folder / "a", steps=9, progress=stop, **fields),
            training(model, BITFIT, 2, folder / "b", steps=2, **fields),
            training(model, "full", 3, folder / "c", steps=6, batch_size=1, accumulation=2, **fields),
        ]

    whole = together(runs(tmp_path / "whole"))
    generator = torch.get_rng_state()
    with pytest.raises(Interrupted, match=r"SIGINT after step 5 of 9.*, and 1 more"):
        fit_together(runs(tmp_path / "cut", At(5, lambda: os.kill(os.getpid(), signal.SIGINT))))
    assert torch.equal(torch.get_rng_state(), generator)
    left = {name: [path.name for path in (tmp_path / "cut" / name / CHECKPOINTS).iterdir()] for name in "abc"}
    assert left == {"a": ["step-00000005"], "b": ["step-00000002"], "c": ["step-00000002"]}
    again = runs(tmp_path / "cut")
    found = together(again) if resumed == "together" else [alone(run) for run in again]
    assert [result.resumed_from for result, _ in found] == [5, 2, 2]
    for lane, expected in zip(found, whole, strict=True):
        assert distance(lane, expected) < 1e-10


def test_a_lane_that_diverges_leaves_the_batch_and_says_why(tmp_path):
    """Its rows hold a token whose embedding is no number; its neighbour, with dropout, ends where it ends alone."""

    def runs(folder):
        model = bases.build("llama")
        with torch.no_grad():
            model.get_input_embeddings().weight[63] = float("nan")
        rows = [row for row in random_rows(40) if 63 not in row.ids][:8]
        bad = type(rows[0])("the bad row", (1, *[9] * 20, 63, 5, 2), (-100,) * 22 + (5, 2), 22, False)
        fields = {"steps": 20, "batch_size": 2}
        good = training(model, LORA, 1, folder / "good", rows, **fields)
        return good, training(model, LORA, 2, folder / "lost", [*rows, bad], **fields)

    good, lost = runs(tmp_path)
    result, error = fit_together([good, lost])
    assert isinstance(error, Diverged)
    assert re.search(r"the loss is not finite at step \d of 20; rows: the bad row", error.message)
    n_steps = len((tmp_path / "lost" / LOG).read_text().splitlines())
    assert 0 < n_steps < result.steps == 20
    expected = alone(runs(tmp_path / "solo")[0])
    assert distance((result, good.tuned.state()), expected) < 1e-5


def test_an_error_in_one_lane_stops_all_with_checkpoints(tmp_path):
    def full_disk():
        raise UserError("cannot write", "make room")

    model = bases.build("llama")
    runs = [
        training(model, LORA, 1, tmp_path / "good"),
        training(model, BITFIT, 2, tmp_path / "bad", dev_score=full_disk, evaluate_every=1.0),
    ]
    with pytest.raises(UserError, match="cannot write"):
        fit_together(runs)
    (left,) = (tmp_path / "good" / CHECKPOINTS).iterdir()
    n_steps = int(left.name.removeprefix("step-"))
    assert n_steps == sum("loss" in line for line in (tmp_path / "good" / LOG).read_text().splitlines()) > 0
    result, _ = alone(runs[0])
    assert (result.resumed_from, result.steps) == (n_steps, 5)


def test_lanes_that_cannot_go_on_are_not_begun_anew_from_where_they_are(tmp_path, monkeypatch):
    """Who catches CannotShare trains each alone, and these are no longer what they began as."""
    model, seen = bases.build("llama"), []

    def refused(*told):
        seen.append(told)
        if len(seen) > 3:
            raise CannotShare("not side by side")
        return joint_row_losses(*told)

    monkeypatch.setattr("tunewise.training.together.joint_row_losses", refused)
    with pytest.raises(UserError, match="not side by side") as caught:
        fit_together([training(model, LORA, seed, tmp_path / str(seed)) for seed in (1, 2)])
    assert not isinstance(caught.value, CannotShare)
    assert caught.value.hint == "train them one after another: train.lanes=false"


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("family", ["bert_classes", "distilbert_classes", "llama_classes", "t5_gated"])
def test_classifiers_and_writers(family, packing, tmp_path):
    """bert's position embeddings are the same for all rows of a padded batch, and so are t5's relative ones.

    The last batch of an epoch is one text, which the first lane has to itself.
    """

    def runs(folder, methods):
        base = base_of(family)
        if family == "t5_gated":
            base.head = TaskHead()
        found = [
            training(base.model, each, number, folder / str(number), labelled_rows(10), steps=3 if number else 5)
            for number, each in enumerate(methods)
        ]
        return [replace(run, objective=objective_for(base, packing=packing)) for run in found]

    methods = [{"name": "lora", "rank": 4}, {"name": "ia3"}]
    found = together(runs(tmp_path / "together", methods))
    for lane, run in zip(found, runs(tmp_path / "alone", methods), strict=True):
        assert distance(lane, alone(run)) < 1e-5
    reason = why_not_together(runs(tmp_path, [*methods, "full"]))
    shared = family == "llama_classes" or (packing and family != "t5_gated")  # whose table of distances is one for all
    assert (reason == "") == shared, reason


@pytest.mark.parametrize(("family", "lengths"), [("t5", (16, 5)), ("t5", (19, 12)), ("bart", (16, 5))])
def test_packed_pairs_with_dropout(family, lengths, tmp_path):
    """Every other lane reads as much as its neighbour writes: both rows of the batch would be of one length."""

    def runs(folder):
        base = base_of(family)
        base.head = TaskHead()
        methods = [LORA, {"name": "ia3"}, {"name": "head"}, {"name": "lora", "rank": 4, "roles": ["all"]}]
        found = []
        for number, each in enumerate(methods):
            n_read, n_written = lengths if number % 2 else lengths[::-1]
            long = [(row, row.ids * 7) for row in labelled_rows(9)]
            rows = [replace(row, ids=ids[:n_read], labels=ids[:n_written]) for row, ids in long]
            found.append(training(base.model, each, number, folder / str(number), rows))
        objective = objective_for(base, packing=True)
        assert objective.layout == "packed"
        return [replace(run, objective=objective) for run in found]

    found = together(runs(tmp_path / "together"))
    for lane, run in zip(found, runs(tmp_path / "alone"), strict=True):
        assert distance(lane, alone(run)) < 1e-5


def test_what_cannot_share_is_told(tmp_path):
    model, other = bases.build("llama"), bases.build("llama")
    a, b = training(model, LORA, 1, tmp_path), training(model, BITFIT, 2, tmp_path)
    assert why_not_together([a, b]) == ""
    assert why_not_together([a, training(other, LORA, 1, tmp_path)]) == "they do not share a base"
    packed = training(model, LORA, 1, tmp_path, objective=PackedNextToken)
    assert why_not_together([a, packed]) == "their batches are packed and padded"
    frugal = training(model, LORA, 1, tmp_path, checkpointing=True)
    assert why_not_together([a, frugal]) == "activations that are computed again would draw dropout anew"
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.1
    assert why_not_together([a, b]).startswith("the base draws dropout")
    with pytest.raises(CannotShare, match="the base draws dropout"):
        fit_together([a, b])
    tuned = attach(other, parse_method("lora"))
    with pytest.raises(UserError, match="already carries 'lora'"):
        fit_together([Training(tuned, random_rows(3), TrainConfig(), 0, tmp_path, NextToken(0))])


def test_dropout_goes_on_behind_a_look_at_dev(tmp_path):
    """Lanes alike in all but their seeds go through batched products, which have no dropout, while they are scored."""

    def runs(folder):
        model = bases.build("llama", torch.float64)

        def score():
            with torch.no_grad():
                return float(model(input_ids=torch.tensor([[5, 6, 7]])).logits.mean())

        fields = {"dev_score": score, "evaluate_every": 0.3, "steps": 6}
        return [training(model, LORA, seed, folder / str(seed), random_rows(9, seed=4), **fields) for seed in (1, 2)]

    found = together(runs(tmp_path / "together"))
    for lane, run in zip(found, runs(tmp_path / "alone"), strict=True):
        assert distance(lane, alone(run)) < 1e-10
