"""peft's `target_parameters` as the oracle of LoRA on experts: one file, the same logits and gradients, both ways."""

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch.profiler import ProfilerActivity, profile
from transformers import MixtralConfig, MixtralForCausalLM

from tests import bases
from tests.oracle.read_by_peft import IDS, read_by_peft
from tests.oracle.test_peft import randomise
from tests.planning.test_rehearsal import peak_of
from tunewise.methods import parse_method
from tunewise.methods.attach import attach
from tunewise.methods.store import load_adapter

TENSORS = "adapter_model.safetensors"
CASES = [(family, ["experts"]) for family in bases.MIXTURES]
CASES += [("qwen2_moe", ["q", "v"]), ("gpt_oss", ["q", "experts_down"])]


@pytest.mark.parametrize(("family", "roles"), CASES, ids=lambda each: each if isinstance(each, str) else "+".join(each))
def test_peft_reads_our_file_and_we_read_pefts(family, roles, tmp_path):
    ranks = {"*": 4, "layers.1": 2}
    method = parse_method({"name": "lora", "rank": ranks, "alpha": 12, "roles": roles, "rslora": True})
    tuned = attach(bases.build(family, torch.float32), method)
    randomise(tuned.trainable.values())
    model, theirs, ours = read_by_peft(tuned, family, tmp_path / "ours", moved=1e-2)

    ours.square().mean().backward()
    theirs.square().mean().backward()
    gradients = {name.replace(".default", ""): p.grad for name, p in model.named_parameters() if p.requires_grad}
    stored = load_file(tmp_path / "ours" / TENSORS)
    assert gradients.keys() == stored.keys()
    for name, parameter in tuned.trainable.items():
        key = next(key for key, tensor in stored.items() if torch.equal(tensor, parameter))
        torch.testing.assert_close(gradients[key], parameter.grad, rtol=1e-4, atol=1e-4, msg=name)

    model.save_pretrained(tmp_path / "theirs")
    assert load_file(tmp_path / "theirs" / TENSORS).keys() == stored.keys()
    again = load_adapter(bases.build(family, torch.float32), tmp_path / "theirs")
    assert again.deltas.keys() == tuned.deltas.keys()
    torch.testing.assert_close(bases.logits(again.model, IDS), ours, rtol=0, atol=1e-5)


def test_a_step_holds_less_than_in_peft():
    """There the changed weights of every layer are kept for the backward."""
    shape = {**bases.MIXTURES["mixtral"], "hidden_size": 128, "intermediate_size": 256, "num_local_experts": 8}
    config = MixtralConfig(**shape | {"num_hidden_layers": 6})
    targets = ["experts.gate_up_proj", "experts.down_proj"]
    ours = attach(MixtralForCausalLM(config), parse_method({"name": "lora", "roles": ["experts"]})).model
    theirs = peft.get_peft_model(
        MixtralForCausalLM(config), peft.LoraConfig(target_modules=[], target_parameters=targets)
    )
    peaks = []
    for model in (ours, theirs):
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
            model(input_ids=IDS, labels=IDS, use_cache=False).loss.backward()
        peaks.append(peak_of(profiled))
    assert 0 < peaks[0] < peaks[1] / 2


def test_short_names_of_parameters_are_read_as_peft_reads_them(tmp_path):
    config = peft.LoraConfig(
        task_type="CAUSAL_LM", r=4, target_modules=["q_proj"],
        target_parameters=["experts.down_proj", "mlp.experts.gate_up_proj"],
    )  # fmt: skip
    model = peft.get_peft_model(bases.build("mixtral", torch.float32), config)
    randomise(p for p in model.parameters() if p.requires_grad)
    model.eval().save_pretrained(tmp_path / "theirs")
    tuned = load_adapter(bases.build("mixtral", torch.float32), tmp_path / "theirs")
    assert set(tuned.method.roles) == {"q", "experts_gate_up", "experts_down"}
    torch.testing.assert_close(bases.logits(tuned.model, IDS), bases.logits(model, IDS), rtol=0, atol=1e-5)
    merged = bases.logits(model.merge_and_unload(), IDS)
    torch.testing.assert_close(bases.logits(tuned.fold(), IDS), merged, rtol=0, atol=1e-5)
