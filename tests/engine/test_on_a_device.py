"""On another device nothing is left behind on the CPU: fake tensors, which have a device and no values, tell.

They pass through every operation of a forward and a backward as on a GPU, flash attention included, and refuse one
whose tensors lie on two devices.
"""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from tests import bases
from tests.bases import Padding
from tests.engine.test_packed_classifier import rows as texts
from tests.engine.test_packing import METHODS
from tests.rows import random_rows
from tunewise.engine import attention
from tunewise.engine.objectives import Labels, NextToken, PackedLabels, PackedNextToken
from tunewise.engine.packed_classifier import PackedTexts
from tunewise.engine.packing import PackedBatch
from tunewise.methods import parse_method
from tunewise.methods.attach import attach
from tunewise.models.heads import TaskHead
from tunewise.models.load import Base

DEVICE = torch.device("meta")


@pytest.fixture(autouse=True)
def flash_attention(monkeypatch):
    monkeypatch.setattr(attention, "why_not_flash", lambda *_: "")


def tuned_on_a_device(family, method):
    with DEVICE:
        model = bases.build(family, torch.bfloat16)
    return attach(model, parse_method(method), warm_start=False)


def loss_and_gradients(tuned, objective, rows, move=True):
    batch = objective.collate(rows)
    starts = batch.starts if isinstance(batch, PackedBatch) else None
    starts = batch.inputs["segment_starts"] if isinstance(batch, PackedTexts) else starts
    with FakeTensorMode(allow_non_fake_inputs=True), objective.ready(tuned.model):
        if starts is not None:  # a fake tensor tells no length
            attention._PLACED[starts] = starts.to(DEVICE), 20
        loss = objective.loss(tuned.model, batch.to(DEVICE) if move else batch)
        loss.backward()
    return [loss, *(tensor.grad for tensor in tuned.trainable.values() if tensor.grad is not None)]


def next_token(tuned, packed):
    return (PackedNextToken if packed else NextToken)(0, tuned.prefix_ids)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_decoders_step_is_made_where_it_is(family, method, packed):
    tuned = tuned_on_a_device(family, METHODS[method])
    found = loss_and_gradients(tuned, next_token(tuned, packed), random_rows(5))
    assert len(found) > 1
    assert {tensor.device.type for tensor in found} == {DEVICE.type}


@pytest.mark.parametrize("kind", [PackedLabels, Labels])
@pytest.mark.parametrize("family", ["bert_classes", "roberta_classes", "deberta-v2_classes"])
def test_a_classifiers_step_is_made_where_it_is(family, kind):
    tuned = tuned_on_a_device(family, METHODS["lora"])
    head = TaskHead("classes", ("a", "b", "c"))
    base = Base(tuned.model, Padding(), tuned.anatomy, family, "", torch.bfloat16, head)
    found = loss_and_gradients(tuned, kind(base), texts(pairs=family == "bert_classes"))
    assert len(found) > 1
    assert {tensor.device.type for tensor in found} == {DEVICE.type}


@pytest.mark.parametrize("packed", [True, False])
def test_what_stays_on_the_cpu_is_noticed(packed):
    tuned = tuned_on_a_device("llama", METHODS["lora"])
    with pytest.raises(RuntimeError, match="same device"):
        loss_and_gradients(tuned, next_token(tuned, packed), random_rows(5), move=False)
