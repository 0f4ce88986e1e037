"""Each method's equation, against a plain float64 reference, and what it refuses."""

import math

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests import bases
from tunewise.errors import UserError
from tunewise.methods import METHODS, parse_method
from tunewise.methods.attach import attach
from tunewise.methods.base import Delta, Method

IDS = torch.tensor([[5, 9, 33, 20, 7]])


def double(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def delta_of(method: Method, role: str = "") -> Delta:
    tuned = attach(bases.build("llama"), method)
    return next(delta for name, delta in tuned.deltas.items() if name.endswith(role))


@pytest.mark.parametrize("rslora", [False, True])
def test_lora_equation(rslora):
    delta = delta_of(parse_method({"name": "lora", "rank": 4, "alpha": 6, "rslora": rslora}), ".q")
    delta.lora_B.data.normal_()
    x, y = double(3, 32), double(3, 32)
    scaling = 6 / math.sqrt(4) if rslora else 6 / 4
    expected = y + scaling * (delta.lora_B @ (delta.lora_A @ x.T)).T
    torch.testing.assert_close(delta.after(x, y), expected, rtol=0, atol=1e-12)


def test_lora_dropout_acts_in_training_only_and_keeps_the_mean():
    delta = delta_of(parse_method({"name": "lora", "rank": 4, "dropout": 0.5}), ".q")
    delta.lora_B.data.normal_()
    x, y = double(1, 32), torch.zeros(1, 32, dtype=torch.float64)
    delta.eval()
    still = delta.after(x, y)
    assert torch.equal(still, delta.after(x, y))
    delta.train()
    samples = torch.stack([delta.after(x, y) for _ in range(4000)])
    assert samples.std(0).min() > 0
    spread = float(samples.std(0).max().detach())
    torch.testing.assert_close(samples.mean(0), still, rtol=0, atol=5 * spread / 4000**0.5)


def test_lora_starts():
    kaiming = delta_of(parse_method({"name": "lora", "rank": 16}), ".q").lora_A
    assert kaiming.abs().max() <= 1 / math.sqrt(32)  # Kaiming-uniform with a = √5 is uniform in ±1/√d_in
    gaussian = delta_of(parse_method({"name": "lora", "rank": 16, "init": "gaussian"}), ".q").lora_A
    assert gaussian.std().item() == pytest.approx(1 / 16, rel=0.15)
    assert gaussian.abs().max() > 2 / 16


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu"])
def test_bottleneck_equation(activation):
    delta = delta_of(parse_method({"name": "bottleneck", "bottleneck": 4, "activation": activation}))
    for parameter in delta.parameters():
        parameter.data.normal_()
    y = double(3, 32)
    f = {"relu": torch.relu, "gelu": torch.nn.GELU(), "silu": torch.nn.SiLU()}[activation]
    expected = y + f(y @ delta.down.T + delta.down_bias) @ delta.up.T + delta.up_bias
    torch.testing.assert_close(delta.after(double(3, 48), y), expected, rtol=0, atol=1e-12)


def test_bottleneck_placements():
    houlsby = attach(bases.build("gpt2"), parse_method({"name": "bottleneck", "placement": "houlsby"}))
    assert sorted(houlsby.deltas) == ["layers.0.down", "layers.0.o", "layers.1.down", "layers.1.o"]
    pfeiffer = attach(bases.build("gpt2"), parse_method({"name": "bottleneck", "layers": [-1]}))
    assert list(pfeiffer.deltas) == ["layers.1.down"]


def test_bitfit_adds_only_where_there_is_none():
    tuned = attach(bases.build("qwen2"), parse_method({"name": "bitfit", "add": True}))
    assert all(name.endswith((".q_proj.bias", ".k_proj.bias", ".v_proj.bias")) for name in tuned.selected)
    assert {name.rsplit(".", 1)[1] for name in tuned.deltas} == {"o", "gate", "up", "down"}


def test_top_layers_are_the_top_and_the_final_norm():
    tuned = attach(bases.build("llama"), parse_method({"name": "top_layers", "layers": 1}))
    assert all(name.startswith(("model.layers.1.", "model.norm.")) for name in tuned.selected)
    assert "model.norm.weight" in tuned.selected
    with pytest.raises(UserError, match="this base has 2 layers"):
        attach(bases.build("llama"), parse_method({"name": "top_layers", "layers": 3}))


@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3_text", "gpt2", "opt"])
def test_a_soft_prompt_is_inputs_embeds(family):
    """Virtual tokens equal learned vectors put before the embedded input, gradients included."""
    tuned = attach(bases.build(family), parse_method({"name": "prompt_tuning", "virtual_tokens": 3, "init": "random"}))
    (delta,) = tuned.deltas.values()
    logits = tuned.model(torch.cat([torch.tensor([tuned.prefix_ids]), IDS], 1), use_cache=False).logits
    logits.square().sum().backward()
    plain = bases.build(family)
    prompt = delta.prompt.detach().clone().requires_grad_(True)
    embedded = torch.cat([prompt[None], plain.get_input_embeddings()(IDS)], 1)
    expected = plain(inputs_embeds=embedded, use_cache=False).logits
    expected.square().sum().backward()
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(delta.prompt.grad, prompt.grad, rtol=1e-10, atol=1e-12)


def test_a_soft_prompt_starts_where_it_is_told():
    words = {word: index for index, word in enumerate(["<pad>", "<s>", "</s>", "good", "or", "bad"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="or"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")
    fields = {"name": "prompt_tuning", "virtual_tokens": 4, "init": "text", "text": "good or bad"}
    model = bases.build("llama")
    rows = model.get_input_embeddings().weight
    prompt = next(iter(attach(model, parse_method(fields), tokenizer=tokenizer).deltas.values())).prompt
    assert torch.equal(prompt, rows[[3, 4, 5, 3]])
    with pytest.raises(UserError, match="needs a tokenizer"):
        attach(bases.build("llama"), parse_method(fields))
    model = bases.build("llama")
    drawn = next(iter(attach(model, parse_method("prompt_tuning"), seed=4).deltas.values())).prompt
    rows = model.get_input_embeddings().weight
    assert all(any(torch.equal(vector, row) for row in rows) for vector in drawn)


def test_peft_field_names_are_aliases():
    lora = parse_method({"name": "lora", "r": 4, "lora_alpha": 8, "lora_dropout": 0.1, "use_rslora": True})
    assert lora == parse_method({"name": "lora", "rank": 4, "alpha": 8, "dropout": 0.1, "rslora": True})
    assert parse_method({"name": "prompt_tuning", "num_virtual_tokens": 5}).virtual_tokens == 5


@pytest.mark.parametrize(
    ("data", "message", "hint"),
    [
        ("lroa", "no method named 'lroa'", "lora"),
        ({"name": "lora", "rnak": 4}, "rnak", "rank"),
        ({"name": "lora", "rank": 0}, "rank", ""),
        ({"rank": 4}, "needs a name", "method.name=lora"),
        ({"name": "prompt_tuning", "init": "text"}, "text", ""),
    ],
)
def test_a_method_that_is_none_is_named(data, message, hint):
    with pytest.raises(UserError) as caught:
        parse_method(data)
    assert message in str(caught.value)
    assert hint in str(caught.value)


def test_every_method_is_documented():
    for name, method in METHODS.items():
        assert method.name == name
        assert method.family in ("baseline", "full", "selective", "reparametrising", "additive")
        assert method.paper.startswith("arXiv:")
        assert "" not in (method.equation, method.trains, method.learning_rate_source, method.__doc__)
        assert len(method.model_fields) <= 8
        assert method.learning_rate > 0 or name == "frozen"
        assert parse_method(method().configuration() if name != "bitfit" else {"name": name}).name == name
    assert len(METHODS) >= 7
