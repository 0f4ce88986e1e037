"""Packed texts against padded ones, on encoders and decoders with a classifier: the same losses and gradients."""

import pytest
import torch

from tests import bases
from tests.tuned import moved
from tunewise.data.encode import Encoded
from tunewise.engine.from_trunk import route_for
from tunewise.engine.native.build import library, why_not
from tunewise.engine.objectives import Labels, PackedLabels, objective_for
from tunewise.engine.packed_classifier import first_position, pack_texts, reads_of
from tunewise.engine.packing import ROUND
from tunewise.methods import parse_method
from tunewise.methods.attach import attach
from tunewise.models.anatomy import read_anatomy
from tunewise.models.heads import TaskHead
from tunewise.models.load import Base

pytestmark = pytest.mark.skipif(library() is None, reason=f"no kernels here: {why_not()}")
METHODS = {
    "lora": {"name": "lora", "rank": 4, "roles": ["all"]},
    "full": {"name": "full"},
    "bitfit": {"name": "bitfit", "add": True},
    "bottleneck": {"name": "bottleneck", "bottleneck": 4},
    "prompt_tuning": {"name": "prompt_tuning", "virtual_tokens": 3},
    "head": {"name": "head"},
    "ia3": {"name": "ia3"},
    "parallel": {"name": "parallel", "bottleneck": 4},
    "llama_adapter": {"name": "llama_adapter", "virtual_tokens": 3},
}
FAMILIES = [
    "bert_classes", "roberta_classes", "distilbert_classes", "deberta-v2_classes", "llama_classes", "gpt2_classes",
]  # fmt: skip
CASES = [(family, name) for family in FAMILIES for name in METHODS if (family, name) != (FAMILIES[3], "llama_adapter")]


def base_of(family, head=None):
    model = bases.build(family, torch.float32)
    if head == "value":
        model.config.problem_type = "regression"
    kind = TaskHead(head or "classes", ("a", "b", "c"))
    return Base(model, bases.Padding(), read_anatomy(model), family, "", model.dtype, kind)


def rows(n=7, pairs=True):
    generator = torch.Generator().manual_seed(3)
    made = []
    for number in range(n):
        length = int(torch.randint(3, 20, (1,), generator=generator))
        ids = torch.randint(1, bases.VOCABULARY, (length,), generator=generator).tolist()
        segments = (0,) * (length // 2) + (1,) * (length - length // 2) if pairs else ()
        made.append(Encoded(str(number), tuple(ids), (number % 3,), length, False, segments))
    return made


def losses_and_gradients(tuned, objective, of):
    batch = objective.collate(of)
    with objective.ready(tuned.model):
        of_rows = objective.row_losses(tuned.model, batch)
        objective.loss(tuned.model, batch).backward()
    gradients = {name: tensor.grad.clone() for name, tensor in tuned.trainable.items() if tensor.grad is not None}
    for tensor in tuned.trainable.values():
        tensor.grad = None
    return of_rows.detach(), gradients, (batch.n_labels, batch.n_tokens, batch.ids)


def assert_same(one, other):
    """Two of what `losses_and_gradients` returns."""
    torch.testing.assert_close(other[0], one[0], rtol=2e-5, atol=2e-5)
    assert other[2] == one[2]
    assert other[1].keys() == one[1].keys()
    for key, gradient in one[1].items():
        scale = gradient.abs().max().clamp(min=1e-2)  # what should be 0 (a key's bias) is rounding
        torch.testing.assert_close(other[1][key] / scale, gradient / scale, rtol=0, atol=3e-4, msg=key)


@pytest.mark.parametrize(("family", "name"), CASES)  # deberta refuses the other
def test_packed_is_padded(family, name):
    base = base_of(family)
    tuned = moved(attach(base.model, parse_method(METHODS[name]), seed=1))
    packed = objective_for(base, tuned.prefix_ids, packing=True)
    assert isinstance(packed, PackedLabels)
    of = rows(n=20, pairs=family == "bert_classes")
    assert packed.collate(of).read.numel() < packed.collate(of).inputs["input_ids"].numel()
    assert_same(*(losses_and_gradients(tuned, each, of) for each in (Labels(base, tuned.prefix_ids), packed)))


def test_positions_begin_where_the_family_begins_them():
    begin = {"bert_classes": 0, "distilbert_classes": 0, "deberta-v2_classes": 0, "roberta_classes": 1}
    for family, first in begin.items():
        base = base_of(family)
        assert first_position(base.model, base.anatomy, (), reads_of(base.head, base.anatomy)) == (first, "")


def trial(model, reads="first"):
    return first_position(model, read_anatomy(model), (), reads)


def test_in_half_precision_positions_begin_where_the_family_begins_them_though_they_hardly_matter():
    model = bases.build("roberta_classes", torch.bfloat16)
    with torch.no_grad():
        model.roberta.embeddings.position_embeddings.weight.mul_(1e-2)
    assert trial(model) == (1, "")


@pytest.mark.parametrize("family", ["llama_classes", "gpt2_classes", "bert_classes"])
def test_the_padding_id_may_be_any(family):
    """ModernBERT's and Qwen's are behind all the ids that a trial draws."""
    model = bases.build(family, torch.float32)
    model.config.pad_token_id = bases.VOCABULARY - 1
    assert trial(model, "last" if read_anatomy(model).kind == "decoder" else "first") == (0, "")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("reads", ["first", "labelled"])
def test_a_whisper_of_the_neighbour_is_found_out(dtype, reads):
    """Too faint to be told from rounding where a text is held against itself alone."""
    model = bases.build("bert_classes" if reads == "first" else "bert_tokens", dtype)
    assert trial(model, reads) == (0, "")

    def leak(module, args, states):
        states = states.clone()
        states[..., :1] += 2**-6 * states[:, :1, :1]  # what the first token of the row is
        return states if states.shape[1] >= ROUND else None

    model.bert.embeddings.register_forward_hook(leak)
    assert "does not keep packed texts apart" in trial(model, reads)[1]


def test_what_does_not_run_packed_is_found_out():
    base = base_of("bert_classes")
    attach(base.model, parse_method({"name": "prefix_tuning", "virtual_tokens": 3}), seed=1)
    assert "packed" in first_position(base.model, base.anatomy, (), reads_of(base.head, base.anatomy))[1]
    assert isinstance(objective_for(base, packing=True), Labels)
    assert not isinstance(objective_for(base, packing=True), PackedLabels)


def test_the_layout_of_a_batch():
    batch = pack_texts(rows(3), pad_id=0, prefix_ids=(70,), first_position=2)
    lengths = [1 + len(row.ids) for row in rows(3)]
    assert batch.pooled.tolist() == [0, lengths[0], lengths[0] + lengths[1]]
    assert batch.inputs["input_ids"].shape[1] % ROUND == 0
    assert batch.inputs["position_ids"][0, batch.pooled].eq(2).all()
    assert batch.inputs["input_ids"][0, batch.pooled].eq(70).all()
    assert batch.inputs["token_type_ids"].shape == batch.inputs["input_ids"].shape


def test_a_decoder_reads_the_last_token_that_is_no_padding():
    of = [Encoded("", ids, (0,), len(ids), False) for ids in ((5, 6, 7), (5, 6, 0, 0), (9,))]
    batch = pack_texts(of, 0, (70,), 0, "last")
    assert batch.inputs["input_ids"][0, batch.pooled].tolist() == [7, 6, 9]
    base = base_of("llama_classes")
    tuned = attach(base.model, parse_method(METHODS["head"]), seed=1)
    one, other = (
        losses_and_gradients(tuned, objective, of)[0] for objective in (Labels(base), objective_for(base, packing=True))
    )
    torch.testing.assert_close(other, one, rtol=2e-5, atol=2e-5)


def test_the_starts_of_a_batch_stay_where_lengths_are_read():
    batch = pack_texts(rows(3), 0, (), 0).to(torch.device("meta"))
    assert batch.inputs["segment_starts"].tolist()[0] == 0
    assert batch.inputs["input_ids"].device.type == batch.labels.device.type == batch.pooled.device.type == "meta"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_head_is_trained_on_what_was_packed_once(family):
    base = base_of(family)
    tuned = moved(attach(base.model, parse_method(METHODS["head"]), seed=1))
    packed, of = objective_for(base, packing=True), rows(pairs=family == "bert_classes")
    route = route_for(tuned, packed, of)
    assert (route.reason, route.trunk.live, route.trunk.n_dims) == ("", "head", 2)
    one, other = (losses_and_gradients(tuned, objective, of) for objective in (packed, route.objective))
    torch.testing.assert_close(other[0], one[0], rtol=2e-5, atol=2e-5)
    for key, gradient in one[1].items():
        torch.testing.assert_close(other[1][key], gradient, rtol=0, atol=3e-4, msg=key)
