"""Smoothed and weighted losses in every layout, against transformers' LabelSmoother and torch's cross_entropy."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional
from transformers.trainer_pt_utils import LabelSmoother

from tests import bases
from tests.engine.test_packed_classifier import base_of, rows
from tests.engine.test_packed_tagger import tagged, tagger
from tests.engine.test_packed_writing import rows as pairs
from tests.engine.test_packed_writing import tuned_and_base
from tests.engine.test_trunk import base_of as base_of_tuned
from tests.engine.test_trunk import classified, compare, tuned_model
from tests.rows import random_rows
from tests.tuned import losses_and_gradients
from tunewise.engine import loss
from tunewise.engine.batches import IGNORED, rectangle
from tunewise.engine.criterion import PLAIN, CrossEntropy, OfLanes, minimising, of_lanes
from tunewise.engine.native.build import library, why_not
from tunewise.engine.objectives import Labels, NextToken, PackedNextToken, objective_for

packed_only = pytest.mark.skipif(library() is None, reason=f"no kernels here: {why_not()}")
SMOOTHING, WEIGHTS = 0.1, (3.0, 0.5, 1.25)


def smoother(logits, labels, *, shift=False):
    """transformers' own mean over the labels."""
    return LabelSmoother(epsilon=SMOOTHING)({"logits": logits}, labels, shift_labels=shift)


def total(objective, model, of):
    batch = objective.collate(of)
    with torch.no_grad(), objective.ready(model):
        return objective.loss(model, batch), batch.n_labels


@pytest.mark.parametrize(
    ("objective", "dtype", "tolerance"),
    [
        (NextToken(0), torch.float64, 1e-6),  # LabelSmoother adds up in float32
        (NextToken(0), torch.float32, 1e-5),
        pytest.param(PackedNextToken(0), torch.float32, 1e-5, marks=packed_only),
    ],
    ids=["padded, float64", "padded", "packed"],
)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_decoders_loss_is_label_smoothers(family, objective, dtype, tolerance):
    model, of = bases.build(family, dtype), random_rows(6)
    model.get_output_embeddings().weight.data *= 5  # surer than at random, so that smoothing shows
    ids, mask = rectangle([row.ids for row in of], 0), rectangle([(1,) * len(row.ids) for row in of], 0)
    labels = rectangle([(IGNORED, *row.labels[1:]) for row in of], IGNORED)
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    expected = smoother(logits.double(), labels, shift=True)
    found, n_labels = total(minimising(objective, CrossEntropy(SMOOTHING)), model, of)
    torch.testing.assert_close((found / n_labels).double(), expected, rtol=tolerance, atol=tolerance)
    plain, _ = total(objective, model, of)
    assert abs(float(plain / n_labels - expected)) > 2 * tolerance * float(expected)


def test_gradients_of_smoothed_rows_are_the_same_packed_and_padded():
    tuned = tuned_model("llama", "lora", torch.float32)
    criterion = CrossEntropy(0.3)
    found = [
        losses_and_gradients(tuned, minimising(each, criterion), random_rows(6))
        for each in (NextToken(0), *([PackedNextToken(0)] if library() else []))
    ]
    model, of = tuned.model, random_rows(6)
    logits, labels = loss.label_logits(model, NextToken(0).collate(of))
    plain = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), label_smoothing=0.3, reduction="sum")
    expected = dict(zip(tuned.trainable, torch.autograd.grad(plain, list(tuned.trainable.values())), strict=True))
    for _, gradients, _ in found:
        for name, gradient in expected.items():
            torch.testing.assert_close(gradients[name], gradient, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("packing", [False, pytest.param(True, marks=packed_only)])
def test_an_encoder_decoders_loss_is_label_smoothers(packing):
    tuned, base = tuned_and_base("t5", {"name": "lora", "rank": 4})
    objective = minimising(objective_for(base, packing=packing), CrossEntropy(SMOOTHING))
    assert objective.layout == ("packed" if packing else "padded")
    of = pairs()
    ids, mask = rectangle([row.ids for row in of], 0), rectangle([(1,) * len(row.ids) for row in of], 0)
    labels = rectangle([row.labels for row in of], IGNORED)
    with torch.no_grad():
        logits = tuned.model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).logits
    found, n_labels = total(objective, tuned.model, of)
    torch.testing.assert_close(found / n_labels, smoother(logits, labels), rtol=2e-5, atol=2e-5)


def torch_mean(logits, labels):
    """torch's own weighted mean of smoothed losses."""
    weight = torch.tensor(WEIGHTS, dtype=logits.dtype)
    return functional.cross_entropy(logits.flatten(0, -2), labels.flatten(), weight, label_smoothing=SMOOTHING)


def weight_of(labels):
    return sum(WEIGHTS[label] for label in labels if label != IGNORED)


@pytest.mark.parametrize("packing", [False, pytest.param(True, marks=packed_only)])
@pytest.mark.parametrize("head", ["classes", "tags"])
@torch.no_grad()
def test_a_classifiers_loss_is_torchs(head, packing):
    base, of = (base_of("bert_classes"), rows(pairs=False)) if head == "classes" else (tagger("bert_classes"), tagged())
    objective = objective_for(base, packing=packing)
    assert objective.layout == ("packed" if packing else "padded")
    ids, mask = rectangle([row.ids for row in of], 0), rectangle([(1,) * len(row.ids) for row in of], 0)
    labels = rectangle([row.labels for row in of], IGNORED)
    logits = base.model(input_ids=ids, attention_mask=mask).logits
    found, _ = total(minimising(objective, CrossEntropy(SMOOTHING, WEIGHTS)), base.model, of)
    expected = torch_mean(logits, labels)
    weight = sum(weight_of(row.labels) for row in of)
    torch.testing.assert_close(found / weight, expected, rtol=2e-5, atol=2e-5)
    smoothed, n_labels = total(minimising(objective, CrossEntropy(SMOOTHING)), base.model, of)
    torch.testing.assert_close(smoothed / n_labels, smoother(logits, labels), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("method", ["head", "top_layers"])
def test_from_the_trunk_a_criterion_is_what_it_is_on_the_whole_model(method):
    criterion = CrossEntropy(SMOOTHING)
    tuned, live = tuned_model("llama", method), "head" if method == "head" else "layer"
    route = compare(tuned, minimising(NextToken(0), criterion), random_rows(9), live)
    plain = NextToken(0).row_losses(tuned.model, NextToken(0).collate(random_rows(4)))
    with route.objective.ready(tuned.model):
        smoothed = route.objective.row_losses(tuned.model, route.objective.collate(random_rows(4)))
    assert (smoothed - plain).abs().min() > 1e-3
    tuned = tuned_model("bert_classes", method)
    compare(tuned, minimising(Labels(base_of_tuned(tuned)), CrossEntropy(0.2, WEIGHTS)), classified(), live)


def test_lanes_keep_a_criterion_of_their_own():
    generator = torch.Generator().manual_seed(0)
    own = (PLAIN, CrossEntropy(0.2), CrossEntropy(0.1, WEIGHTS))
    batches = [SimpleNamespace(ids=[""] * rows, n_labels=labels) for rows, labels in ((2, 3), (1, 1), (3, 5))]
    joint = of_lanes(own, batches)
    assert isinstance(joint, OfLanes)
    logits, labels = torch.randn(9, 3, generator=generator), torch.randint(3, (9,), generator=generator)
    pieces = list(zip(own, logits.split([3, 1, 5]), labels.split([3, 1, 5]), strict=True))
    expected = torch.cat([each.label_losses(*piece) for each, *piece in pieces])
    assert torch.equal(joint.label_losses(logits, labels), expected)
    wide, tags = torch.randn(6, 4, 3, generator=generator), torch.randint(3, (6, 4), generator=generator)
    tags[1:4, 2] = IGNORED
    by_rows = joint.losses(wide, tags)
    assert torch.equal(by_rows[2:3], own[1].losses(wide[2:3], tags[2:3]))
    assert torch.equal(by_rows[3:], own[2].losses(wide[3:], tags[3:]))
    assert (by_rows[1:4, 2] == 0).all()
    assert of_lanes((own[1], CrossEntropy(0.2)), batches[:2]) is own[1]
