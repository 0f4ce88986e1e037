"""Every method that peft has too: the same numbers from the same file, in both directions, and the same gradients."""

import json
from dataclasses import dataclass, field

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import T5Config, T5ForConditionalGeneration

from tests import bases
from tunewise.errors import UserError
from tunewise.methods import METHODS, parse_method
from tunewise.methods.attach import Tuned, attach
from tunewise.methods.store import load_adapter, save_adapter
from tunewise.models.anatomy import read_anatomy

IDS = torch.tensor([[5, 9, 33, 20, 7, 41, 3], [8, 8, 60, 12, 50, 6, 11]])
FAMILIES = ("llama", "gpt2", "opt", "qwen3", "gpt_neox")
OTHERS = ("llama_classes", "bert_classes", "deberta-v2_classes", "bert_tokens", "t5_gated", "bart", "vit_images")
EVERYWHERE = FAMILIES + OTHERS
LINEAR = tuple(family for family in EVERYWHERE if family != "gpt2")  # peft has no such on its transposed layers
WHOLE = {"gpt2": "qkv", "gpt_neox": "qkv"}  # peft knows no slices of a fused module


@dataclass(frozen=True)
class Peer:
    """One method as both sides configure it."""

    name: str
    ours: dict[str, object]
    config: type[peft.PeftConfig]
    theirs: dict[str, object]
    families: tuple[str, ...] = EVERYWHERE
    at_sites: bool = True
    soft: bool = False
    differing: frozenset[str] = field(default_factory=frozenset)  # fields whose values are of equal meaning
    has_tasks: bool = False  # peft wants to be told the task of each row


PEERS = [
    Peer("dora", {"rank": 4, "alpha": 12}, peft.LoraConfig, {"r": 4, "lora_alpha": 12, "use_dora": True}),
    Peer(
        "adalora",
        {"rank": 6, "target_rank": 3, "alpha": 12},
        peft.AdaLoraConfig,
        {"init_r": 6, "target_r": 3, "lora_alpha": 12, "total_step": 10},
        differing=frozenset({"total_step"}),
    ),
    Peer("vera", {"rank": 8}, peft.VeraConfig, {"r": 8}),
    Peer("ia3", {}, peft.IA3Config, {}, differing=frozenset({"feedforward_modules"})),
    Peer("lokr", {"rank": 2, "alpha": 6}, peft.LoKrConfig, {"r": 2, "alpha": 6}, LINEAR),
    Peer("lokr", {"rank": 3, "factor": 4}, peft.LoKrConfig, {"r": 3, "decompose_factor": 4}, ("llama",)),
    Peer("oft", {"block_size": 8}, peft.OFTConfig, {"oft_block_size": 8, "r": 0}, LINEAR),
    Peer(
        "oft",
        {"block_size": 4, "neumann_terms": 0},
        peft.OFTConfig,
        {"oft_block_size": 4, "r": 0, "use_cayley_neumann": False},
        ("llama",),
    ),
    Peer("bitfit", {}, peft.BeftConfig, {}, LINEAR),
    Peer("norms", {}, peft.LNTuningConfig, {}, at_sites=False),
    Peer(
        "prefix_tuning",
        {"virtual_tokens": 3},
        peft.PrefixTuningConfig,
        {"num_virtual_tokens": 3},
        (*FAMILIES, "gemma2", "bert_classes", "bert_tokens", "roberta_classes"),
        at_sites=False,
        soft=True,
    ),
    Peer(
        "prefix_tuning",
        {"virtual_tokens": 3, "placement": "decoder"},
        peft.PrefixTuningConfig,
        {"num_virtual_tokens": 3},
        ("t5", "t5_gated", "mt5", "bart"),
        at_sites=False,
        soft=True,
    ),
    Peer(
        "p_tuning",
        {"virtual_tokens": 3},
        peft.PromptEncoderConfig,
        {"num_virtual_tokens": 3, "num_transformer_submodules": 1},
        (*FAMILIES, "llama_classes", "bert_classes", "bert_tokens", "t5_gated"),
        at_sites=False,
        soft=True,
    ),
    Peer(
        "multitask_prompt",
        {"virtual_tokens": 3, "tasks": 2, "rank": 2},
        peft.MultitaskPromptTuningConfig,
        {"num_virtual_tokens": 3, "num_tasks": 2, "num_ranks": 2, "num_transformer_submodules": 1},
        FAMILIES,
        at_sites=False,
        soft=True,
        has_tasks=True,
    ),
]
CASES = [(peer, family) for peer in PEERS for family in peer.families]
over_cases = pytest.mark.parametrize(
    ("peer", "family"), CASES, ids=[f"{family}-{peer.name}-{len(peer.ours)}" for peer, family in CASES]
)


def roles(family: str) -> list[str]:
    return [WHOLE[family], "down"] if family in WHOLE else ["q", "v", "down"]


def ours(peer: Peer, family: str) -> Tuned:
    where = {"roles": roles(family)} if peer.at_sites else {}
    return attach(bases.build(family, torch.float32), parse_method({"name": peer.name, **peer.ours, **where}))


def theirs(peer: Peer, family: str) -> peft.PeftModel:
    model = bases.build(family, torch.float32)
    anatomy = read_anatomy(model)
    where: dict[str, object] = {}
    if peer.at_sites:
        modules = [site.module for site in anatomy.find(roles(family))]
        where["target_modules"] = sorted({module.split(".", 3)[-1] for module in modules})
        if peer.config in (peft.LoraConfig, peft.AdaLoraConfig, peft.VeraConfig, peft.IA3Config, peft.OFTConfig):
            where["fan_in_fan_out"] = family == "gpt2"
    elif peer.name == "norms":
        where["target_modules"] = sorted({path.rsplit(".", 1)[-1] for path in anatomy.norms})
    if peer.config is peft.IA3Config:
        inner = [site.module for site in anatomy.find(["down"])]
        where["feedforward_modules"] = sorted({module.split(".", 3)[-1] for module in inner})
    return peft.get_peft_model(model, peer.config(**bases.peft_task(family), **peer.theirs, **where))


def randomise(parameters) -> None:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def our_logits(tuned: Tuned) -> torch.Tensor:
    return bases.logits(tuned.model, IDS, tuned.prefix_ids)


def their_logits(peer: Peer, model: peft.PeftModel) -> torch.Tensor:
    if peer.has_tasks:
        return model(IDS, task_ids=torch.zeros(len(IDS), dtype=torch.long)).logits[:, -IDS.shape[1] :]
    return bases.logits(model, IDS)


@over_cases
def test_peft_reads_ours(peer, family, tmp_path):
    tuned = ours(peer, family)
    randomise(tuned.trainable.values())
    save_adapter(tuned, tmp_path / "adapter")
    tuned.settle()
    expected = our_logits(tuned)
    model = peft.PeftModel.from_pretrained(
        bases.build(family, torch.float32), tmp_path / "adapter", is_trainable=not peer.soft
    )
    found = their_logits(peer, model.eval())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert (found - bases.logits(bases.build(family, torch.float32), IDS)).abs().max() > 1e-3
    if peer.soft:  # peft trains no prompt that it has loaded
        return
    expected.square().mean().backward()
    found.square().mean().backward()
    sums = [
        sorted(float(p.grad.abs().sum()) for p in parameters if p.grad is not None)
        for parameters in (tuned.trainable.values(), model.parameters())
    ]
    assert len(sums[0]) == len(tuned.trainable)
    assert sums[1] == pytest.approx(sums[0], rel=1e-3, abs=1e-4)


@over_cases
def test_we_read_pefts(peer, family, tmp_path):
    model = theirs(peer, family)
    randomise(p for p in model.parameters() if p.requires_grad)
    model.eval().save_pretrained(tmp_path / "adapter")
    tuned = load_adapter(bases.build(family, torch.float32), tmp_path / "adapter")
    torch.testing.assert_close(our_logits(tuned), their_logits(peer, model), rtol=1e-5, atol=1e-5)
    assert tuned.method.name == peer.name


@over_cases
def test_keys_and_fields_are_those_peft_writes(peer, family, tmp_path):
    theirs(peer, family).save_pretrained(tmp_path / "theirs")
    save_adapter(ours(peer, family), tmp_path / "ours")
    keys = [set(load_file(tmp_path / side / "adapter_model.safetensors")) for side in ("ours", "theirs")]
    assert keys[0] == keys[1]
    found, reference = (
        json.loads((tmp_path / side / "adapter_config.json").read_text()) for side in ("ours", "theirs")
    )
    found.pop("base_model_name_or_path")
    for name, value in found.items():
        if name not in peer.differing | {"target_modules", "modules_to_save"}:
            assert reference[name] == value, name


@pytest.mark.parametrize("family", ["llama_classes", "llama_tokens"])
def test_a_prefix_under_a_classifier_on_a_decoder_is_pefts_both_ways(family, tmp_path, monkeypatch):
    """A tagger hands no cache on, from which the prefix could be read."""
    tags = {**bases.CONFIGS["llama"], "num_labels": bases.LABELS}
    monkeypatch.setattr(bases, "CONFIGS", {**bases.CONFIGS, "llama_tokens": tags})
    peer = next(peer for peer in PEERS if peer.name == "prefix_tuning")
    test_peft_reads_ours(peer, family, tmp_path / "ours")
    test_we_read_pefts(peer, family, tmp_path / "theirs")


INSIDE = ("bert_classes", "bert_tokens", "roberta_classes", "t5", "t5_gated", "mt5", "bart")


@pytest.mark.parametrize("family", INSIDE)
def test_a_prefix_inside_gets_the_gradients_that_it_gets_in_peft(family, tmp_path):
    peer = next(p for p in PEERS if p.name == "prefix_tuning" and family in p.families)
    model = theirs(peer, family)
    randomise(p for p in model.parameters() if p.requires_grad)
    model.eval().save_pretrained(tmp_path / "adapter")
    tuned = load_adapter(bases.build(family, torch.float32), tmp_path / "adapter")
    for logits in (our_logits(tuned), their_logits(peer, model)):
        logits.square().mean().backward()
    table = tuned.trainable.get("shared.values")
    values = [tuned.trainable[f"delta.{site.name}.values"] for site in tuned.anatomy.find(["k", "v"]) if table is None]
    found = torch.cat([value.grad for value in values], dim=1) if table is None else table.grad
    expected = model.prompt_encoder["default"].embedding.weight.grad
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert (expected.abs().sum(dim=0) > 0).sum() >= expected.shape[1] // 2
    for name in tuned.anatomy.task_head:
        top, _, rest = name.partition(".")
        whole = model.get_parameter(f"base_model.{top}.modules_to_save.default.{rest}")
        torch.testing.assert_close(tuned.trainable[f"base.{name}"].grad, whole.grad, rtol=1e-4, atol=1e-4)


def stacks(n_encoder: int, n_decoder: int) -> T5ForConditionalGeneration:
    """A small T5 of this depth."""
    shape = {**bases.CONFIGS["t5"], "num_layers": n_encoder, "num_decoder_layers": n_decoder}
    torch.manual_seed(0)
    model = T5ForConditionalGeneration(T5Config(**shape))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


@pytest.mark.parametrize("depth", [(3, 3), (4, 4), (4, 3), (1, 1)])
def test_decoders_of_every_depth_read_the_rows_that_peft_reads(depth, tmp_path):
    config = peft.PrefixTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=2)
    model = peft.get_peft_model(stacks(*depth), config)
    randomise(p for p in model.parameters() if p.requires_grad)
    model.eval().save_pretrained(tmp_path / "theirs")
    tuned = load_adapter(stacks(*depth), tmp_path / "theirs")
    torch.testing.assert_close(our_logits(tuned), bases.logits(model, IDS), rtol=0, atol=1e-5)
    save_adapter(tuned, tmp_path / "ours")
    again = peft.PeftModel.from_pretrained(stacks(*depth), tmp_path / "ours")
    torch.testing.assert_close(bases.logits(again, IDS), our_logits(tuned), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("build", "placement"),
    [
        (lambda: stacks(2, 3), "decoder"),
        (lambda: stacks(2, 2), "everywhere"),
        (lambda: bases.build("distilbert_classes", torch.float32), "everywhere"),
    ],
)
def test_a_prefix_that_peft_cannot_run_is_not_written_in_its_format(build, placement, tmp_path):
    method = parse_method({"name": "prefix_tuning", "virtual_tokens": 2, "placement": placement})
    tuned = attach(build(), method)
    randomise(tuned.trainable.values())
    save_adapter(tuned, tmp_path / "adapter")
    assert not (tmp_path / "adapter" / "adapter_config.json").exists()
    assert torch.equal(our_logits(load_adapter(build(), tmp_path / "adapter")), our_logits(tuned))


@pytest.mark.parametrize(
    ("family", "task"), [("llama", "CAUSAL_LM"), ("bert_classes", "SEQ_CLS"), ("t5", "SEQ_2_SEQ_LM")]
)
def test_a_prefix_of_a_base_of_another_size_is_refused(family, task, tmp_path):
    config = peft.PrefixTuningConfig(task_type=task, num_virtual_tokens=2, num_layers=3)
    peft.get_peft_model(bases.build(family, torch.float32), config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="prompt_embeddings has shape"):
        load_adapter(bases.build(family, torch.float32), tmp_path)


def test_a_prefix_of_another_kind_of_model_is_refused(tmp_path):
    config = peft.PrefixTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=2, num_transformer_submodules=1)
    peft.get_peft_model(bases.build("t5", torch.float32), config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="num_transformer_submodules=1"):
        load_adapter(bases.build("t5", torch.float32), tmp_path)


def test_adalora_cuts_what_peft_cuts():
    """Thirty steps side by side from the same start: the same triplets are left, and the logits are the same."""
    n_steps = 30
    method = parse_method({"name": "adalora", "rank": 6, "target_rank": 2, "alpha": 12, "roles": ["q", "v", "down"]})
    tuned = attach(bases.build("llama", torch.float32), method)
    first, final = int(method.warm_up * n_steps), int(method.final * n_steps)
    config = peft.AdaLoraConfig(
        task_type="CAUSAL_LM", init_r=6, target_r=2, lora_alpha=12, tinit=first, tfinal=final, deltaT=10,
        total_step=n_steps, orth_reg_weight=0.5, target_modules=["q_proj", "v_proj", "down_proj"],
    )  # fmt: skip
    model = peft.get_peft_model(bases.build("llama", torch.float32), config)
    for name, parameter in tuned.trainable.items():
        _, _, layer, role, part = name.split(".")
        module = f"model.layers.{layer}.{'mlp' if role == 'down' else 'self_attn'}.{role}_proj"
        theirs_there = model.get_submodule(f"base_model.model.{module}").get_submodule(part)["default"]
        with torch.no_grad():
            theirs_there.copy_(parameter)
    ours_optimiser = torch.optim.AdamW(tuned.trainable.values(), lr=5e-3, weight_decay=0.0)
    theirs_optimiser = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=5e-3, weight_decay=0.0)
    for step in range(1, n_steps + 1):
        tuned.model(IDS, labels=IDS, use_cache=False).loss.backward()
        method.penalty(tuned.deltas).backward()
        ours_optimiser.step()
        method.after_step(tuned.deltas, step, n_steps)
        ours_optimiser.zero_grad()
        model(input_ids=IDS, labels=IDS, use_cache=False).loss.backward()
        theirs_optimiser.step()
        model.base_model.update_and_allocate(step)
        theirs_optimiser.zero_grad()
    values = {name: p for name, p in model.named_parameters() if "lora_E" in name}
    left = sorted(int((p != 0).sum()) for p in values.values())
    assert sum(left) == 2 * len(values)
    assert len(set(left)) > 1, "the budget went where it was needed"
    assert sorted(int((delta.lora_E != 0).sum()) for delta in tuned.deltas.values()) == left
    torch.testing.assert_close(our_logits(tuned), bases.logits(model.eval(), IDS), rtol=0, atol=1e-4)


def cut_by_peft(family: str, n_steps: int = 12) -> peft.PeftModel:
    """An adapter that peft has trained and cut: 8 triplets a site at the start, 2 on average at the end."""
    config = peft.AdaLoraConfig(
        **bases.peft_task(family), init_r=8, target_r=2, lora_alpha=12, tinit=1, tfinal=2, deltaT=2,
        total_step=n_steps, target_modules=LEAVES[family], fan_in_fan_out=family == "gpt2",
    )  # fmt: skip
    model = peft.get_peft_model(bases.build(family, torch.float32), config)
    randomise(p for p in model.parameters() if p.requires_grad)
    optimiser = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=5e-3)
    for step in range(1, n_steps + 1):
        bases.logits(model, IDS).square().mean().backward()
        optimiser.step()
        model.base_model.update_and_allocate(step)
        optimiser.zero_grad()
    return model.eval()


LEAVES = {"llama": ["q_proj", "v_proj"], "gpt2": ["attn.c_attn", "mlp.c_proj"], "bert_classes": ["query", "value"]}


@pytest.mark.parametrize("family", LEAVES)
def test_what_peft_has_cut_is_read_whole_and_read_again(family, tmp_path):
    """peft's file holds the kept triplets alone, ours all of them, with zeros, which peft reads without a list."""
    model = cut_by_peft(family)
    expected = bases.logits(model, IDS)
    model.save_pretrained(tmp_path / "theirs")
    pattern = json.loads((tmp_path / "theirs" / "adapter_config.json").read_text())["rank_pattern"]
    kept = [sum(is_kept) for is_kept in pattern.values()]
    assert sum(kept) == 2 * len(kept)
    assert len(set(kept)) > 1
    stored = load_file(tmp_path / "theirs" / "adapter_model.safetensors")
    assert sorted(len(tensor) for key, tensor in stored.items() if key.endswith("lora_E")) == sorted(kept)
    tuned = load_adapter(bases.build(family, torch.float32), tmp_path / "theirs")
    torch.testing.assert_close(our_logits(tuned), expected, rtol=0, atol=1e-5)
    assert (expected - bases.logits(bases.build(family, torch.float32), IDS)).abs().max() > 1e-3
    assert sorted(int((delta.lora_E != 0).sum()) for delta in tuned.deltas.values()) == sorted(kept)
    assert {len(delta.lora_E) for delta in tuned.deltas.values()} == {8}
    save_adapter(tuned, tmp_path / "ours")
    back = peft.PeftModel.from_pretrained(bases.build(family, torch.float32), tmp_path / "ours")
    torch.testing.assert_close(bases.logits(back.eval(), IDS), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("lie", ["of another rank", "of other triplets", "of no module"])
def test_a_list_of_kept_triplets_that_lies_is_refused(lie, tmp_path):
    cut_by_peft("llama").save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    config = json.loads(path.read_text())
    key, is_kept = next(iter(config["rank_pattern"].items()))
    changed = {"of another rank": [*is_kept, False], "of other triplets": [not kept for kept in is_kept]}
    config["rank_pattern"] |= {"model.nowhere.lora_E" if lie == "of no module" else key: changed.get(lie, is_kept)}
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match="rank_pattern keeps"):
        load_adapter(bases.build("llama", torch.float32), tmp_path)


def test_every_method_that_names_peft_is_held_against_it():
    elsewhere = {"lora", "prompt_tuning"}  # test_peft.py
    assert {name for name, method in METHODS.items() if method.peft} == elsewhere | {peer.name for peer in PEERS}


@pytest.mark.parametrize(
    ("config", "change", "message"),
    [
        (peft.VeraConfig(r=4, save_projection=False), {}, "sets save_projection=False"),
        (peft.OFTConfig(oft_block_size=4, r=0, coft=True), {}, "sets coft=True"),
        (peft.LoKrConfig(r=2, decompose_both=True), {}, "sets decompose_both=True"),
        (peft.IA3Config(feedforward_modules=[]), {"feedforward_modules": ".*down"}, "by a pattern"),
    ],
)
def test_what_we_cannot_express_is_refused_by_name(config, change, message, tmp_path):
    config.task_type, config.target_modules = "CAUSAL_LM", ["q_proj"]
    peft.get_peft_model(bases.build("llama", torch.float32), config).save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError, match=message):
        load_adapter(bases.build("llama", torch.float32), tmp_path)
