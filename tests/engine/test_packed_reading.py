"""Prompts read packed, with what they begin with shared, against the plain way: each prompt alone, token by token."""

import copy

import pytest
import torch

from tests import bases
from tests.rows import random_rows
from tests.tuned import moved
from tunewise.engine import packed_reading, tried
from tunewise.engine.native.build import library, why_not
from tunewise.engine.packed_reading import Row, reading, rows_of, split_off, why_not_read
from tunewise.engine.scoring import option_likelihoods, option_log_probabilities, sequence_losses
from tunewise.methods import parse_method
from tunewise.methods.attach import attach

pytestmark = pytest.mark.skipif(library() is None, reason=f"no kernels here: {why_not()}")
SHOWN = [5, 9, 17, 33, 12, 8, 40, 41, 6, 7, 21, 22, 23, 9, 50, 51, 3, 4]
OWN = [list(row.ids[: row.prompt_length]) for row in random_rows(7)]
SHARING = [[1, *SHOWN, *prompt[1:]] for prompt in OWN]
OPTIONS = [[[i + 3, 5, 7], [i + 4], [9, 8]] for i in range(7)]
METHODS = {
    "lora": {"name": "lora", "rank": 4, "roles": ["all"]},
    "prompt_tuning": {"name": "prompt_tuning", "virtual_tokens": 3},
    "a long prompt": {"name": "prompt_tuning", "virtual_tokens": 17},
    "prefix_tuning": {"name": "prefix_tuning", "virtual_tokens": 3},
    "a long prefix": {"name": "prefix_tuning", "virtual_tokens": 17},
    "llama_adapter": {"name": "llama_adapter", "virtual_tokens": 3},
    "bottleneck": {"name": "bottleneck", "bottleneck": 4},
    "mam": {"name": "mam", "virtual_tokens": 2, "bottleneck": 4},
}


@torch.no_grad()
def log_probability(model, prompt, answer, prefix_ids=()):
    ids, total = [*prefix_ids, *prompt], 0.0
    for token in answer:
        logits = model(torch.tensor([ids]), use_cache=False).logits[0, -1]
        total += logits.double().log_softmax(-1)[token].item()
        ids.append(token)
    return total


def wide(model):
    return copy.deepcopy(model).double()


@pytest.mark.parametrize("prefix_ids", [(), (11, 12)], ids=["plain", "prefix"])
@pytest.mark.parametrize("prompts", [OWN, SHARING], ids=["nothing shared", "shared"])
@pytest.mark.parametrize("family", bases.DECODERS)
def test_options_score_as_each_alone(family, prompts, prefix_ids):
    # mistral's window of 8 is narrower than what is shared, gemma2 has a softcap
    model = bases.build(family, torch.float32)
    assert why_not_read(model, prefix_ids) == ""
    found = option_log_probabilities(model, prompts, OPTIONS, pad_id=0, prefix_ids=prefix_ids)
    exact = wide(model)
    for prompt, options, scores in zip(prompts, OPTIONS, found, strict=True):
        expected = [log_probability(exact, prompt, option, prefix_ids) for option in options]
        assert scores == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2"])
def test_options_score_as_in_the_padded_way(family):
    model = bases.build(family, torch.float32)
    found = option_log_probabilities(model, SHARING, OPTIONS, pad_id=0)
    expected = option_log_probabilities(model, SHARING, OPTIONS, pad_id=0, batch_size=3, packing=False)
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, abs=2e-4)


@pytest.mark.parametrize("packing", [True, False], ids=["packed", "padded"])
def test_an_option_is_greedy_where_each_of_its_tokens_is_the_most_probable(packing):
    model = bases.build("llama", torch.float32)
    assert why_not_read(model) == ""
    options = []
    for prompt in SHARING:
        ids = list(prompt)
        for _ in range(3):
            ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        one, two, three = ids[-3:]
        options.append([[one], [one, two, three], [one, two, (three + 1) % 64], [(one + 1) % 64, two], [one, two]])
    found = option_likelihoods(model, SHARING, options, pad_id=0, batch_size=3, packing=packing)
    assert [[each.is_greedy for each in of_row] for of_row in found] == [[True, True, False, False, True]] * len(
        SHARING
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2"])
def test_whatever_is_attached(family, method):
    tuned = moved(attach(bases.build(family, torch.float32), parse_method(METHODS[method]), seed=1))
    tuned.model.eval()
    assert why_not_read(tuned.model, tuned.prefix_ids) == ""
    found = option_log_probabilities(tuned.model, SHARING, OPTIONS, pad_id=0, prefix_ids=tuned.prefix_ids)
    for prompt, options, scores in zip(SHARING, OPTIONS, found, strict=True):
        expected = [log_probability(tuned.model, prompt, option, tuned.prefix_ids) for option in options]
        assert scores == pytest.approx(expected, abs=5e-4)
    documents = [prompt[:12] for prompt in OWN]
    losses = sequence_losses(tuned.model, documents, pad_id=0, prefix_ids=tuned.prefix_ids)
    expected = [-log_probability(tuned.model, ids[:1], ids[1:], tuned.prefix_ids) for ids in documents]
    assert [loss for loss, _ in losses] == pytest.approx(expected, abs=1e-3)


def test_bfloat16_is_as_near_as_its_padded_way():
    model = bases.build("llama", torch.bfloat16)
    assert why_not_read(model) == ""
    exact = option_log_probabilities(wide(model), SHARING, OPTIONS, pad_id=0, packing=False)
    distances = [
        max(abs(one - other) for rows in zip(found, exact, strict=True) for one, other in zip(*rows, strict=True))
        for found in (
            option_log_probabilities(model, SHARING, OPTIONS, pad_id=0),
            option_log_probabilities(model, SHARING, OPTIONS, pad_id=0, packing=False),
        )
    ]
    assert distances[0] < 2 * distances[1]


def test_a_neighbour_moves_no_score():
    model = bases.build("llama", torch.float32)
    before = option_log_probabilities(model, SHARING, OPTIONS, pad_id=0)
    options = [*OPTIONS[:3], [[30, 31, 32], [33], [34, 35]], *OPTIONS[4:]]
    prompts = [*SHARING[:3], [*SHARING[3][:-1], 44], *SHARING[4:]]
    after = option_log_probabilities(model, prompts, options, pad_id=0)
    assert [after[i] == before[i] for i in range(7)] == [True, True, True, False, True, True, True]


def test_documents_are_scored_in_the_order_given():
    model = bases.build("gpt2", torch.float32)
    documents = [list(row.ids) for row in random_rows(5, seed=1)] + [[9], []]
    found = sequence_losses(model, documents, pad_id=0)
    assert [n for _, n in found] == [max(0, len(ids) - 1) for ids in documents]
    for ids, (loss, _) in zip(documents, found, strict=True):
        assert loss == pytest.approx(-log_probability(wide(model), ids[:1], ids[1:]), abs=1e-4)


def shapes_of(model, work):
    shapes = []
    hook = model.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    why_not_read(model)
    shapes.clear()
    work()
    hook.remove()
    return shapes


def test_a_beginning_and_a_prompt_are_read_once():
    model = bases.build("llama", torch.float32)
    shapes = shapes_of(model, lambda: option_log_probabilities(model, SHARING, OPTIONS, pad_id=0))
    own = sum(len(prompt) - 1 for prompt in OWN) + 3 * 7  # of the options all but their last tokens
    assert shapes == [1 + len(SHOWN), -(-own // 32) * 32]


def test_the_last_layer_makes_something_of_what_is_wanted_and_no_more():
    """Of the beginning only keys and values are of use, of prompts their last tokens and those of options."""
    model = bases.build("llama", torch.float32)
    first, *_, last = (layer.mlp for layer in model.model.layers)
    in_first, in_last = [], []
    first.register_forward_hook(lambda _, args, __: in_first.append(args[0].shape[1]))
    last.up_proj.register_forward_hook(lambda _, args, __: in_last.append(args[0].shape[1]))
    assert why_not_read(model) == ""
    in_first.clear()
    in_last.clear()
    long = [[1, *SHOWN * 4, *prompt[1:]] for prompt in OWN]
    option_log_probabilities(model, long, OPTIONS, pad_id=0)
    own = sum(len(prompt) - 1 for prompt in OWN) + 3 * 7
    wanted = 7 * (1 + 2 + 1)  # behind each prompt, and the options' tokens but their last
    assert in_first == [1 + 4 * len(SHOWN), -(-own // 32) * 32]
    assert in_last == [2, -(-wanted // 8) * 8]


def test_what_does_not_fit_one_row_goes_into_several(monkeypatch):
    model = bases.build("llama", torch.float32)
    whole = option_log_probabilities(model, SHARING, OPTIONS, pad_id=0)
    monkeypatch.setattr(packed_reading, "TOKENS", 40)
    found = []
    shapes = shapes_of(model, lambda: found.extend(option_log_probabilities(model, SHARING, OPTIONS, pad_id=0)))
    assert len(shapes) > 3
    for one, other in zip(found, whole, strict=True):
        assert one == pytest.approx(other, abs=1e-4)


def test_rows_hold_what_fits_the_longest_first():
    found = list(rows_of([3000, 5000, 1000, 200, 90], [1, 1, 1, 1, 1], 10))
    assert found == [[1], [0, 2], [3, 4]]
    by_logits = list(rows_of([30, 20, 10], [1, 2, 1], packed_reading.LOGITS // 3))
    assert by_logits == [[0, 1], [2]]


def test_what_is_worth_sharing():
    assert split_off(SHARING[:2], (70,)) == ((70, 1, *SHOWN), [tuple(prompt[19:]) for prompt in SHARING[:2]])
    assert split_off(SHARING[:1], (70,)) == ((), [(70, *SHARING[0])])
    assert split_off([[1, 2, 3], [1, 2, 4]], ()) == ((), [(1, 2, 3), (1, 2, 4)])
    assert split_off([SHOWN, SHOWN], (70,)) == ((70, *SHOWN[:-1]), [(4,), (4,)])
    assert split_off([], (70,)) == ((), [])


def test_the_places_and_positions_of_a_row():
    row = Row([10, 2])
    assert row.add([5, 6, 7]) == 0
    assert row.add([8, 9], context=(0, 3)) == 3
    assert row.add([4], context=(40, 6), slot=46) == 5
    assert row.ids == [5, 6, 7, 8, 9, 4]
    assert row.positions == [10, 11, 12, 13, 14, 16]
    assert row.segments == [(0, 3, 0, 0, 0), (3, 2, 3, 0, 3), (5, 1, 46, 40, 6)]
    assert row.slots == [46]
    assert row.add([7, 6], context=(46, 7), behind=1) == 6
    assert row.positions[6:] == [9, 10]
    told = [(number, n, segments.tolist()) for number, n, segments in row.blocks()]
    assert told == [(0, 6, [list(each) for each in row.segments[:3]]), (1, 2, [[0, 2, 6, 46, 7]])]


def test_a_cache_goes_on_where_a_row_ended():
    model, prompt = bases.build("gemma2", torch.float32), SHARING[0]
    with reading(model, [prompt[:8]], n_slots=40) as reader:
        row = Row(reader.n_begin)
        row.add(prompt[8:], slot=3)
        first = reader.logits(row, [len(prompt) - 9])
        row = Row(reader.n_begin)
        row.add([17, 18], (3, len(prompt) - 8), slot=3 + len(prompt) - 8)
        behind = reader.logits(row, [0, 1])
    exact = wide(model)(torch.tensor([[*prompt, 17, 18]]), use_cache=False).logits[0, -3:]
    torch.testing.assert_close(torch.cat([first, behind]).double(), exact, rtol=0, atol=2e-4)


def test_rows_behind_several_beginnings():
    """Of which one is none; prompts of each, and what goes on behind one of them."""
    model = bases.build("gemma2", torch.float32)
    beginnings, prompts = [SHOWN, (), SHOWN[::-1]], [(0, [7, 8]), (0, [9]), (1, [5, 6, 4]), (2, [11, 12])]
    with reading(model, beginnings) as reader:
        row, wanted = Row(reader.n_begin), []
        for number, prompt in prompts:
            wanted.append(row.add(prompt, behind=number) + len(prompt) - 1)
        wanted.append(row.add([13, 14], (wanted[-1] - 1, 2), behind=2) + 1)
        found = reader.logits(row, wanted)
    whole = [[*beginnings[number], *prompt] for number, prompt in prompts]
    whole.append([*whole[-1], 13, 14])
    exact = [wide(model)(torch.tensor([ids]), use_cache=False).logits[0, -1] for ids in whole]
    torch.testing.assert_close(found.double(), torch.stack(exact), rtol=0, atol=2e-4)


def test_what_cannot_be_read_packed_says_why_and_is_tried_once(caplog):
    exact = bases.build("llama")
    with caplog.at_level("INFO"):
        assert "no kernel for torch.float64" in why_not_read(exact)
        assert "no kernel for torch.float64" in why_not_read(exact)
    assert len(caplog.records) == 1
    model = bases.build("llama", torch.float32)
    assert len(shapes_of(model, lambda: why_not_read(model))) == 0
    tuned = attach(model, parse_method({"name": "lora", "rank": 2}), seed=1)
    assert why_not_read(tuned.model) == ""
    assert len(tried._FOUND[model]) == 2  # once bare but for the hook of shapes_of, once with lora


def test_what_is_put_on_and_taken_off_again_and_again_is_forgotten(monkeypatch):
    model, trials = bases.build("llama", torch.float32), []
    monkeypatch.setattr(packed_reading, "_try", lambda *_: trials.append(1) or "")
    for _ in range(3 * tried.KEPT):
        why_not_read(model)  # stays known, as it is asked for
        hook = model.register_forward_pre_hook(lambda *_: None)
        packed_reading.found_to_read(model)
        hook.remove()
    assert len(trials) == 1
    assert len(tried._FOUND[model]) == tried.KEPT


def test_a_rotation_that_depends_on_the_length_is_not_packed():
    model = bases.build("llama", torch.float32)
    model.config.rope_parameters = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    assert "depends on the length" in why_not_read(model)


def test_a_family_that_ignores_the_reader_is_found_out(monkeypatch):
    model = bases.build("llama", torch.float32)
    forward = type(model.model).forward
    monkeypatch.setattr(
        type(model.model), "forward", lambda self, *args, reader=None, **rest: forward(self, *args, **rest)
    )
    assert "is not told the segments" in why_not_read(model)
