"""AdapterHub's library as the oracle: the logits that it computed with the adapters in `adapterhub/`."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel

from tunewise.errors import UserError
from tunewise.methods.store import load_adapter, save_adapter

HERE = Path(__file__).with_name("adapterhub")
READ: dict[tuple[str, str], dict[str, object]] = {
    ("bert", "houlsby"): {"name": "bottleneck", "bottleneck": 2, "placement": "houlsby", "activation": "silu"},
    ("bert", "houlsby_without_a_head"): {"name": "bottleneck", "placement": "houlsby"},
    ("bert", "behind_feed_forward"): {"name": "bottleneck", "placement": "pfeiffer", "layers": [1]},
    ("bert", "parallel"): {"name": "parallel", "bottleneck": 2, "scale": 4.0, "activation": "relu"},
    ("bert", "lora"): {"name": "lora", "rank": 4, "alpha": 12.0},
    ("bert", "lora_before_1_1"): {"name": "lora", "rank": 4, "alpha": 4.0},
    ("distilbert", "houlsby"): {"name": "bottleneck", "placement": "houlsby", "activation": "gelu"},
    ("distilbert", "parallel"): {"name": "parallel"},
    ("distilbert", "lora"): {"name": "lora", "roles": ["q", "v"], "layers": None},
    ("llama", "houlsby"): {"name": "bottleneck", "placement": "houlsby"},
    ("llama", "lora"): {"name": "lora", "layers": [0]},
    ("gpt2", "houlsby"): {"name": "bottleneck", "placement": "houlsby"},
    ("gpt2", "lora"): {"name": "lora", "roles": ["up", "down"]},
}


def base(family: str) -> PreTrainedModel:
    auto = AutoModelForCausalLM if family in ("llama", "gpt2") else AutoModelForSequenceClassification
    return auto.from_pretrained(HERE / family / "base").eval()


@torch.no_grad()
def logits(model: PreTrainedModel, family: str) -> torch.Tensor:
    return model(load_file(HERE / family / "logits.safetensors")["ids"]).logits


@pytest.mark.parametrize(("family", "name"), READ)
def test_we_read_what_it_wrote(family, name, tmp_path):
    expected, model = load_file(HERE / family / "logits.safetensors"), base(family)
    torch.testing.assert_close(logits(model, family), expected["base"], rtol=0, atol=1e-5)
    tuned = load_adapter(model, HERE / family / name)
    torch.testing.assert_close(logits(model, family), expected[name], rtol=0, atol=1e-5)
    assert (expected[name] - expected["base"]).abs().max() > 1e-2
    assert READ[family, name].items() <= tuned.method.configuration().items()
    save_adapter(tuned, tmp_path / "ours")
    again = base(family)
    load_adapter(again, tmp_path / "ours")
    torch.testing.assert_close(logits(again, family), expected[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "name", "message"),
    [
        ("bert", "pfeiffer", "sets original_ln_before=True"),
        ("llama", "parallel", "reads what enters the norm before the feed-forward part"),
        ("gpt2", "fused", r"h\.0\.attn\.c_attn\.loras\.fused\.lora_A' has no counterpart in this base"),
    ],
)
def test_what_computes_something_else_is_refused(family, name, message):
    model = base(family)
    with pytest.raises(UserError, match=message):
        load_adapter(model, HERE / family / name)
    expected = load_file(HERE / family / "logits.safetensors")["base"]
    torch.testing.assert_close(logits(model, family), expected, rtol=0, atol=1e-5)


def changed(folder: Path, family: str, name: str, change: dict[str, object] | None = None) -> Path:
    """A copy of an adapter whose configuration says something else, or without a field where the change is None."""
    shutil.copytree(HERE / family / name, folder, dirs_exist_ok=True)
    path = folder / "adapter_config.json"
    card = json.loads(path.read_text())
    for field, value in (change or {}).items():
        where = card if field in ("model_type", "name", "version") else card["config"]
        where[field] = value
        if value is None:
            del where[field]
    path.write_text(json.dumps(card))
    return folder


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("houlsby", {"original_ln_after": False}, "sets original_ln_after=False"),
        ("houlsby", {"ln_before": True}, "sets ln_before=True"),
        ("houlsby", {"ln_after": True}, "sets ln_after=True"),
        ("houlsby", {"scaling": 2.0}, "sets scaling=2.0"),
        ("parallel", {"scaling": "learned"}, "sets scaling='learned'"),
        ("houlsby", {"is_parallel": True}, "behind down, o are no method here"),
        ("houlsby", {"inv_adapter": "nice"}, "sets inv_adapter='nice'"),
        ("houlsby", {"phm_layer": True}, "sets phm_layer=True"),
        ("houlsby", {"use_gating": True}, "sets use_gating=True"),
        ("houlsby", {"non_linearity": "gelu_new"}, "adapters with gelu_new"),
        ("houlsby", {"non_linearity": "gelu", "version": None}, "adapters with gelu_new"),
        ("houlsby", {"architecture": "prefix_tuning"}, "sets architecture='prefix_tuning'"),
        ("houlsby", {"a_field_from_the_future": 3}, "sets a_field_from_the_future=3"),
        ("houlsby", {"name": "another"}, "has no counterpart in this base"),
        ("houlsby", {"model_type": "roberta"}, "made for a roberta model, this one is bert"),
        ("lora", {"composition_mode": "scale"}, "sets composition_mode='scale'"),
        ("lora", {"use_dora": True}, "sets use_dora=True"),
        ("lora", {"vera_d": 0.1}, "sets vera_d=0.1"),
        ("lora", {"r": None}, "rank"),
    ],
)
def test_a_field_that_changes_the_equation_is_refused_by_name(name, change, message, tmp_path):
    with pytest.raises(UserError, match=message):
        load_adapter(base("bert"), changed(tmp_path, "bert", name, change))


def test_a_pickle_is_refused_and_told_how_to_save_again(tmp_path):
    folder = changed(tmp_path, "bert", "houlsby")
    (folder / "adapter.safetensors").rename(folder / "pytorch_adapter.bin")
    with pytest.raises(UserError, match=r"pytorch_adapter\.bin is a pickle, which can run code") as caught:
        load_adapter(base("bert"), folder)
    assert "save_adapter(folder, name, use_safetensors=True)" in caught.value.hint


def test_a_head_that_is_not_the_bases_is_refused(tmp_path):
    folder = changed(tmp_path, "llama", "houlsby")
    head = load_file(folder / "model_head.safetensors")
    save_file({name: tensor + 1 for name, tensor in head.items()}, folder / "model_head.safetensors")
    with pytest.raises(UserError, match=r"holds a lm_head\.weight that is not this base's"):
        load_adapter(base("llama"), folder)


def test_adapters_of_different_widths_are_refused(tmp_path):
    folder = changed(tmp_path, "llama", "houlsby")
    tensors = load_file(folder / "adapter.safetensors")
    key = "model.layers.0.output_adapters.adapters.houlsby.adapter_down.0.bias"
    save_file({**tensors, key: torch.zeros(5)}, folder / "adapter.safetensors")
    with pytest.raises(UserError, match=r"of widths \[2, 5\]"):
        load_adapter(base("llama"), folder)
