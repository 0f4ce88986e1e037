"""The loss against a plain reference: one unpadded row at a time, every position's logits, a log-softmax."""

import pytest
import torch

from tests.bases import DECODERS, build
from tests.rows import random_rows
from tunewise.data.encode import MASKED
from tunewise.engine import loss
from tunewise.engine.batches import collate
from tunewise.engine.loss import row_losses, token_loss
from tunewise.engine.prefill import prefill


def reference(model, row, prefix_ids=()):
    """Summed nats over the labelled tokens of one row."""
    ids = torch.tensor([[*prefix_ids, *row.ids]])
    log_probabilities = model(ids, use_cache=False).logits[0].double().log_softmax(-1)
    start = len(prefix_ids)
    labelled = [(start + i, label) for i, label in enumerate(row.labels) if i and label != MASKED]
    return -sum(log_probabilities[column - 1, label] for column, label in labelled)


@pytest.mark.parametrize("family", DECODERS)
@pytest.mark.parametrize("prefix_ids", [(), (11, 12, 13)], ids=["plain", "prefix"])
@torch.no_grad()
def test_a_padded_batch_has_the_loss_of_its_rows_alone(family, prefix_ids):
    # gemma2's eager attention takes its softmax in float32, where a float64 mask is -inf and a padded row NaN
    dtype, tolerance = (torch.float32, 1e-4) if family == "gemma2" else (torch.float64, 1e-10)
    model, rows = build(family, dtype), random_rows(6)
    expected = torch.stack([reference(model, row, prefix_ids) for row in rows])
    batch = collate(rows, 0, prefix_ids)
    loss, n_labels = token_loss(model, batch)
    assert n_labels == sum(label != MASKED for row in rows for label in row.labels)
    torch.testing.assert_close(loss.double(), expected.sum(), rtol=0, atol=tolerance)
    torch.testing.assert_close(row_losses(model, batch).double(), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_gradients_of_a_padded_batch_are_those_of_its_rows_alone(family):
    model, rows = build(family), random_rows(4)
    sum(reference(model, row) for row in rows).backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    token_loss(model, collate(rows, 0))[0].backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-9, atol=1e-10, msg=name)


@torch.no_grad()
def test_what_stands_on_the_padding_does_not_matter():
    model, rows = build("llama"), random_rows(4)
    assert torch.equal(token_loss(model, collate(rows, 0))[0], token_loss(model, collate(rows, 9))[0])


@torch.no_grad()
def test_whole_documents_score_every_token_but_the_first():
    model = build("llama")
    row = random_rows(1)[0]
    document = type(row)(row.id, row.ids, row.ids, 0, False)
    loss, n_labels = token_loss(model, collate([document], 0))
    assert n_labels == len(row.ids) - 1
    torch.testing.assert_close(loss, reference(model, document), rtol=0, atol=1e-10)


@torch.no_grad()
def test_bfloat16_logits_are_summed_in_float32():
    model, rows = build("llama", torch.bfloat16), random_rows(6)
    loss, _ = token_loss(model, collate(rows, 0))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, sum(reference(model, row) for row in rows).float(), rtol=0.03, atol=0.0)


@pytest.mark.parametrize(("n", "smoothing"), [(0, 0.0), (1, 0.0), (7, 0.0), (0, 0.1), (7, 0.1)])
@pytest.mark.parametrize("by_kernel", [True, False])
def test_losses_of_bfloat16_are_those_of_the_exact_logits(n, smoothing, by_kernel, monkeypatch):
    if not by_kernel:
        monkeypatch.setattr(loss, "library", lambda: None)  # as on a GPU, in pieces
    monkeypatch.setattr(loss, "PIECE", 3 * 50)  # three rows at a time
    generator = torch.Generator().manual_seed(0)
    logits = (4 * torch.randn(n, 50, generator=generator)).bfloat16().requires_grad_()
    labels = torch.randint(50, (n,), generator=generator)
    weights = torch.rand(n, generator=generator)
    exact = logits.detach().double().requires_grad_()
    found = loss.label_losses(logits, labels, smoothing)
    expected = torch.nn.functional.cross_entropy(exact, labels, reduction="none", label_smoothing=smoothing)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    assert logits.grad.dtype == torch.bfloat16
    torch.testing.assert_close(logits.grad.double(), exact.grad, rtol=2**-8, atol=1e-6)


def test_a_head_reads_what_lies_behind_one_another():
    """What is a view of all columns torch multiplies row after row, by a copy of the head for each."""
    model, given = build("llama", torch.float32), []
    model.lm_head.register_forward_pre_hook(lambda module, args: given.append(args[0]))
    batch = collate(random_rows(5), 0)
    row_losses(model, batch)
    list(prefill(model, [list(row.ids) for row in random_rows(5)], pad_id=0, batch_size=5))
    assert [x.shape[:2] for x in given] == [(5, batch.n_label_columns), (5, 1)]
    assert batch.n_label_columns < batch.input_ids.shape[1] - 1
    assert all(x.is_contiguous() for x in given)
