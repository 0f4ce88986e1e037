"""DeBERTa's attention on packed rows against transformers' own on padded ones, in float64: losses and gradients."""

from dataclasses import replace

import pytest
import torch
import transformers

from tests import bases
from tests.methods.test_contract import VARIANTS, why_not
from tests.training.test_lanes import alone, distance, together, training
from tests.tuned import losses_and_gradients, moved
from tunewise.data.encode import MASKED, Encoded
from tunewise.engine.disentangled import disentangled
from tunewise.engine.objectives import Labels, PackedLabels, objective_for
from tunewise.engine.position_terms import PAIRS, alike, attend
from tunewise.engine.recomputing import recompute
from tunewise.methods import METHODS, parse_method
from tunewise.methods.attach import attach
from tunewise.models.anatomy import read_anatomy
from tunewise.models.heads import TaskHead
from tunewise.models.load import Base
from tunewise.training.config import TrainConfig
from tunewise.training.loop import fit
from tunewise.training.trial import why_not_together

FAMILY = "deberta-v2_classes"
V3 = {
    "position_buckets": 16, "max_relative_positions": -1, "position_biased_input": False, "norm_rel_ebd": "layer_norm",
    "pooler_hidden_size": bases.WIDTH,
}  # fmt: skip
FORMS = {
    "every distance": {},  # up to 16, which texts are longer than
    "v3": V3,
    "v2-xlarge": {**V3, "share_att_key": False, "conv_kernel_size": 3, "conv_act": "gelu"},
    "content to position": {**V3, "pos_att_type": ["c2p"]},
    "position to content": {**V3, "pos_att_type": ["p2c"]},
    "no positions": {"relative_attention": False, "pos_att_type": None},
}
LENGTHS = (3, 50, 20, 7, 21, 33, 48, 4, 5, 6)


def base_of(form, kind="classes", dtype=torch.float64):
    config = transformers.DebertaV2Config(**{**bases.CONFIGS[FAMILY], **FORMS[form]})
    auto = "AutoModelForTokenClassification" if kind == "tags" else "AutoModelForSequenceClassification"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = vars(transformers)[auto].from_config(config, dtype=dtype)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    head = TaskHead(kind, ("a", "b", "c"))
    return Base(model.eval(), bases.Padding(), read_anatomy(model), "", "", dtype, head)


def rows(kind="classes", lengths=LENGTHS, seed=3):
    generator = torch.Generator().manual_seed(seed)
    made = []
    for number, length in enumerate(lengths):
        ids = torch.randint(1, bases.VOCABULARY, (length,), generator=generator).tolist()
        tags = tuple(MASKED if place % 4 == 0 else place % 3 for place in range(length))
        made.append(Encoded(str(number), tuple(ids), tags if kind == "tags" else (number % 3,), length, False))
    return made


def packed_of(base, tuned):
    objective = objective_for(base, tuned.prefix_ids, packing=True)
    assert isinstance(objective, PackedLabels), objective.why_padded
    return objective


def assert_same(one, other, tolerance=1e-10):
    torch.testing.assert_close(other[0], one[0], rtol=0, atol=tolerance)
    assert other[2] == one[2]
    assert other[1].keys() == one[1].keys()
    for name, gradient in one[1].items():
        torch.testing.assert_close(other[1][name], gradient, rtol=0, atol=tolerance, msg=name)


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("kind", ["classes", "tags"])
@pytest.mark.parametrize("form", FORMS)
def test_packed_is_padded(form, kind, method):
    base, of = base_of(form, kind), rows(kind)
    tuned = moved(attach(base.model, parse_method({"name": method, **VARIANTS[method][0]}), seed=1))
    assert_same(*(losses_and_gradients(tuned, each, of) for each in (Labels(base), packed_of(base, tuned))))


@pytest.mark.parametrize("name", [name for name in METHODS if name != "frozen" and not why_not(FAMILY, name)])
def test_every_method_is_the_same_packed(name):
    base = base_of("v3")
    fields = VARIANTS[name][0] | ({"roles": ["all"]} if name == "lora" else {})
    tuned = moved(attach(base.model, parse_method({"name": name, **fields}), seed=1))
    ways = (Labels(base, tuned.prefix_ids), packed_of(base, tuned))
    assert_same(*(losses_and_gradients(tuned, each, rows()) for each in ways))


@pytest.mark.parametrize("form", ["v3", "v2-xlarge"])
def test_a_text_does_not_move_its_neighbour(form):
    base, of = base_of(form), rows()
    tuned = attach(base.model, parse_method("head"), seed=1)
    other = [replace(of[0], ids=of[3].ids), *of[1:]]
    objective = packed_of(base, tuned)
    found, beside = (losses_and_gradients(tuned, objective, each)[0] for each in (of, other))
    assert abs(found[0] - beside[0]) > 1e-3
    torch.testing.assert_close(beside[1:], found[1:], rtol=0, atol=1e-12)


def test_fifty_steps_are_those_on_padded_rows(tmp_path):
    config = TrainConfig(steps=50, batch_size=5, learning_rate=1e-3, evaluate_every=None, checkpoint_every=0)
    losses = []
    for name, packing in (("packed", True), ("padded", False)):
        base = base_of("v3", dtype=torch.float32)
        tuned = attach(base.model, parse_method("full"), seed=1)
        objective = objective_for(base, packing=packing)
        assert objective.layout == name
        folder = tmp_path / name
        folder.mkdir()
        losses.append(fit(tuned, rows() * 2, config, seed=0, folder=folder, objective=objective).losses)
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert losses[0][-1] < losses[0][0] - 0.1


def test_activations_computed_again_give_the_same_gradients():
    base, of = base_of("v3"), rows()
    tuned = moved(attach(base.model.train(), parse_method("full"), seed=1))
    objective = packed_of(base, tuned)
    kept = losses_and_gradients(tuned, objective, of)
    recompute(base.model, on=True)
    assert_same(kept, losses_and_gradients(tuned, objective, of))


def test_lanes_project_positions_each_with_its_own(tmp_path):
    """Texts of unlike length and dropout in deltas: masks for positions are drawn as each lane alone draws them."""
    names = [
        {"name": "lora", "rank": 3, "roles": ["all"], "dropout": 0.4},
        {"name": "ia3"},
        "full",
        {"name": "lora", "rank": 3, "roles": ["q", "k"], "dropout": 0.2},
    ]

    def runs(folder):
        base = base_of("v3")
        found = []
        for number, method in enumerate(names):
            of = rows(lengths=[length // (1 + number) + 2 for length in LENGTHS], seed=number)
            found.append(training(base.model, method, number, folder / str(number), of))
        return [replace(run, objective=objective_for(base, packing=True)) for run in found]

    every = runs(tmp_path / "together")
    assert why_not_together(every) == ""
    for lane, run in zip(together(every), runs(tmp_path / "alone"), strict=True):
        assert distance(lane, alone(run)) < 1e-10


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_gradients_of_the_attention_are_those_of_small_steps(dropout):
    base = base_of("v3")
    with disentangled(base.model):
        base.model(input_ids=torch.ones(1, 14, dtype=torch.long), segment_starts=torch.tensor([0, 5, 9, 14]))
        segments = base.model.deberta.encoder.get_attention_mask(torch.ones(1, 14))
    assert [(group.n_segments, group.length) for group in segments.groups] == [(3, 5)]
    assert segments.groups[0].unseen.sum() == 1
    sizes = [segments.n_slots] * 3 + [len(segments.positions)] * 2
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(size, 2, 3, dtype=torch.float64, generator=generator) for size in sizes]

    def made(*tensors):
        torch.manual_seed(0)
        tokens = torch.zeros(segments.n_slots, 1, 1, dtype=torch.float64).index_fill_(0, segments.slots, 1.0)
        inputs = [*(tensor * tokens for tensor in tensors[:3]), *tensors[3:]]
        return attend(*inputs, segments.groups, dropout)[segments.slots]

    assert torch.autograd.gradcheck(made, [tensor.requires_grad_() for tensor in drawn])
    with torch.no_grad():
        torch.manual_seed(1)
        ones = [tensor * 0 + 1 for tensor in drawn]
        weights = attend(*ones, segments.groups, dropout)[segments.slots]
    assert bool((weights - 1).abs().max() > 0.1) == bool(dropout)


def test_groups_are_alike_and_stay_in_the_caches():
    lengths = [40, 39, 30, 29, 0, 300, 290]
    assert list(alike(range(len(lengths)), lengths)) == [[5], [6], [0, 1, 2], [3]]
    assert 2 * 300**2 > PAIRS > 3 * 40**2


def test_a_model_that_is_told_no_segments_fails():
    base = base_of("v3")
    with disentangled(base.model), disentangled(base.model), pytest.raises(TypeError, match="not told the segments"):
        base.model(input_ids=torch.ones(1, 4, dtype=torch.long))
    assert "get_attention_mask" not in vars(base.model.deberta.encoder)
    assert base.model(input_ids=torch.ones(1, 4, dtype=torch.long)).logits.isfinite().all()
