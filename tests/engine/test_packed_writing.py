"""Packed pairs against padded ones, on encoder-decoders: the same losses and gradients, whatever is attached."""

import logging
import warnings

import pytest
import torch

from tests import bases
from tests.bases import Padding
from tests.tuned import losses_and_gradients, moved
from tunewise.data.encode import Encoded
from tunewise.engine.native.build import library, why_not
from tunewise.engine.objectives import PackedWriting, Writing, objective_for
from tunewise.engine.packed_writing import pack_pairs, packed_pairs, places, why_not_pairs
from tunewise.engine.packing import NAME, ROUND
from tunewise.methods import parse_method
from tunewise.methods.attach import attach
from tunewise.models.anatomy import read_anatomy
from tunewise.models.load import Base

pytestmark = pytest.mark.skipif(library() is None, reason=f"no kernels here: {why_not()}")
FAMILIES = ["t5", "t5_gated", "mt5", "bart"]
METHODS = {
    "lora": {"name": "lora", "rank": 4, "roles": ["all"]},
    "full": {"name": "full"},
    "norms": {"name": "norms"},
    "bitfit": {"name": "bitfit", "add": True},
    "prompt_tuning": {"name": "prompt_tuning", "virtual_tokens": 3},
    "bottleneck": {"name": "bottleneck", "bottleneck": 4},
    "ia3": {"name": "ia3"},
    "dora": {"name": "dora", "rank": 3},
}


def rows(n=7):
    generator = torch.Generator().manual_seed(3)

    def drawn(low, high):
        length = int(torch.randint(low, high, (1,), generator=generator))
        return tuple(torch.randint(1, bases.VOCABULARY, (length,), generator=generator).tolist())

    pairs = [(drawn(3, 40), drawn(1, 12)) for _ in range(n)]
    return [Encoded(str(number), read, written, len(read), False) for number, (read, written) in enumerate(pairs)]


def tuned_and_base(family, method, dtype=torch.float32):
    tuned = moved(attach(bases.build(family, dtype), parse_method(method), seed=1))
    return tuned, Base(tuned.model, Padding(), read_anatomy(tuned.model), family, "", dtype)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_is_padded(name, family):
    tuned, base = tuned_and_base(family, METHODS[name])
    packed = objective_for(base, tuned.prefix_ids, packing=True)
    assert isinstance(packed, PackedWriting), why_not_pairs(tuned.model, base.anatomy, tuned.prefix_ids)
    one = losses_and_gradients(tuned, Writing(base, tuned.prefix_ids), rows())
    other = losses_and_gradients(tuned, packed, rows())
    torch.testing.assert_close(other[0], one[0], rtol=1e-5, atol=1e-5)
    assert other[2] == one[2]
    assert other[1].keys() == one[1].keys() == tuned.trainable.keys()
    for key, gradient in one[1].items():
        scale = gradient.abs().max().clamp(min=5e-2)  # what should be 0 (a key's bias) is rounding
        torch.testing.assert_close(other[1][key] / scale, gradient / scale, rtol=0, atol=1e-4, msg=key)


def test_the_table_of_distances_is_trained_in_both_stacks():
    tuned, base = tuned_and_base("t5", METHODS["full"])
    _, gradients, _ = losses_and_gradients(tuned, objective_for(base, packing=True), rows())
    tables = [gradient for name, gradient in gradients.items() if "relative_attention_bias" in name]
    assert len(tables) == 2
    assert all(float(table.abs().max()) > 1e-3 for table in tables)


def test_bfloat16_is_float32_rounded():
    tuned, base = tuned_and_base("t5", METHODS["lora"])
    narrow, narrow_base = tuned_and_base("t5", METHODS["lora"], torch.bfloat16)
    wide = losses_and_gradients(tuned, objective_for(base, packing=True), rows())
    packed = losses_and_gradients(narrow, objective_for(narrow_base, packing=True), rows())
    padded = losses_and_gradients(narrow, Writing(narrow_base), rows())
    off, off_padded = (float((one[0] - wide[0]).abs().max()) for one in (packed, padded))
    assert off < 1.5 * off_padded + 1e-3
    off, off_padded = (
        sum(float((one[1][name] - gradient).norm() / gradient.norm()) for name, gradient in wide[1].items())
        for one in (packed, padded)
    )
    assert off < 2 * off_padded


def test_one_pair_never_sees_another():
    tuned, base = tuned_and_base("t5", METHODS["lora"])
    objective, these = objective_for(base, packing=True), rows(3)
    other = Encoded("0", these[0].ids[::-1], these[0].labels[::-1], these[0].prompt_length, False)
    with torch.no_grad(), objective.ready(tuned.model):
        before = objective.row_losses(tuned.model, objective.collate(these))
        after = objective.row_losses(tuned.model, objective.collate([other, *these[1:]]))
    assert torch.equal(after[1:], before[1:])
    assert not torch.equal(after[0], before[0])


def test_checkpointing_recomputes_inside_the_same_attention():
    tuned, base = tuned_and_base("t5", METHODS["full"])
    objective = objective_for(base, packing=True)
    plain = losses_and_gradients(tuned, objective, rows(5))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        tuned.model.gradient_checkpointing_enable({"use_reentrant": False})
    tuned.model.train()
    again = losses_and_gradients(tuned, objective, rows(5))
    for name, gradient in plain[1].items():
        torch.testing.assert_close(again[1][name], gradient, rtol=1e-5, atol=1e-6)


def test_dropout_drops_as_often_as_the_padded_model_does():
    """The mean over many draws, as the two draw in different shapes."""
    tuned, base = tuned_and_base("t5", METHODS["lora"])
    for module in tuned.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(vars(module).get("dropout"), float):  # of attention's weights
            module.dropout = 0.3
    tuned.model.train()
    means = {}
    for objective in (Writing(base), objective_for(base, packing=True)):
        batch = objective.collate(rows(3))
        with torch.no_grad(), objective.ready(tuned.model), torch.random.fork_rng():
            torch.manual_seed(0)
            drawn = torch.stack([objective.row_losses(tuned.model, batch) for _ in range(300)])
        assert drawn.std(0).min() > 1e-3
        means[objective.layout] = drawn.mean(0), drawn.std(0) / 300**0.5
    (one, one_error), (other, other_error) = means.values()
    assert ((one - other).abs() < 4 * (one_error**2 + other_error**2).sqrt()).all()


def test_the_layout_of_a_batch():
    tuned, _ = tuned_and_base("t5", METHODS["lora"])
    these = rows(3)
    batch = pack_pairs(these, tuned.model, 0, prefix_ids=(70, 71))
    read, written = [2 + len(row.ids) for row in these], [len(row.labels) for row in these]
    ids, entered, labels = (batch.inputs["input_ids"], batch.inputs["decoder_input_ids"], batch.labels)
    assert ids.shape[1] % ROUND == entered.shape[1] % ROUND == 0
    assert labels.shape == entered.shape
    assert batch.read.tolist() == [0, read[0], read[0] + read[1], sum(read), ids.shape[1]]
    assert batch.written.tolist() == [0, written[0], written[0] + written[1], sum(written), labels.shape[1]]
    assert (batch.n_labels, batch.n_tokens) == (sum(written), sum(read) + sum(written))
    for number, row in enumerate(these):
        start, stop = batch.read[number : number + 2]
        assert ids[0, start:stop].tolist() == [70, 71, *row.ids]
        start, stop = batch.written[number : number + 2]
        assert labels[0, start:stop].tolist() == list(row.labels)
        assert entered[0, start:stop].tolist() == [0, *row.labels[:-1]]
    assert batch.rows.tolist() == [number for number, n in enumerate(written) for _ in range(n)]


@pytest.mark.parametrize(
    ("family", "method", "dtype", "reason"),
    [
        ("t5", {"name": "prefix_tuning", "virtual_tokens": 3}, torch.float32, "does not run packed: segments of"),
        (
            "t5",
            {"name": "mam", "virtual_tokens": 3, "bottleneck": 4},
            torch.float32,
            "does not run packed: segments of",
        ),
        ("t5", METHODS["lora"], torch.float64, "no kernel for torch.float64"),
        ("bart", {"name": "prefix_tuning", "virtual_tokens": 3}, torch.float32, "does not run packed: "),
    ],
)
def test_what_does_not_run_packed_is_found_out(family, method, dtype, reason, caplog):
    tuned, base = tuned_and_base(family, method, dtype)
    before = tuned.model.config._attn_implementation
    with caplog.at_level(logging.INFO):
        objective = objective_for(base, tuned.prefix_ids, packing=True)
    assert type(objective) is Writing
    assert reason in objective.why_padded
    assert objective.why_padded in caplog.text
    assert objective_for(base, tuned.prefix_ids).why_padded == ""
    assert tuned.model.config._attn_implementation == before != NAME


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_whisper_of_the_neighbour_is_found_out(dtype):
    """Too faint to be told from rounding where a pair is held against itself alone."""
    tuned, base = tuned_and_base("t5", METHODS["lora"], dtype)
    assert why_not_pairs(tuned.model, base.anatomy) == ""

    def leak(module, args, states):
        states = states.clone()
        states[..., :1] += 2**-6 * states[:, :1, :1]  # what the first token of the row is
        return states if states.shape[1] >= ROUND else None

    tuned.model.encoder.embed_tokens.register_forward_hook(leak)
    assert "does not keep packed pairs apart" in why_not_pairs(tuned.model, base.anatomy)


def test_a_bias_that_is_not_told_by_distance_is_found_out(monkeypatch):
    tuned, base = tuned_and_base("t5", METHODS["lora"])
    where = places(tuned.model, base.anatomy)
    assert sorted(where.values()) == ["cross"] * 2 + ["decoder"] * 2 + ["encoder"] * 2
    attention = next(module for module, place in where.items() if place == "encoder")
    original = type(attention).compute_bias

    def by_position(self, query_length, key_length, **kwargs):
        return original(self, query_length, key_length, **kwargs) + torch.arange(key_length)

    monkeypatch.setattr(type(attention), "compute_bias", by_position)
    assert "packs pairs to another answer" in why_not_pairs(tuned.model, base.anatomy)


def test_behind_the_block_the_model_is_as_it_was():
    tuned, base = tuned_and_base("t5", METHODS["lora"])
    model, where = tuned.model, places(tuned.model, base.anatomy)
    before = model(input_ids=torch.tensor([[5, 6, 7]]), decoder_input_ids=torch.tensor([[0, 9]])).logits
    with packed_pairs(model, where):
        assert all(module.config._attn_implementation == NAME for module in where)
    assert not any("compute_bias" in vars(module) or "forward" in vars(module) for module in model.modules())
    after = model(input_ids=torch.tensor([[5, 6, 7]]), decoder_input_ids=torch.tensor([[0, 9]])).logits
    assert torch.equal(before, after)
