"""What runs on a GPU and nowhere else: flash attention and packed steps there, held against float64 and the CPU."""

import pytest
import torch

from tests import bases
from tests.engine.native.test_attention import PATTERNS, inputs, plain
from tests.engine.test_packed_classifier import base_of
from tests.engine.test_packed_classifier import rows as texts
from tests.engine.test_packing import METHODS
from tests.rows import random_rows
from tests.tuned import moved
from tunewise.engine.attention import SAME, attend, why_not_flash
from tunewise.engine.objectives import Labels, NextToken, PackedLabels, PackedNextToken, objective_for
from tunewise.engine.packing import why_not_packed
from tunewise.methods import parse_method
from tunewise.methods.attach import attach
from tunewise.training.config import TrainConfig
from tunewise.training.loop import fit

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
CUDA = torch.device("cuda", 0)
LOSS = {torch.float32: 1e-4, torch.bfloat16: 0.05}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize(("heads", "groups", "width"), [(4, 4, 64), (8, 2, 128), (6, 2, 16)])
def test_attention_and_its_gradients_are_those_of_float64(heads, groups, width, name, dtype):
    *leaves, dout, starts = inputs(heads, groups, width, dtype)
    ours = [tensor.to(CUDA).requires_grad_() for tensor in leaves]
    exact = [tensor.detach().double().requires_grad_() for tensor in leaves]
    found, expected = attend(*ours, starts, PATTERNS[name]), plain(*exact, starts, PATTERNS[name])
    found.backward(dout.to(CUDA))
    expected.backward(dout.double())
    apart = SAME if dtype == torch.bfloat16 else 1e-4
    for one, other in [(found, expected), *((a.grad, b.grad) for a, b in zip(ours, exact, strict=True))]:
        assert float((one.detach().cpu() - other.detach()).abs().max() / other.detach().abs().max()) < apart


@pytest.mark.parametrize("name", ["causal", "both ways", "window", "window both ways"])
def test_flash_attention_is_what_runs_in_bfloat16(name):
    assert why_not_flash(CUDA, torch.bfloat16, (8, 2, 64), PATTERNS[name]) == ""


@pytest.mark.parametrize("dtype", LOSS)
@pytest.mark.parametrize("method", METHODS)
def test_packed_losses_are_those_of_padded_rows_on_the_cpu(method, dtype):
    tuned = moved(attach(bases.build("llama", dtype), parse_method(METHODS[method]), seed=1))
    rows, prefix = random_rows(7), tuned.prefix_ids
    with torch.no_grad():
        expected = NextToken(0, prefix).row_losses(tuned.model, NextToken(0, prefix).collate(rows))
    model = tuned.model.to(CUDA)
    for delta in tuned.deltas.values():
        delta.to(CUDA)
    assert why_not_packed(model, prefix) == ""
    packed = PackedNextToken(0, prefix)
    with packed.ready(model):
        found = packed.row_losses(model, packed.collate(rows).to(CUDA))
        found.sum().backward()
    torch.testing.assert_close(found.detach().cpu(), expected, rtol=LOSS[dtype], atol=LOSS[dtype])
    assert all(tensor.grad.isfinite().all() for tensor in tuned.trainable.values() if tensor.grad is not None)


@pytest.mark.parametrize("family", ["bert_classes", "roberta_classes", "deberta-v2_classes"])
def test_classifiers_run_packed(family):
    base = base_of(family)
    of = texts(pairs=family == "bert_classes")
    with torch.no_grad():
        expected = Labels(base).row_losses(base.model, Labels(base).collate(of))
    base.model.to(CUDA)
    packed = objective_for(base, packing=True)
    assert isinstance(packed, PackedLabels)
    with torch.no_grad(), packed.ready(base.model):
        found = packed.row_losses(base.model, packed.collate(of).to(CUDA))
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-4, atol=1e-4)


def test_a_training_run_there_has_the_losses_of_the_cpu(tmp_path):
    config = TrainConfig(steps=6, batch_size=4, learning_rate=5e-3, evaluate_every=None, checkpoint_every=3)
    losses = {}
    for device in ("cpu", "cuda"):
        tuned = attach(bases.build("llama", torch.float32).to(device), parse_method(METHODS["lora"]), seed=1)
        found = fit(tuned, random_rows(16), config, seed=0, folder=tmp_path / device, objective=PackedNextToken(0))
        losses[device] = found.losses
        assert found.peak_bytes > 0
    assert losses["cuda"] == pytest.approx(losses["cpu"], abs=1e-3)
    assert abs(losses["cpu"][0] - losses["cpu"][-1]) > 1e-3
