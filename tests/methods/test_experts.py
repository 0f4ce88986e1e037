"""Methods on mixtures of experts: all that the contract promises, and LoRA on the experts by its closed form."""

import copy

import pytest
import torch
from torch import nn

from tests import bases
from tests.methods.promises import (
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
from tunewise.methods.alone import CannotShare
from tunewise.methods.arithmetic import change_of, combine, extract_lora
from tunewise.methods.attach import attach, count
from tunewise.methods.base import CannotFold
from tunewise.methods.lanes import Draws, Lanes, Part, Parts
from tunewise.methods.store import load_adapter, save_adapter
from tunewise.models.anatomy import read_anatomy
from tunewise.models.weights import dense_weight, set_dense_weight

EXPERTS = {"name": "lora", "rank": 3, "roles": ["experts"]}
VARIANTS = [
    EXPERTS,
    {"name": "lora", "rank": 2, "roles": ["q", "experts_down"], "layers": [-1], "rslora": True, "init": "gaussian"},
    {"name": "lora"},
    {"name": "full"},
    {"name": "bitfit", "add": True},
    {"name": "ia3"},
    {"name": "bottleneck", "bottleneck": 4, "placement": "houlsby"},
    {"name": "parallel", "bottleneck": 4},
    {"name": "prefix_tuning", "virtual_tokens": 3},
]
# both ways round, with shared experts beside and without; the other families are built as mixtral
CASES = [("qwen2_moe", fields) for fields in VARIANTS]
CASES += [("gpt_oss", VARIANTS[i]) for i in (0, 1, 4, 6)]
CASES += [("mixtral", EXPERTS), ("olmoe", VARIANTS[-1]), ("qwen3_moe", VARIANTS[-1]), ("granitemoe", EXPERTS)]
NO_WEIGHT = ("bottleneck", "parallel", "prefix_tuning", "bitfit")


def identify(case):
    return f"{case[0]}-{case[1]['name']}-{'+'.join(case[1].get('roles', []))}"


over_cases = pytest.mark.parametrize("case", CASES, ids=identify)


def attached(case, dtype=torch.float64):
    return attach(bases.build(case[0], dtype), parse_method(case[1]))


def moved(case, dtype=torch.float64):
    tuned = attached(case, dtype)
    randomise(tuned)
    return tuned


@pytest.mark.parametrize("family", bases.MIXTURES)
def test_every_method_acts_by_default(family):
    sizes = {"oft": {"block_size": 4}, "adalora": {"rank": 4, "target_rank": 2}, "sparse": {"by": "magnitude"},
             "bitfit": {"add": True}, "intrinsic": {"dimension": 20}, "top_layers": {"layers": 1},
             "llama_adapter": {"layers": 2}}  # fmt: skip
    with torch.device("meta"):
        shell = bases.shell(family)
    counts = {name: count(shell, parse_method({"name": name, **sizes.get(name, {})})) for name in METHODS}
    assert [name for name, n in counts.items() if n == 0] == ["frozen"]
    assert len(counts) >= 24


@over_cases
def test_off_is_the_base_and_no_other_tensor_gets_a_gradient(case):
    tuned = attached(case)
    base = logits(bases.build(case[0]))
    if case[1]["name"] != "prefix_tuning":
        torch.testing.assert_close(logits(tuned.model), base, rtol=0, atol=0)
    assert_off_is_the_base(tuned, base, least_effect=1e-6)
    bases.logits(tuned.model, torch.tensor([[5, 9, 33], [8, 8, 60]]), tuned.prefix_ids).square().sum().backward()
    assert all(parameter.grad is not None for parameter in tuned.trainable.values())
    assert_no_other_gradients(tuned)


@over_cases
def test_saved_and_loaded_bit_for_bit(case, tmp_path):
    tuned = moved(case, torch.float32)
    save_adapter(tuned, tmp_path / "adapter")
    fresh = load_adapter(bases.build(case[0], torch.float32), tmp_path / "adapter")
    assert fresh.method.configuration() == tuned.method.configuration()
    assert fresh.state().keys() == tuned.state().keys()
    assert all(torch.equal(value, fresh.state()[name]) for name, value in tuned.state().items())
    assert torch.equal(logits(fresh.model, fresh.prefix_ids), logits(tuned.model, tuned.prefix_ids))


@over_cases
def test_folded_equals_attached_and_is_unfolded_bit_for_bit(case):
    tuned = moved(case)
    before = {name: value.clone() for name, value in tuned.model.state_dict().items()}
    if case[1]["name"] in NO_WEIGHT and case != ("gpt_oss", {"name": "bitfit", "add": True}):  # all have biases
        with pytest.raises(CannotFold, match=r"no equivalent dense weight|no place"):
            tuned.fold()
        return
    for scale in (0.5, 1.0):
        tuned.scale = scale
        attached_logits = logits(tuned.model)
        torch.testing.assert_close(logits(tuned.fold()), attached_logits, rtol=0, atol=1e-10)
        with tuned.folded() as model:
            torch.testing.assert_close(logits(model), attached_logits, rtol=0, atol=1e-10)
    assert all(torch.equal(value, before[name]) for name, value in tuned.model.state_dict().items())


@pytest.mark.parametrize("family", ["mixtral", "gpt_oss"])
def test_gradients_at_a_lambda_are_those_of_the_folded_model(family):
    """What is computed again in the backward is what stood there in the forward."""
    tuned = moved((family, EXPERTS))
    tuned.scale = 0.5
    found = []
    for model in (tuned.model, tuned.fold()):
        embedded = model.get_input_embeddings()(torch.tensor([[5, 9, 33, 8]])).detach().requires_grad_()
        model(inputs_embeds=embedded).logits.square().sum().backward()
        found.append(embedded.grad)
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-9)


@over_cases
def test_detached_is_the_base_bit_for_bit(case):
    assert_detached_is_the_base(bases.build(case[0]), parse_method(case[1]))


@pytest.mark.parametrize("case", [CASES[0], CASES[7], CASES[9]], ids=identify)
def test_checkpointing_changes_no_gradient_and_generate_runs(case):
    assert_checkpointing_changes_no_gradient(lambda: attached(case), rtol=1e-9, atol=1e-12)
    assert_generates_as_by_hand(attached(case, torch.float32))


@pytest.mark.parametrize("family", bases.MIXTURES)
def test_lora_on_experts_is_a_low_rank_change_of_each(family):
    """W_e + (alpha / rank) B_e A_e, whose rows of A lie expert behind expert, and whose columns of B rank by rank."""
    tuned = moved((family, {**EXPERTS, "alpha": 5.0}))
    reference = bases.build(family)
    for site in read_anatomy(reference).find(["experts"], experts=True):
        state = tuned.deltas[site.name].state_dict()
        weight, _ = dense_weight(reference, site)
        for expert in range(4):
            a = state["lora_A"][3 * expert : 3 * expert + 3]
            b = torch.stack([state["lora_B"][:, 4 * column + expert] for column in range(3)], dim=1)
            weight[expert] += 5 / 3 * b @ a
        set_dense_weight(reference, site, weight)
    torch.testing.assert_close(logits(tuned.model), logits(reference), rtol=0, atol=1e-10)
    experts = tuned.anatomy.find(["experts"], experts=True)
    assert tuned.n_trainable == sum(4 * 3 * (site.d_in + site.d_out) for site in experts)


@pytest.mark.parametrize("family", ["qwen2_moe", "gpt_oss"])
def test_a_parallel_adapter_reads_what_enters_the_whole_mixture(family):
    tuned = moved((family, {"name": "parallel", "bottleneck": 4, "scale": 3.0}))
    found, state = logits(tuned.model), tuned.state()
    model = tuned.detach()
    for name in ("layers.0.mixture", "layers.1.mixture"):
        own = {key.removeprefix(f"delta.{name}."): value for key, value in state.items() if name in key}
        if own:
            model.get_submodule(tuned.site(name).module).register_forward_hook(_beside(own))
    if family == "qwen2_moe":  # whose first layer is dense
        own = {key.removeprefix("delta.layers.0.down."): value for key, value in state.items() if "0.down." in key}
        model.get_submodule("model.layers.0.mlp").register_forward_hook(_beside(own))
    torch.testing.assert_close(logits(model), found, rtol=0, atol=1e-11)


def _beside(own):
    def added(module, args, y):
        first = y[0] if isinstance(y, tuple) else y
        inner = nn.functional.relu(nn.functional.linear(args[0], own["down"], own["down_bias"]))
        made = first + 3 * nn.functional.linear(inner, own["up"], own["up_bias"])
        return (made, *y[1:]) if isinstance(y, tuple) else made

    return added


def test_a_module_of_experts_that_fails_has_its_own_weights_back():
    tuned = moved(("mixtral", EXPERTS))
    module = tuned.model.get_submodule("model.layers.1.mlp.experts")
    before = copy.deepcopy(dict(module.named_parameters()))

    class Fails(nn.Module):
        def forward(self, x):
            raise FloatingPointError

    module.act_fn = Fails()
    with pytest.raises(FloatingPointError):
        logits(tuned.model)
    for name, parameter in module.named_parameters():
        assert isinstance(parameter, nn.Parameter)
        assert torch.equal(parameter, before[name])


@pytest.mark.parametrize(("field", "value"), [("dropout", 0.1), ("init", "pissa")])
def test_what_lora_cannot_do_on_experts_is_told(field, value):
    with pytest.raises(UserError, match=f"method.{field}={value} is not to be had on experts_gate_up"):
        attached(("mixtral", {**EXPERTS, field: value}))


@pytest.mark.parametrize("name", ["dora", "adalora", "vera", "lokr", "oft", "ia3", "intrinsic"])
def test_other_methods_refuse_the_weights_of_experts(name):
    with pytest.raises(UserError, match="'experts' are the fused weights of experts, on which lora alone acts"):
        attached(("mixtral", {"name": name, "roles": ["experts"]}))


def test_changes_of_experts_are_added_up_and_are_no_one_lora():
    tuned = moved(("mixtral", EXPERTS))
    change = change_of(tuned)
    total = combine([change, change], [1.0, 2.0])
    for site in tuned.anatomy.find(["experts"], experts=True):
        assert change[site.name].shape == (4, site.d_out, site.d_in)
        torch.testing.assert_close(total[site.name], 3 * change[site.name])
    with pytest.raises(UserError, match="experts_gate_up is of many experts"):
        extract_lora(total, 4, tuned.anatomy)


@pytest.mark.parametrize("family", ["mixtral", "gpt_oss"])
def test_lanes_beside_each_other_and_who_cannot_be_one(family):
    """gpt_oss's mixtures say more than one tensor."""
    model = bases.build(family)
    ids = torch.tensor([[5, 9, 33, 20], [8, 8, 60, 12], [1, 2, 3, 4]])
    fields = [{"name": "lora", "rank": 2}, {"name": "parallel", "bottleneck": 4}, {"name": "norms"}]
    tuned, expected = [], []
    for number, each in enumerate(fields):
        one = attach(model, parse_method(each), seed=number)
        randomise(one)
        expected.append(model(ids[number : number + 1]).logits.detach())
        one.detach()
        tuned.append(one)
    draws = [Draws(0, model.device) for _ in tuned]
    with torch.no_grad(), Lanes(tuned, draws) as lanes, lanes.at(Parts(0, tuple(Part(i, 1, 1) for i in range(3)))):
        found = model(ids).logits
    torch.testing.assert_close(found, torch.cat(expected), rtol=0, atol=1e-11)
    for each in (EXPERTS, {"name": "top_layers", "layers": 1}):
        one = attach(model, parse_method(each))
        one.detach()
        with pytest.raises(CannotShare, match="is inside a mixture of experts"), Lanes([one], draws[:1]):
            pass
