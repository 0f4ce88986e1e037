"""Packed taggers against padded ones, of several families: the same losses, gradients, tags and trunk."""

import pytest
import torch
import transformers

from tests import bases
from tests.engine.test_packed_classifier import FAMILIES, METHODS, assert_same, losses_and_gradients
from tests.tuned import moved
from tunewise.data.encode import MASKED, Encoded
from tunewise.data.examples import Example, Part
from tunewise.engine.from_trunk import route_for
from tunewise.engine.joining import join, joint_row_losses
from tunewise.engine.native.build import library, why_not
from tunewise.engine.objectives import Labels, PackedLabels, objective_for
from tunewise.evaluation.by_head import answers_by_head
from tunewise.evaluation.questions import LabelledRows
from tunewise.methods import parse_method
from tunewise.methods.attach import attach
from tunewise.methods.lanes import Draws, Lanes
from tunewise.models.anatomy import read_anatomy
from tunewise.models.heads import TaskHead
from tunewise.models.load import Base

pytestmark = pytest.mark.skipif(library() is None, reason=f"no kernels here: {why_not()}")
TAGS = ("a", "b", "c")


def tagger(family):
    """The model of a family with a head for tags in the place of its head for classes."""
    config = bases.build(family, torch.float32).config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.AutoModelForTokenClassification.from_config(config, dtype=torch.float32)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.2)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return Base(model.eval(), bases.Padding(), read_anatomy(model), family, "", model.dtype, TaskHead("tags", TAGS))


def tagged(n=12, seed=3):
    """Rows with a tag at two tokens of three; one of them has none at all."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for number in range(n):
        length = int(torch.randint(3, 20, (1,), generator=generator))
        ids = torch.randint(1, bases.VOCABULARY, (length,), generator=generator).tolist()
        labels = [MASKED if place % 3 == 0 or number == 4 else (place + number) % 3 for place in range(length)]
        made.append(Encoded(str(number), tuple(ids), tuple(labels), length, False))
    return made


@pytest.mark.parametrize("name", ["lora", "full", "bitfit", "prompt_tuning", "head"])
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_is_padded(name, family):
    base = tagger(family)
    tuned = moved(attach(base.model, parse_method(METHODS[name]), seed=1))
    packed = objective_for(base, tuned.prefix_ids, packing=True)
    assert isinstance(packed, PackedLabels)
    of = tagged(20)
    batch = packed.collate(of)
    assert len(batch.pooled) == len(batch.labels) == sum(label != MASKED for row in of for label in row.labels)
    assert_same(*(losses_and_gradients(tuned, each, of) for each in (Labels(base, tuned.prefix_ids), packed)))


@pytest.mark.parametrize(("method", "live"), [("head", "head"), ("top_layers", "layer")])
@pytest.mark.parametrize("family", ["bert_classes", "deberta-v2_classes", "llama_classes"])
def test_a_tagger_is_trained_on_what_was_packed_once(family, method, live):
    base, of = tagger(family), tagged()
    tuned = moved(
        attach(base.model, parse_method({"name": method} | ({"layers": 1} if live == "layer" else {})), seed=1)
    )
    packed = objective_for(base, packing=True)
    route = route_for(tuned, packed, of, group_size=4)
    assert (route.reason, route.trunk.live) == ("", live)
    some = [of[i] for i in (5, 4, 1, 6)]
    for _ in range(2):  # computed, then from the store
        assert_same(losses_and_gradients(tuned, packed, some), losses_and_gradients(tuned, route.objective, some))


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("prompt", [False, True])
def test_words_are_told_as_each_text_alone_tells_them(packing, prompt):
    base, rows = tagger("roberta_classes"), tagged(9)
    prefix_ids = attach(base.model, parse_method(METHODS["prompt_tuning"]), seed=1).prefix_ids if prompt else ()
    examples = [Example(row.id, (Part(row.id, False),), "", 0, (row.id,)) for row in rows]
    found, loss = answers_by_head(base, LabelledRows(None, tuple(examples), rows), prefix_ids, 4, packing=packing)
    losses, n = 0.0, 0
    for row, told in zip(rows, found, strict=True):
        with torch.no_grad():
            logits = base.model(input_ids=torch.tensor([[*prefix_ids, *row.ids]])).logits[0, len(prefix_ids) :]
        places = [place for place, label in enumerate(row.labels) if label != MASKED]
        assert told["expected"].split() == [TAGS[row.labels[place]] for place in places]
        assert told["predicted"].split() == [TAGS[int(logits[place].argmax())] for place in places]
        losses -= sum(float(logits[place].log_softmax(-1)[row.labels[place]]) for place in places)
        n += len(places)
    assert loss == pytest.approx(losses / n, abs=1e-5)


def test_each_lane_of_taggers_is_as_alone():
    base = tagger("bert_classes")
    packed, batches = objective_for(base, packing=True), [tagged(n, seed=n) for n in (5, 9, 6)]
    collated = [packed.collate(of) for of in batches]
    every, alone = [], []
    for seed, name in enumerate(("lora", "head", "ia3")):
        tuned = moved(attach(base.model, parse_method(METHODS[name]), seed=seed))
        with torch.no_grad(), packed.ready(base.model):
            alone.append(packed.row_losses(base.model, collated[seed]))
        tuned.detach()
        every.append(tuned)
    _, parts = join(collated, (0, 1, 2), (False, False, False), 0)
    assert [part.head_size for part in parts.parts] == [len(each.labels) for each in collated]
    with Lanes(every, [Draws(seed, base.model.device) for seed in range(3)]) as lanes:
        found = joint_row_losses([packed] * 3, lanes, (0, 1, 2), collated)
    for together, single in zip(found, alone, strict=True):
        torch.testing.assert_close(together, single, rtol=2e-5, atol=2e-5)
