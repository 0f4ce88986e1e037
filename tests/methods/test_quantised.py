"""What every method promises on a base whose weights are quantised: the contract again, and that it acts there as it
does on a dense base with the dequantised weights.

Of int8 on a CPU that holds while training; in evaluation it quantises what enters each layer as well.
"""

import pytest
import torch
from torch import Tensor

from tests import bases
from tests.methods.promises import (
    IDS,
    assert_acts_in_bfloat16,
    assert_checkpointing_changes_no_gradient,
    assert_detached_is_the_base,
    assert_generates_as_by_hand,
    assert_no_other_gradients,
    assert_off_is_the_base,
    assert_same,
    logits,
    randomise,
)
from tests.methods.test_contract import VARIANTS
from tunewise.errors import UserError
from tunewise.methods import METHODS, parse_method
from tunewise.methods.attach import Tuned, attach, count
from tunewise.methods.base import CannotFold, Method
from tunewise.methods.matrix import matrix
from tunewise.methods.store import load_adapter, read_card, save_adapter
from tunewise.models.quantise import FORMATS, dequantise, packed_weights

TRAINS_WEIGHTS = ("full", "top_layers")  # these select packed weights; all others add beside them, or leave them out
CASES = [
    (form, name, fields)
    for form in FORMATS
    for name, variants in VARIANTS.items()
    for fields in (variants if form == "nf4" else variants[:1])
    if name not in TRAINS_WEIGHTS
]
WITH_ENDS = "nf4-ends8"  # no column of the matrix: what differs is what stands outside the layers
AT_ENDS = (
    "frozen",
    "lora",
    "dora",
    "ia3",
    "bitfit",
    "bottleneck",
    "prompt_tuning",
    "multitask_prompt",
    "prefix_tuning",
    "norms",
)
CASES += [(WITH_ENDS, name, VARIANTS[name][0]) for name in AT_ENDS]
CASES.append((WITH_ENDS, "lora", {"roles": ["q", "head"]}))
TRAINED_CASES = [case for case in CASES if case[1] != "frozen"]
KINDS = {form: form for form in FORMATS}  # form -> the column of the matrix that its outcomes stand in


def identify(case: tuple[str, str, dict]) -> str:
    form, name, fields = case
    return "-".join([form, name, *(f"{key}={value}" for key, value in fields.items())])


over_cases = pytest.mark.parametrize("case", CASES, ids=identify)
over_trained_cases = pytest.mark.parametrize("case", TRAINED_CASES, ids=identify)


def method_of(case: tuple[str, str, dict]) -> Method:
    return parse_method({"name": case[1], **case[2]})


def attached(case: tuple[str, str, dict], dtype: torch.dtype = torch.float32) -> Tuned:
    return attach(bases.quantised(case[0], dtype=dtype), method_of(case))


def stored(tuned: Tuned) -> dict[str, Tensor]:
    """Every tensor of the base, the constants of its packed weights included."""
    return {name: value.clone() for name, value in tuned.model.state_dict().items()}


def test_the_base_is_quantised_where_it_should_be():
    for form in FORMATS:
        names = packed_weights(bases.quantised(form))
        assert len(names) == 7 * bases.LAYERS
        assert not any("lm_head" in name or "embed" in name for name in names)
    assert set(TRAINS_WEIGHTS) | {name for _, name, _ in CASES} == set(METHODS)


@pytest.mark.parametrize("form", FORMATS)
def test_the_matrix_has_a_column_for_each_format(form):
    for name, row in matrix().items():
        outcome = row[form]
        if name in TRAINS_WEIGHTS:
            assert "quantised" in outcome["refused"]
        else:
            assert outcome["passed"] >= (6 if name == "frozen" else 11), name
            assert outcome["failed"] == 0, name


@pytest.mark.parametrize(
    "case", [(form, name, VARIANTS[name][0]) for form in FORMATS for name in TRAINS_WEIGHTS], ids=identify
)
def test_a_method_that_trains_packed_weights_is_refused_with_the_reason(case, record_property):
    model = bases.quantised(case[0])
    for refused in (attach, count):
        with pytest.raises(UserError, match=r"trains model\.layers\S+weight: a quantised weight is") as caught:
            refused(model, method_of(case))
    record_property("refused", caught.value.message.partition(": ")[2])
    attach(model, METHODS["frozen"]()).detach()


@pytest.mark.parametrize(
    ("family", "method", "trains"),
    [("llama", "head", r"lm_head\.weight"), ("llama_tied", "full", r"model\.embed_tokens\.weight")],
)
def test_a_method_that_trains_packed_ends_is_refused_with_the_reason(family, method, trains):
    for refused in (attach, count):
        with pytest.raises(UserError, match=f"trains {trains}: a quantised weight is"):
            refused(bases.quantised(WITH_ENDS, family), METHODS[method]())


@over_cases
def test_born_as_the_base_and_off_is_the_base_bit_for_bit(case):
    base = logits(bases.quantised(case[0]))
    tuned = attached(case)
    if not tuned.prefix_ids:
        tuned.model.eval()
        # what begins as a part of the weight and is taken off again leaves rounding
        tolerance = 1e-4 if case[2].get("init") == "pissa" else 0.0
        torch.testing.assert_close(logits(tuned.model), base, rtol=0, atol=tolerance)
    assert_off_is_the_base(tuned, base, least_effect=1e-3)


@over_cases
def test_acts_as_on_the_dequantised_weights(case):
    """The same values on a dense copy: the same logits, and the same gradients."""
    tuned = attached(case)
    randomise(tuned)
    dense = attach(dequantise(bases.quantised(case[0])), method_of(case))
    assert not packed_weights(dense.model)
    dense.load_state(tuned.state())
    found = []
    for each in (tuned, dense):
        each.model.train()
        torch.manual_seed(0)
        scores = bases.logits(each.model, IDS, each.prefix_ids)
        if case[1] != "frozen":
            scores.square().mean().backward()
        found.append((scores.detach(), {name: p.grad for name, p in each.trainable.items()}))
    (scores, gradients), (dense_scores, dense_gradients) = found
    torch.testing.assert_close(scores, dense_scores, rtol=1e-4, atol=1e-4)
    for name, gradient in gradients.items():
        torch.testing.assert_close(
            gradient, dense_gradients[name], rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n} {m}"
        )


@over_cases
def test_exactly_the_declared_tensors_get_gradients_behind_an_evaluation_too(case):
    tuned = attached(case)
    randomise(tuned)
    logits(tuned.model, tuned.prefix_ids)
    loss = bases.logits(tuned.model, IDS, tuned.prefix_ids).square().sum()
    if case[1] == "frozen":
        assert not loss.requires_grad
        return
    loss.backward()
    for name, parameter in tuned.trainable.items():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0 or "gate" in name, name
    assert_no_other_gradients(tuned)


@over_cases
def test_count_is_that_of_the_base_in_full_precision(case):
    tuned = attached(case)
    with torch.device("meta"):
        shell = bases.shell("llama")
    assert count(shell, method_of(case)) == tuned.n_trainable == count(tuned.detach(), method_of(case))


@over_trained_cases
def test_saved_and_loaded_bit_for_bit(case, tmp_path):
    tuned = attached(case)
    randomise(tuned)
    save_adapter(tuned, tmp_path / "adapter")
    assert read_card(tmp_path / "adapter")["base"]["quantise"] == case[0]
    fresh = load_adapter(bases.quantised(case[0]), tmp_path / "adapter")
    tuned.settle()
    assert_same(fresh.state(), tuned.state())
    assert torch.equal(logits(fresh.model, fresh.prefix_ids), logits(tuned.model, tuned.prefix_ids))
    with pytest.raises(UserError, match=f"was made for base llama in {case[0]}"):
        load_adapter(bases.build("llama", torch.float32), tmp_path / "adapter")


@over_trained_cases
def test_folding_into_packed_weights_is_refused_and_what_lies_beside_them_folds(case):
    tuned = attached(case)
    randomise(tuned)
    before, as_tuned = stored(tuned), logits(tuned.model, tuned.prefix_ids)
    if tuned.deltas:
        with pytest.raises(CannotFold, match=r"is quantised|no equivalent dense weight"):
            tuned.fold()
        with pytest.raises(CannotFold, match=r"is quantised|no equivalent dense weight"), tuned.folded():
            pass
    else:
        assert torch.equal(logits(tuned.fold()), as_tuned)
    assert_same(stored(tuned), before)
    assert torch.equal(logits(tuned.model, tuned.prefix_ids), as_tuned)


@over_cases
def test_detached_is_the_base_bit_for_bit(case):
    assert_detached_is_the_base(bases.quantised(case[0]), method_of(case))


@over_trained_cases
def test_gradient_checkpointing_changes_no_gradient(case):
    assert_checkpointing_changes_no_gradient(lambda: attached(case), rtol=1e-4, atol=1e-6)


@over_trained_cases
def test_learns_eight_examples_by_heart_and_the_base_does_not_move(case):
    tuned = attached(case)
    before = {name: value for name, value in stored(tuned).items() if f"base.{name}" not in tuned.trainable}
    ids = torch.randint(3, bases.VOCABULARY, (8, 6), generator=torch.Generator().manual_seed(5))
    optimiser = torch.optim.AdamW(tuned.trainable.values(), lr=2e-2, weight_decay=0.0)
    losses = []
    for _ in range(30):  # most are there after a few
        scores = bases.logits(tuned.model, ids, tuned.prefix_ids)
        loss = torch.nn.functional.cross_entropy(scores[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
        if losses[-1] < 0.95 * losses[0]:
            break
    assert losses[-1] < 0.95 * losses[0], (losses[0], losses[-1])
    assert_same({name: value for name, value in stored(tuned).items() if name in before}, before)


@over_cases
def test_generate_runs_and_equals_greedy_by_hand(case):
    assert_generates_as_by_hand(attached(case))


@over_trained_cases
def test_a_delta_acts_in_bfloat16_with_float32_parameters(case):
    assert_acts_in_bfloat16(attached(case, torch.bfloat16))
