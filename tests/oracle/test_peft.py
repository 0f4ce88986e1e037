"""Hugging Face peft as the oracle: the same numbers from the same file, in both directions."""

import json

import peft
import pytest
import torch
from peft.optimizers import create_loraplus_optimizer
from safetensors.torch import load_file, save_file

from tests import bases
from tests.oracle.read_by_peft import IDS, read_by_peft
from tunewise.errors import UserError
from tunewise.methods import parse_method
from tunewise.methods.attach import attach
from tunewise.methods.store import load_adapter, save_adapter
from tunewise.models.anatomy import read_anatomy
from tunewise.training.optimiser import Optimiser

WHOLE = {"phi3": "qkv", "gpt2": "qkv", "gpt_neox": "qkv"}  # peft knows no slices of a fused module


def roles(family: str) -> list[str]:
    fused = WHOLE.get(family.removesuffix("_classes"))
    return [fused, "down"] if fused else ["q", "v", "down"]


def randomise(parameters) -> None:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in parameters:
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))


def leaf_names(family: str) -> list[str]:
    anatomy = read_anatomy(bases.build(family))
    return sorted({site.module.split(".", 3)[-1] for site in anatomy.find(roles(family))})


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("family", bases.CONFIGS)
def test_peft_reads_our_lora(family, rslora, tmp_path):
    method = parse_method({"name": "lora", "rank": 4, "alpha": 12, "rslora": rslora, "roles": roles(family)})
    tuned = attach(bases.build(family, torch.float32), method)
    randomise(tuned.trainable.values())
    theirs, logits, ours = read_by_peft(tuned, family, tmp_path / "adapter", moved=1e-3)

    ours.square().mean().backward()
    logits.square().mean().backward()
    gradients = {name: p.grad for name, p in theirs.named_parameters() if p.requires_grad}
    assert len(gradients) == len(tuned.trainable)
    stored = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    for name, parameter in tuned.trainable.items():
        key = next(k for k in stored if torch.equal(stored[k], parameter))
        module, _, rest = key.removeprefix("base_model.model.").partition(".")
        saved_whole = f"base_model.model.{module}.modules_to_save.default.{rest}"
        grad = gradients[key.replace(".weight", ".default.weight") if "lora_" in key else saved_whole]
        torch.testing.assert_close(grad, parameter.grad, rtol=1e-4, atol=1e-4, msg=name)


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("family", bases.CONFIGS)
def test_we_read_pefts_lora(family, rslora, tmp_path):
    config = peft.LoraConfig(
        **bases.peft_task(family),
        r=4,
        lora_alpha=12,
        use_rslora=rslora,
        target_modules=leaf_names(family),
        fan_in_fan_out=family.startswith("gpt2"),
    )
    theirs = peft.get_peft_model(bases.build(family, torch.float32), config)
    randomise(p for p in theirs.parameters() if p.requires_grad)
    theirs.eval().save_pretrained(tmp_path / "adapter")
    tuned = load_adapter(bases.build(family, torch.float32), tmp_path / "adapter")
    torch.testing.assert_close(bases.logits(tuned.model, IDS), bases.logits(theirs, IDS), rtol=0, atol=1e-5)
    assert set(tuned.method.roles) == set(roles(family))


def test_our_keys_and_configuration_are_those_peft_writes(tmp_path):
    theirs = peft.get_peft_model(
        bases.build("llama", torch.float32),
        peft.LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=12, target_modules=["q_proj", "v_proj"]),
    )
    theirs.save_pretrained(tmp_path / "theirs")
    tuned = attach(bases.build("llama", torch.float32), parse_method({"name": "lora", "rank": 4, "alpha": 12}))
    save_adapter(tuned, tmp_path / "ours")
    keys = [load_file(tmp_path / side / "adapter_model.safetensors").keys() for side in ("ours", "theirs")]
    assert keys[0] == keys[1]
    ours, reference = (json.loads((tmp_path / s / "adapter_config.json").read_text()) for s in ("ours", "theirs"))
    reference["target_modules"] = sorted(reference["target_modules"])
    ours.pop("base_model_name_or_path")
    for field, value in ours.items():
        assert reference[field] == value, field


SOFT = [
    "llama",
    "gpt2",
    "gemma3_text",
    "opt",
    "llama_classes",
    "bert_classes",
    "bert_tokens",
    "distilbert_classes",
    "t5",
]


@pytest.mark.parametrize("family", SOFT)
def test_prompt_tuning_both_ways(family, tmp_path):
    tuned = attach(bases.build(family, torch.float32), parse_method({"name": "prompt_tuning", "virtual_tokens": 3}))
    randomise(tuned.trainable.values())
    save_adapter(tuned, tmp_path / "ours")
    ours = bases.logits(tuned.model, IDS, tuned.prefix_ids)
    theirs = peft.PeftModel.from_pretrained(bases.build(family, torch.float32), tmp_path / "ours")
    torch.testing.assert_close(bases.logits(theirs, IDS), ours, rtol=0, atol=1e-5)
    theirs.save_pretrained(tmp_path / "theirs")
    back = load_adapter(bases.build(family, torch.float32), tmp_path / "theirs")
    assert torch.equal(back.state()["delta.embedding.prompt"], tuned.state()["delta.embedding.prompt"])


@pytest.mark.parametrize("rslora", [False, True])
def test_ranks_and_alphas_by_role_and_layer_both_ways(rslora, tmp_path):
    fields = {"rank": {"*": 4, "v": 6, "layers.1.q": 2}, "alpha": {"*": 12, "layers.0": 5}, "rslora": rslora}
    tuned = attach(bases.build("llama", torch.float32), parse_method({"name": "lora", **fields}))
    randomise(tuned.trainable.values())
    save_adapter(tuned, tmp_path / "ours")
    theirs = peft.PeftModel.from_pretrained(bases.build("llama", torch.float32), tmp_path / "ours")
    expected = tuned.model(IDS).logits
    torch.testing.assert_close(theirs(input_ids=IDS).logits, expected, rtol=0, atol=1e-5)
    theirs.save_pretrained(tmp_path / "theirs")
    back = load_adapter(bases.build("llama", torch.float32), tmp_path / "theirs")
    torch.testing.assert_close(back.model(IDS).logits, expected, rtol=0, atol=1e-5)
    assert [len(delta.lora_A) for delta in back.deltas.values()] == [4, 6, 2, 6]


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_starts_from_the_weight_are_pefts(start, rslora, tmp_path):
    """The same product B A at birth; trained by the same numbers, the same logits; saved, a LoRA that peft reads."""
    fields = {"rank": 4, "alpha": 6, "init": start, "rslora": rslora, "roles": ["q", "down"]}
    tuned = attach(bases.build("llama", torch.float32), parse_method({"name": "lora", **fields}))
    config = peft.LoraConfig(
        r=4, lora_alpha=6, init_lora_weights=start, use_rslora=rslora, target_modules=["q_proj", "down_proj"]
    )
    theirs = peft.get_peft_model(bases.build("llama", torch.float32), config)
    born = bases.build("llama", torch.float32)(IDS).logits
    torch.testing.assert_close(tuned.model(IDS).logits, born, rtol=0, atol=1e-5)
    for name, delta in tuned.deltas.items():
        layer = theirs.get_submodule(f"base_model.model.{tuned.site(name).module}")
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        torch.testing.assert_close(b @ a, delta.lora_B @ delta.lora_A, rtol=0, atol=1e-4)
        with torch.no_grad():
            delta.lora_A.add_(0.1), delta.lora_B.sub_(0.05)
            a.copy_(delta.lora_A), b.copy_(delta.lora_B)
    expected = theirs(input_ids=IDS).logits
    torch.testing.assert_close(tuned.model(IDS).logits, expected, rtol=0, atol=2e-4)
    save_adapter(tuned, tmp_path / "ours")
    plain = peft.PeftModel.from_pretrained(bases.build("llama", torch.float32), tmp_path / "ours")
    torch.testing.assert_close(plain(input_ids=IDS).logits, tuned.model(IDS).logits, rtol=0, atol=1e-5)
    assert json.loads((tmp_path / "ours" / "adapter_config.json").read_text())["r"] == 8


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert_classes"])
def test_the_start_from_the_inputs_is_pefts(family):
    """The same subspace at every site, by its principal angles; rank 16 of 32, where peft's randomised SVD is exact."""
    rows = torch.randint(3, 60, (16, 24), generator=torch.Generator().manual_seed(1))
    model = bases.build(family, torch.float32)
    method = parse_method({"name": "lora", "rank": 16, "init": "eva", "roles": roles(family)})
    tuned = attach(model, method, losses=lambda: (bases.logits(model, row[None]).sum() for row in rows))
    config = peft.LoraConfig(
        r=16,
        init_lora_weights="eva",
        eva_config=peft.EvaConfig(rho=1.0),  # every site keeps its rank
        target_modules=leaf_names(family),
        fan_in_fan_out=family == "gpt2",
    )
    theirs = peft.get_peft_model(bases.build(family, torch.float32), config, low_cpu_mem_usage=True)
    peft.initialize_lora_eva_weights(theirs, [{"input_ids": rows}], show_progress_bar=False)
    for name, delta in tuned.deltas.items():
        layer = theirs.get_submodule(f"base_model.model.{tuned.site(name).module}")
        a = layer.lora_A["default"].weight
        cosines = torch.linalg.svdvals((a @ delta.lora_A.T).double().detach())
        assert cosines.min() > 1 - 1e-4, name
        torch.testing.assert_close(a.norm(dim=1), delta.lora_A.norm(dim=1), rtol=0, atol=1e-5)
        assert not layer.lora_B["default"].weight.any()
    assert len(tuned.deltas) >= 4


def test_we_read_what_peft_started_from_inputs(tmp_path):
    """With peft's own default, which gives ranks to the sites whose inputs vary most."""
    rows = torch.randint(3, 60, (16, 24), generator=torch.Generator().manual_seed(1))
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=4, init_lora_weights="eva", target_modules=["q_proj", "v_proj"])
    theirs = peft.get_peft_model(bases.build("llama", torch.float32), config, low_cpu_mem_usage=True)
    peft.initialize_lora_eva_weights(theirs, [{"input_ids": rows}], show_progress_bar=False)
    randomise(p for p in theirs.parameters() if p.requires_grad)
    theirs.save_pretrained(tmp_path / "theirs")
    tuned = load_adapter(bases.build("llama", torch.float32), tmp_path / "theirs")
    torch.testing.assert_close(tuned.model(IDS).logits, theirs(input_ids=IDS).logits, rtol=0, atol=1e-5)
    ranks = [len(delta.lora_A) for delta in tuned.deltas.values()]
    assert sum(ranks) == 4 * len(ranks)


def test_lora_plus_groups_are_pefts():
    tuned = attach(bases.build("llama", torch.float32), parse_method({"name": "lora", "b_rate": 16}))
    optimiser = Optimiser(tuned.trainable, factor=tuned.method.learning_rate_factor)
    for tensor in tuned.trainable.values():
        tensor.grad = torch.ones_like(tensor)
    before = {name: tensor.detach().clone() for name, tensor in tuned.trainable.items()}
    optimiser.gradient_norm(None)
    optimiser.step(1e-3)
    steps = {name: float((before[name] - tensor).abs().mean()) for name, tensor in tuned.trainable.items()}
    theirs = peft.get_peft_model(
        bases.build("llama", torch.float32), peft.LoraConfig(r=8, target_modules=["q_proj", "v_proj"])
    )
    groups = create_loraplus_optimizer(theirs, torch.optim.AdamW, lr=1e-3, loraplus_lr_ratio=16).param_groups
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    for name, parameter in theirs.named_parameters():
        if parameter.requires_grad:
            kind = "lora_B" if "lora_B" in name else "lora_A"
            for ours, step in steps.items():
                if ours.endswith(kind):
                    assert step == pytest.approx(rates[id(parameter)], rel=1e-3)


def test_layers_are_kept_apart_by_whole_paths(tmp_path):
    method = parse_method({"name": "lora", "rank": 4, "roles": ["q"], "layers": [1]})
    tuned = attach(bases.build("llama", torch.float32), method)
    randomise(tuned.trainable.values())
    save_adapter(tuned, tmp_path / "adapter")
    theirs = peft.PeftModel.from_pretrained(bases.build("llama", torch.float32), tmp_path / "adapter")
    torch.testing.assert_close(theirs(input_ids=IDS).logits, tuned.model(IDS).logits, rtol=0, atol=1e-5)
    assert sum("lora_A" in name for name, _ in theirs.named_parameters()) == 1


def test_a_slice_stays_ours_alone(tmp_path):
    tuned = attach(bases.build("gpt2", torch.float32), parse_method({"name": "lora", "rank": 4, "roles": ["q"]}))
    save_adapter(tuned, tmp_path / "adapter")
    assert not (tmp_path / "adapter" / "adapter_config.json").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modules_to_save": ["lm_head"]}, "sets modules_to_save="),
        ({"init_lora_weights": "pissa"}, "changes the base's weights too"),
        ({"rank_pattern": {"q_pr.*": 2}}, "patterns of strangers are not run"),
        ({"peft_type": "BOFT"}, "has no counterpart here yet"),
        ({"a_field_from_the_future": 3}, "sets a_field_from_the_future=3"),
    ],
)
def test_what_we_cannot_express_is_refused_by_name(change, message, tmp_path):
    theirs = peft.get_peft_model(
        bases.build("llama", torch.float32), peft.LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj"])
    )
    theirs.save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError, match=message):
        load_adapter(bases.build("llama", torch.float32), tmp_path)


def test_a_pattern_of_modules_is_not_run_but_read_off_the_tensors(tmp_path):
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=r".*\.(q|down)_proj")
    theirs = peft.get_peft_model(bases.build("llama", torch.float32), config)
    randomise(parameter for name, parameter in theirs.named_parameters() if "lora_" in name)
    theirs.save_pretrained(tmp_path)
    tuned = load_adapter(bases.build("llama", torch.float32), tmp_path)
    assert set(tuned.method.roles) == {"q", "down"}
    torch.testing.assert_close(tuned.model(IDS).logits, theirs(input_ids=IDS).logits, rtol=0, atol=1e-5)


def test_a_prefix_that_a_network_wrote_is_read(tmp_path):
    config = peft.PrefixTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=3, prefix_projection=True, encoder_hidden_size=8
    )
    theirs = peft.get_peft_model(bases.build("llama", torch.float32), config).eval()
    theirs.save_pretrained(tmp_path)
    tuned = load_adapter(bases.build("llama", torch.float32), tmp_path)
    ids = torch.cat([torch.tensor([tuned.prefix_ids]).expand(len(IDS), -1), IDS], dim=1)
    ours = tuned.model(ids).logits[:, len(tuned.prefix_ids) :]
    torch.testing.assert_close(ours, theirs(input_ids=IDS).logits, rtol=0, atol=1e-5)
    assert (ours - bases.build("llama", torch.float32)(IDS).logits).abs().max() > 1e-3


def test_lora_on_the_embedding_says_what_to_do(tmp_path):
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "embed_tokens"])
    peft.get_peft_model(bases.build("llama", torch.float32), config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="is of the embedding, which LORA does not change here"):
        load_adapter(bases.build("llama", torch.float32), tmp_path)


def test_an_adapter_for_other_modules_or_sizes_is_refused(tmp_path):
    theirs = peft.get_peft_model(
        bases.build("llama", torch.float32), peft.LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj"])
    )
    theirs.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="belongs to no site of this base"):
        load_adapter(bases.build("gpt2", torch.float32), tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    save_file({k: v[:, :-1].contiguous() for k, v in tensors.items()}, tmp_path / "adapter_model.safetensors")
    model = bases.build("llama", torch.float32)
    with pytest.raises(UserError, match="has shape"):
        load_adapter(model, tmp_path)
    attach(model, parse_method("frozen"))  # the failed load left nothing attached
