"""What every method promises on every kind of model: the protocol of `methods/`, method by family."""

import pytest
import torch

from tests import bases
from tests.methods.promises import (
    IDS,
    assert_acts_in_bfloat16,
    assert_checkpointing_changes_no_gradient,
    assert_detached_is_the_base,
    assert_generates_as_by_hand,
    assert_no_other_gradients,
    assert_off_is_the_base,
    logits,
    randomise,
)
from tunewise.errors import UserError
from tunewise.methods import METHODS, parse_method
from tunewise.methods.attach import Tuned, attach, count
from tunewise.methods.base import CannotFold, Delta, Method
from tunewise.methods.matrix import COLUMNS, matrix
from tunewise.methods.selective.bitfit import AddedBias
from tunewise.methods.store import TENSORS, load_adapter, save_adapter
from tunewise.models import families
from tunewise.models.anatomy import read_anatomy

# One or more configurations a method: the registry must not hold a method that is missing here.
VARIANTS: dict[str, list[dict]] = {
    "frozen": [{}],
    "full": [{}],
    "top_layers": [{"layers": 1}],
    "bitfit": [{"add": True}, {"roles": ["v", "down"], "layers": [-1]}],
    "lora": [
        {"rank": 4},
        {"rank": 2, "roles": ["all"], "rslora": True, "init": "gaussian"},
        {"rank": 3, "roles": ["attention"], "layers": [-1], "dropout": 0.5},
        {"rank": {"*": 2, "layers.1": 3}, "init": "pissa", "roles": ["v", "down"]},
    ],
    "bottleneck": [{"bottleneck": 4}, {"bottleneck": 3, "placement": "houlsby", "activation": "gelu"}],
    "compacter": [{"bottleneck": 4, "n": 2}],
    "parallel": [{"bottleneck": 4}],
    "head": [{}],
    "norms": [{}],
    "sparse": [{"by": "magnitude", "density": 0.02}, {"by": "random", "density": 0.05, "roles": ["v", "down"]}],
    "dora": [{"rank": 3}],
    "adalora": [{"rank": 4, "target_rank": 2}],
    "intrinsic": [{"dimension": 60}, {"dimension": 20, "projection": "dense", "structure_aware": False}],
    "vera": [{"rank": 8, "roles": ["all"]}],
    "ia3": [{}, {"roles": ["attention", "mlp"], "layers": [0]}],
    "lokr": [{"rank": 2}, {"rank": 16, "factor": 4, "roles": ["down"]}],
    "oft": [{"block_size": 4}, {"block_size": 8, "neumann_terms": 0, "roles": ["all"]}],
    "llama_adapter": [{"virtual_tokens": 3}, {"virtual_tokens": 2, "layers": 2}],
    "mam": [{"virtual_tokens": 2, "bottleneck": 4}],
    "prompt_tuning": [{"virtual_tokens": 3}, {"virtual_tokens": 2, "init": "random"}],
    "p_tuning": [{"virtual_tokens": 3, "hidden": 8}, {"virtual_tokens": 2, "hidden": 4, "encoder": "lstm"}],
    "multitask_prompt": [{"virtual_tokens": 3}, {"virtual_tokens": 2, "tasks": 3, "task": 1, "rank": 2}],
    "prefix_tuning": [{"virtual_tokens": 3}, {"virtual_tokens": 2, "hidden": 8, "init": "random"}],
}
EVERY_VARIANT = ("llama", "gpt2", "gpt_neox")  # whole sites, transposed ones, interleaved slices; elsewhere the first
# every method where models are built differently; where they are built alike, those that meet what differs
EVERY_METHOD = (*EVERY_VARIANT, "phi3", "qwen3", "llama_classes", "bert_classes", "t5_gated", "vit_images")
MEETS_DIFFERENCES = (
    "full", "bitfit", "norms", "head", "lora", "ia3", "bottleneck", "parallel", "prompt_tuning", "prefix_tuning",
)  # fmt: skip
ANATOMIES = {family: read_anatomy(bases.build(family)) for family in bases.CONFIGS}
KINDS = {family: anatomy.kind for family, anatomy in ANATOMIES.items()}


def why_not(family: str, name: str) -> str | None:
    """The reason for which the method refuses this model."""
    reasons = METHODS[name].not_on
    return reasons.get(KINDS[family]) or reasons.get(ANATOMIES[family].model_type)


CASES = [
    (family, name, fields)
    for family in bases.CONFIGS
    for name, variants in VARIANTS.items()
    for fields in (variants if family in EVERY_VARIANT else variants[:1])
    if not why_not(family, name) and (family in EVERY_METHOD or name in MEETS_DIFFERENCES)
]
CASES += [(family, "prefix_tuning", {"virtual_tokens": 2, "placement": "decoder"}) for family in ("t5_gated", "bart")]
REFUSED = [(family, name) for family in bases.CONFIGS for name in VARIANTS if why_not(family, name)]
BORN_AS_ANOTHER = ("prompt_tuning", "p_tuning", "multitask_prompt", "prefix_tuning", "mam")
TRAINED_CASES = [case for case in CASES if case[1] != "frozen"]


def identify(case: tuple[str, str, dict]) -> str:
    family, name, fields = case
    return "-".join([family, name, *(f"{key}={value}" for key, value in fields.items())])


over_cases = pytest.mark.parametrize("case", CASES, ids=identify)
over_trained_cases = pytest.mark.parametrize("case", TRAINED_CASES, ids=identify)


def method_of(case: tuple[str, str, dict]) -> Method:
    return parse_method({"name": case[1], **case[2]})


def attached(case: tuple[str, str, dict], dtype: torch.dtype = torch.float64) -> Tuned:
    return attach(bases.build(case[0], dtype), method_of(case))


def foldable(tuned: Tuned) -> bool:
    """Whether the method changes weights alone, as its deltas' own `fold` tells, and no tied matrix."""
    folds = [type(delta).fold is not Delta.fold for delta in tuned.deltas.values()]
    tied = {"head", "embedding"} & set(tuned.deltas) and tuned.anatomy.head_is_tied
    return all(folds) and not tied and not _adds_a_bias(tuned)


def _adds_a_bias(tuned: Tuned) -> bool:
    """Whether a bias stands where the base has none to fold it into."""
    added = [name for name, delta in tuned.deltas.items() if isinstance(delta, AddedBias)]
    return any(not tuned.site(name).has_bias for name in added)


def test_every_method_of_the_registry_has_cases_here():
    assert set(VARIANTS) == set(METHODS)
    assert len(bases.DECODERS) >= 11
    assert len(bases.OTHERS) >= 14
    assert set(KINDS.values()) == set(families.KINDS)
    assert len(CASES) >= 380


def test_the_matrix_tells_of_every_method_on_every_kind():
    """Written by an earlier run of this file with --write-matrix; a method that is new has to be put there."""
    for name, row in matrix().items():
        assert tuple(row) == COLUMNS
        for kind, outcome in row.items():
            if "refused" not in outcome and kind in families.KINDS:
                assert outcome["passed"] >= (8 if name == "frozen" else 10), (name, kind)
                assert outcome["failed"] == 0, (name, kind)


@pytest.mark.parametrize(("family", "name"), REFUSED)
def test_a_kind_of_model_that_it_does_not_act_on_is_refused_with_the_reason(family, name):
    model, method = bases.build(family), parse_method({"name": name, **VARIANTS[name][0]})
    for refused in (attach, count):
        with pytest.raises(UserError, match=f"{name} does not act on") as caught:
            refused(model, method)
        assert why_not(family, name) in caught.value.message
    assert logits(model).isfinite().all()


@over_cases
def test_born_as_the_base_and_off_is_the_base_bit_for_bit(case):
    base = logits(bases.build(case[0]))
    tuned = attached(case)
    assert not tuned.prefix_ids or case[1] in BORN_AS_ANOTHER
    if case[1] not in BORN_AS_ANOTHER:
        tuned.model.eval()
        # what begins as a part of the weight and is taken off again leaves rounding
        tolerance = 1e-10 if case[2].get("init") == "pissa" else 0.0
        torch.testing.assert_close(logits(tuned.model), base, rtol=0, atol=tolerance)
    assert_off_is_the_base(tuned, base, least_effect=1e-6)


@pytest.mark.parametrize("case", [case for case in CASES if "virtual_tokens" not in case[2]], ids=identify)
def test_the_dial_lies_between_base_and_tuned(case):
    base = bases.build(case[0])
    tuned = attached(case)
    randomise(tuned)
    full = {name: value.clone() for name, value in tuned.state().items()}
    tuned.scale = 0.25
    for name, parameter in tuned.selected.items():
        start = base.get_parameter(name)
        torch.testing.assert_close(parameter, start + 0.25 * (full[f"base.{name}"] - start))
    for name, value in tuned.state().items():
        assert torch.equal(value, full[name]), "state is the tuned one at every scale"
    tuned.scale = 1.0
    for name, parameter in tuned.trainable.items():
        assert torch.equal(parameter, full[name])


@over_cases
def test_exactly_the_declared_tensors_get_gradients(case):
    tuned = attached(case)
    randomise(tuned)
    loss = bases.logits(tuned.model, IDS, tuned.prefix_ids).square().sum()
    if case[1] == "frozen":
        assert not loss.requires_grad
        return
    loss.backward()
    for name, parameter in tuned.trainable.items():
        assert parameter.grad is not None or name.endswith("mask_token"), name  # it stands for what pretraining hides
    assert_no_other_gradients(tuned)


@over_cases
def test_count_on_meta_is_the_real_count(case):
    tuned = attached(case)
    with torch.device("meta"):
        shell = bases.shell(case[0])
    assert count(shell, method_of(case)) == tuned.n_trainable == sum(p.numel() for p in tuned.trainable.values())
    assert tuned.n_trainable <= sum(tensor.numel() for tensor in tuned.state().values())
    assert tuned.n_trainable > 0 or case[1] == "frozen"


@over_trained_cases
def test_saved_and_loaded_bit_for_bit(case, tmp_path):
    tuned = attached(case, torch.float32)
    randomise(tuned)
    save_adapter(tuned, tmp_path / "adapter")
    assert tuned.trainable.keys() <= tuned.state().keys(), "a save leaves the encoders alone"
    fresh = load_adapter(bases.build(case[0], torch.float32), tmp_path / "adapter")
    tuned.settle()
    assert fresh.method.configuration() == tuned.method.configuration()
    assert fresh.state().keys() == tuned.state().keys()
    for name, value in tuned.state().items():
        assert torch.equal(fresh.state()[name], value), name
    assert torch.equal(logits(fresh.model, fresh.prefix_ids), logits(tuned.model, tuned.prefix_ids))
    save_adapter(fresh, tmp_path / "again")
    first, again = ((tmp_path / side / TENSORS).read_bytes() for side in ("adapter", "again"))
    assert first == again


@over_cases
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_folded_equals_attached_or_refuses_with_the_reason(case, scale):
    tuned = attached(case)
    randomise(tuned)
    tuned.scale = scale
    before = {name: value.clone() for name, value in tuned.model.state_dict().items()}
    if not foldable(tuned):
        with pytest.raises(CannotFold, match=r"no equivalent dense weight|no place|tied"):
            tuned.fold()
        return
    folded = tuned.fold()
    torch.testing.assert_close(logits(folded), logits(tuned.model), rtol=0, atol=1e-10)
    assert folded.state_dict().keys() == before.keys()
    for name, value in tuned.model.state_dict().items():
        assert torch.equal(value, before[name]), "folding leaves the attached model alone"


@over_cases
def test_folded_in_place_acts_without_hooks_and_is_unfolded_bit_for_bit(case):
    tuned = attached(case)
    randomise(tuned)
    before = {name: value.clone() for name, value in tuned.model.state_dict().items()}
    attached_logits = logits(tuned.model, tuned.prefix_ids)
    if foldable(tuned):
        with tuned.folded() as model:
            torch.testing.assert_close(logits(model), attached_logits, rtol=0, atol=1e-10)
            moved = any(not torch.equal(value, before[name]) for name, value in model.state_dict().items())
            assert moved == bool(tuned.deltas)
    else:
        with pytest.raises(CannotFold, match=r"no equivalent dense weight|no place|tied"), tuned.folded():
            pass
    for name, value in tuned.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert torch.equal(logits(tuned.model, tuned.prefix_ids), attached_logits)


@over_cases
def test_detached_is_the_base_bit_for_bit(case):
    assert_detached_is_the_base(bases.build(case[0]), method_of(case))


@over_cases
def test_a_first_method_leaves_nothing_behind_for_a_second(case):
    model = bases.build(case[0])
    first = attach(model, method_of(case))
    randomise(first)
    with pytest.raises(UserError, match="already carries"):
        attach(model, METHODS["frozen"]())
    first.detach()
    second = attach(model, parse_method({"name": "lora", "rank": 2, "roles": ["v"]}), seed=3)
    alone = attach(bases.build(case[0]), parse_method({"name": "lora", "rank": 2, "roles": ["v"]}), seed=3)
    for tuned in (second, alone):
        randomise(tuned)
    assert second.state().keys() == alone.state().keys()
    assert torch.equal(logits(second.model), logits(alone.model))


@over_trained_cases
def test_gradient_checkpointing_changes_no_gradient(case):
    assert_checkpointing_changes_no_gradient(lambda: attached(case), rtol=1e-9, atol=1e-12)


@over_trained_cases
def test_learns_eight_examples_by_heart(case):
    """The loss on eight fixed sequences, or their fixed classes, falls by what the method's size allows."""
    tuned = attached(case, torch.float32)
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(3, bases.VOCABULARY, (8, 6), generator=generator)
    n_classes = bases.LABELS if tuned.anatomy.head is None else bases.VOCABULARY
    classes = torch.randint(n_classes, (8, 6), generator=generator)
    optimiser = torch.optim.AdamW(tuned.trainable.values(), lr=2e-2, weight_decay=0.0)
    writes_on = KINDS[case[0]] == families.DECODER and tuned.anatomy.head is not None
    bar = {"full": 0.2, "top_layers": 0.5}.get(case[1], 0.95) if writes_on else {"full": 0.85}.get(case[1], 0.98)
    losses = []
    for _ in range(30):  # most are there after a few
        scores = bases.logits(tuned.model, ids, tuned.prefix_ids)
        if KINDS[case[0]] == families.DECODER and scores.dim() == 3:
            loss = torch.nn.functional.cross_entropy(scores[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        elif scores.dim() == 3:
            loss = torch.nn.functional.cross_entropy(scores.flatten(0, 1), classes[:, : scores.shape[1]].flatten())
        else:
            loss = torch.nn.functional.cross_entropy(scores, classes[:, 0])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
        if losses[-1] < bar * losses[0]:
            break
    assert losses[-1] < bar * losses[0], (losses[0], losses[-1])


@pytest.mark.parametrize("case", [case for case in CASES if ANATOMIES[case[0]].head], ids=identify)
def test_generate_runs_and_equals_greedy_by_hand(case):
    assert_generates_as_by_hand(attached(case, torch.float32))


@pytest.mark.parametrize("name", [n for n in VARIANTS if n != "frozen"])
def test_a_delta_acts_in_bfloat16_with_float32_parameters(name):
    assert_acts_in_bfloat16(attached(("llama", name, VARIANTS[name][0]), torch.bfloat16))


@pytest.mark.parametrize("family", bases.DECODERS)
def test_counts_are_the_papers_closed_forms(family):
    model = bases.build(family)
    anatomy = read_anatomy(model)
    d, layers, r = anatomy.d_model, anatomy.n_layers, 4
    d_kv = next(site.d_out for site in anatomy.sites if site.role == "v")
    d_q = next(site.d_out for site in anatomy.sites if site.role == "q")
    expected = {
        # LoRA, section 4.1: r (d_in + d_out) a matrix
        ("lora", "rank"): layers * r * ((d + d_q) + (d + d_kv)),
        # Houlsby et al., section 2.1: 2md + d + m an adapter, two a layer
        ("bottleneck", "bottleneck"): layers * 2 * (2 * r * d + d + r),
        # Lester et al., section 2: p e
        ("prompt_tuning", "virtual_tokens"): r * d,
    }
    for (name, size), n in expected.items():
        extra = {"placement": "houlsby"} if name == "bottleneck" else {}
        assert count(model, parse_method({"name": name, size: r, **extra})) == n, name
    assert count(model, METHODS["full"]()) == sum(p.numel() for p in model.parameters())
    assert count(model, METHODS["frozen"]()) == 0
    biases = sum(p.numel() for name, p in model.named_parameters() if name.endswith(".bias"))
    if biases:
        assert count(model, METHODS["bitfit"]()) == biases
    else:
        with pytest.raises(UserError, match="0 biases"):
            count(model, METHODS["bitfit"]())
