"""Lanes asked at once are told what each is told alone: padded in float64 to 1e-10, packed in float32 to rounding."""

import math
from dataclasses import replace

import pytest
import torch

from tests import bases
from tests.engine.test_packed_classifier import base_of
from tests.engine.test_packed_classifier import rows as texts
from tests.engine.test_packed_tagger import tagged, tagger
from tests.methods.promises import randomise
from tests.methods.test_contract import VARIANTS
from tests.rows import random_rows
from tests.small_base import write_image_model, write_pictures
from tests.words_tokenizer import words_tokenizer
from tunewise.data.encode import Encoded
from tunewise.data.examples import Example, Part
from tunewise.engine import packed_reading
from tunewise.engine.decoding import Decoding, Sampling
from tunewise.engine.native.build import library, why_not
from tunewise.engine.objectives import NextToken, objective_for
from tunewise.evaluation import by_lane
from tunewise.evaluation.asks import ByHead, Documents, How, Likelihoods, RowLosses, Texts, alone
from tunewise.evaluation.by_lane import ByLane
from tunewise.evaluation.questions import LabelledRows
from tunewise.methods import METHODS, parse_method
from tunewise.methods.attach import attach
from tunewise.methods.dialled import Dialled
from tunewise.methods.lanes import Draws, Lanes
from tunewise.models.anatomy import read_anatomy
from tunewise.models.heads import TaskHead
from tunewise.models.load import Base, load_base

needs_kernels = pytest.mark.skipif(library() is None, reason=f"no kernels here: {why_not()}")
TRAINED = [name for name in METHODS if name != "frozen"]
MIXED = [
    {"name": "lora", "rank": 3, "roles": ["all"]}, {"name": "lora", "rank": 5}, {"name": "bottleneck", "bottleneck": 4},
    {"name": "prompt_tuning", "virtual_tokens": 2}, {"name": "prefix_tuning", "virtual_tokens": 3}, {"name": "full"},
]  # fmt: skip
OPTIONS = [[5], [6, 7], [9, 8, 7, 11]]


def one(ask):
    """An evaluation that asks one thing and makes nothing of it."""
    return (yield ask)


def asks_of(number, base, prefix_ids, packing):
    """Everything that a language model can be asked, of rows that are this lane's own, more of them for some lanes."""
    rows = random_rows(4 + number % 3, seed=number)
    prompts = [list(row.ids[: row.prompt_length]) for row in rows]
    return {
        "options": Likelihoods(prompts, [OPTIONS[: 1 + i % 3] for i in range(len(rows))]),
        "texts": Texts(prompts, Decoding(7)),
        "documents": Documents([*(row.ids for row in rows), (5,)]),
        "losses": RowLosses(rows, objective_for(base, prefix_ids, packing=packing), 3),
    }


def side_by_side(base, methods, packing, monkeypatch, asks_of=asks_of):
    """What each lane is told alone, and beside the others; every ask of all lanes is one of one pass."""
    tuned, how, expected, asks = [], [], [], []
    for number, fields in enumerate(methods):
        of_rows = [NextToken(0).collate([row]) for row in random_rows(4, seed=9)]
        each = attach(
            base.model, parse_method(fields), seed=number, tokenizer=base.tokenizer,
            losses=lambda of_rows=of_rows: (NextToken(0).loss(base.model, batch) for batch in of_rows),
        )  # fmt: skip
        randomise(each)
        base.model.eval()
        how.append(How(each.prefix_ids, batch_size=3, packing=packing))
        asks.append(asks_of(number, base, each.prefix_ids, packing))
        expected.append({name: alone(base, one(ask), how[-1]) for name, ask in asks[-1].items()})
        each.detach()
        tuned.append(each)
    return expected, at_once(base, tuned, how, asks, monkeypatch)


def at_once(base, tuned, how, asks, monkeypatch):
    """What each lane is told beside the others."""
    seen, answers_to = [], ByLane._answers_to
    monkeypatch.setattr(
        by_lane.ByLane, "_answers_to", lambda self, asked: seen.append(tuple(asked)) or answers_to(self, asked)
    )
    found = {}
    with Lanes(tuned, [Draws(0, base.model.device) for _ in tuned]) as lanes:
        asked = ByLane(base, lanes, dict(enumerate(how)))
        for name in asks[0]:
            found[name] = asked.answers({number: one(replace(of[name])) for number, of in enumerate(asks)})
            assert asked.why_alone == "", (name, asked.why_alone)
    assert seen.count(tuple(range(len(tuned)))) >= len(asks[0])
    return [{name: found[name][number] for name in found} for number in range(len(tuned))]


def assert_same(expected, found, tolerance):
    if isinstance(expected, float):
        assert found == pytest.approx(expected, abs=tolerance, rel=tolerance)
        assert math.isfinite(found)
        return
    assert type(expected) is type(found)
    if isinstance(expected, list | tuple):
        assert len(expected) == len(found)
        for one, other in zip(expected, found, strict=True):
            assert_same(one, other, tolerance)
    elif isinstance(expected, dict):
        assert_same(list(expected.items()), list(found.items()), tolerance)
    else:
        assert expected == found


def language_model(family, dtype):
    model = bases.build(family, dtype)
    return Base(model, words_tokenizer(), read_anatomy(model), family, "", dtype, TaskHead())


def test_every_method_in_one_pass(monkeypatch):
    base = language_model("llama", torch.float64)
    methods = [{"name": name, **VARIANTS[name][0]} for name in TRAINED]
    expected, found = side_by_side(base, methods, False, monkeypatch)
    assert len(found) == len(TRAINED) >= 23
    assert_same(expected, found, 1e-10)
    assert len({str(each["texts"]) for each in expected}) > 10, "they answer otherwise, each after its own method"


@pytest.mark.parametrize("name", TRAINED)
def test_every_lambda_of_every_method_in_one_pass(name, monkeypatch):
    """Lanes that share their tensors, and nothing that one of them keeps of a forward."""
    base = language_model("llama", torch.float64)
    of_rows = [NextToken(0).collate([row]) for row in random_rows(4, seed=9)]
    tuned = attach(
        base.model, parse_method({"name": name, **VARIANTS[name][0]}), tokenizer=base.tokenizer,
        losses=lambda: (NextToken(0).loss(base.model, batch) for batch in of_rows),
    )  # fmt: skip
    randomise(tuned)
    base.model.eval()
    asks, expected, how = [], [], []
    for number, scale in enumerate((0.0, 0.3, 1.0)):
        tuned.scale = scale
        how.append(How(tuned.prefix_ids, batch_size=4, packing=False))
        of_lane = asks_of(number, base, tuned.prefix_ids, False)
        asks.append({kind: of_lane[kind] for kind in ("options", "texts", "documents")})
        expected.append({kind: alone(base, one(ask), how[-1]) for kind, ask in asks[-1].items()})
    tuned.detach()
    lanes = [Dialled(tuned, scale) for scale in (0.0, 0.3, 1.0)]
    assert_same(expected, at_once(base, lanes, how, asks, monkeypatch), 1e-10)
    assert len({str(each["options"]) for each in expected}) == 3


@needs_kernels
@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_packed_lanes_of_mixed_methods(family, monkeypatch):
    """gemma3's norms of queries and keys are given heads first, tokens second."""
    base = language_model(family, torch.float32)
    expected, found = side_by_side(base, MIXED, True, monkeypatch)
    assert_same(expected, found, 2e-5)


@pytest.mark.parametrize("family", ["gpt2", "qwen3", "llama_tied"])
def test_families_of_decoders(family, monkeypatch):
    base = language_model(family, torch.float64)
    expected, found = side_by_side(base, MIXED[1:5], False, monkeypatch)
    assert_same(expected, found, 1e-10)


@pytest.mark.parametrize("family", ["t5_gated", "bart"])
def test_encoder_decoders(family, monkeypatch):
    base = language_model(family, torch.float64)

    def written(number, base, prefix_ids, packing):
        of = asks_of(number, base, (), False)
        return {"options": of["options"], "texts": of["texts"]}

    methods = [{"name": "lora", "rank": 3}, {"name": "ia3"}, {"name": "lora", "rank": 3, "roles": ["all"]}]
    expected, found = side_by_side(base, methods, False, monkeypatch, written)
    assert_same(expected, found, 1e-10)


def labelled(rows):
    examples = [Example(row.id, (Part(row.id, False),), row.labels[0], 0, (row.id,)) for row in rows]
    return {"head": ByHead(LabelledRows(None, tuple(examples), rows))}


@needs_kernels
@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("family", ["bert_classes", "roberta_classes", "llama_classes"])
def test_classifiers_and_taggers(family, packing, monkeypatch):
    """A decoder's lanes have virtual tokens of their own, and every lane a head."""
    methods = [{"name": "lora", "rank": 3}, {"name": "lora", "rank": 3}, {"name": "bottleneck", "bottleneck": 4}]
    methods += [{"name": "prompt_tuning", "virtual_tokens": 2}] if family == "llama_classes" else []
    for base, rows in ((base_of(family), texts(9, pairs=family == "bert_classes")), (tagger(family), tagged(9))):
        expected, found = side_by_side(
            base, methods, packing, monkeypatch,
            lambda number, base, prefix_ids, packing, rows=rows: labelled(rows[number % 2 :]),
        )  # fmt: skip
        assert_same(expected, found, 1e-4)
        assert len({str(each) for each in expected}) == len(methods)


@needs_kernels
@pytest.mark.parametrize("family", ["bert_classes", "roberta_classes", "llama_classes"])
def test_a_pass_of_one_text(family, monkeypatch):
    """What is gathered for the head is one row, and no row of tokens."""
    monkeypatch.setattr(packed_reading, "TOKENS", 1)
    methods = [{"name": "lora", "rank": 3}, {"name": "full"}]
    expected, found = side_by_side(
        base_of(family), methods, True, monkeypatch, lambda *_: labelled(texts(3, pairs=False))
    )
    assert_same(expected, found, 1e-4)


def test_images_are_read_as_many_at_a_time_as_alone(tmp_path, monkeypatch):
    write_image_model(tmp_path / "base")
    files = sorted(write_pictures(tmp_path / "pictures", 4).rglob("*.png"))
    rows = [Encoded(str(path), (), (number % 2,), 0, False, image=str(path)) for number, path in enumerate(files)]
    base, widths = load_base(str(tmp_path / "base"), "float32", head=TaskHead("classes", ("bright", "dark"))), []
    base.model.get_submodule(base.anatomy.layers[0]).register_forward_pre_hook(
        lambda _, args: widths.append(len(args[0]))
    )
    methods = [{"name": "lora", "rank": 3}, {"name": "bottleneck", "bottleneck": 4}]
    expected, found = side_by_side(base, methods, True, monkeypatch, lambda *_: labelled(rows))
    assert_same(expected, found, 1e-4)
    assert len(rows) == 8
    assert max(widths[-5:]) == 3, "of a batch size of 3, which two lanes of eight share"


def behind_demonstrations(number, base, prefix_ids, packing):
    """Demonstrations that are a lane's own, before prompts of different length."""
    begin = [1, *range(5 + number, 40 + number)]
    prompts = [[*begin, *row.ids[1:4]] for row in random_rows(4 + number % 3, seed=number)]
    return {"options": Likelihoods(prompts, [OPTIONS] * len(prompts)), "texts": Texts(prompts, Decoding(5))}


@needs_kernels
def test_what_the_prompts_of_a_lane_begin_with_is_read_once(monkeypatch):
    base, widths = language_model("llama", torch.float32), []
    base.model.get_input_embeddings().register_forward_hook(lambda module, args, out: widths.append(args[0].numel()))
    expected, found = side_by_side(base, MIXED[:5], True, monkeypatch, behind_demonstrations)
    assert_same(expected, found, 2e-5)
    assert max(widths) < 400, "five lanes of four prompts or more of 38 tokens and 7 of options are more, each whole"


def test_padded_lanes_that_would_read_much_more_are_asked_alone(monkeypatch):
    base = language_model("llama", torch.float64)
    with pytest.raises(AssertionError, match="none gains"):
        side_by_side(base, MIXED[:2], False, monkeypatch, behind_demonstrations)
    drawn = lambda number, *_: {"drawn": Texts([[3, 4], [5, 6]], Decoding(5, sampling=Sampling(seed=number)))}
    with pytest.raises(AssertionError, match="none gains"):
        side_by_side(base, MIXED[:2], False, monkeypatch, drawn)


def test_padded_prompts_are_as_many_at_a_time_as_alone(monkeypatch):
    monkeypatch.setattr(by_lane, "TOKENS", 1)
    base, widths = language_model("llama", torch.float64), []
    base.model.get_input_embeddings().register_forward_hook(lambda module, args, out: widths.append(len(args[0])))
    asks = lambda number, *_: {"options": Likelihoods([[3, 4 + i] for i in range(9)], [[[5], [6]]] * 9)}
    expected, found = side_by_side(base, MIXED[:2], False, monkeypatch, asks)
    assert_same(expected, found, 1e-10)
    assert max(widths) == 3, "of a batch size of 3, which two lanes of nine prompts share"


def test_a_base_that_fails_beside_other_lanes_is_asked_alone(monkeypatch):
    base = language_model("llama", torch.float64)

    def fail(module, args):
        if len(args[0]) > 3:
            raise RuntimeError("no room for four")

    base.model.model.norm.register_forward_pre_hook(fail)
    with pytest.raises(AssertionError, match="does not answer them in one pass: no room for four"):
        side_by_side(base, MIXED[:2], False, monkeypatch, lambda *_: {"options": Likelihoods([[3], [4]], [[[5]]] * 2)})


def test_lanes_that_are_told_something_else_are_asked_alone(monkeypatch):
    """As where a base mixes what stands in one batch."""
    base = language_model("llama", torch.float64)
    base.model.model.norm.register_forward_hook(lambda module, args, out: out + out.mean(dim=0, keepdim=True))
    with pytest.raises(AssertionError, match="answers otherwise beside other lanes than alone"):
        side_by_side(base, MIXED[:2], False, monkeypatch)
