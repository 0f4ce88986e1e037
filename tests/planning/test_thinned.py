"""Which layers of a deep model compute while it is thinned."""

import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM

from tunewise.models.anatomy import read_anatomy
from tunewise.planning.thinned import thinned

SMALL = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 2}
DEEP = {**SMALL, "num_hidden_layers": 10, "vocab_size": 32, "head_dim": 8}


def computed(model, alike=None):
    """The layers whose attention is called in a forward, of all or of a thinned model; and what comes out."""
    anatomy, seen = read_anatomy(model), []
    layers = [model.get_submodule(path) for path in anatomy.layers]
    handles = [
        layer.self_attn.register_forward_hook(lambda *_, number=number: seen.append(number))
        for number, layer in enumerate(layers)
    ]
    with thinned(model, anatomy, alike or [range(10)]), torch.no_grad():
        logits = model(input_ids=torch.arange(6)[None]).logits
    for handle in handles:
        handle.remove()
    assert not any("forward" in vars(layer) or layer._forward_hooks for layer in layers)
    return seen, logits


def test_of_layers_that_are_alike_the_first_two_and_the_last_ones_compute():
    model = LlamaForCausalLM(LlamaConfig(**DEEP)).eval()
    seen, logits = computed(model)
    assert seen == [0, 1, 8, 9]
    shallow = LlamaForCausalLM(LlamaConfig(**{**DEEP, "num_hidden_layers": 4})).eval()
    shallow.load_state_dict(
        {
            name.replace("layers.8.", "layers.2.").replace("layers.9.", "layers.3."): value
            for name, value in model.state_dict().items()
            if not any(f"layers.{number}." in name for number in range(2, 8))
        }
    )
    with torch.no_grad():
        assert torch.equal(shallow(input_ids=torch.arange(6)[None]).logits, logits)
        whole = model(input_ids=torch.arange(6)[None]).logits
    assert not torch.equal(whole, logits)


@pytest.mark.parametrize(
    ("alike", "seen"), [([range(8)], [0, 1, 6, 7, 8, 9]), ([range(7), range(7, 10)], [0, 1, 5, 6, 7, 8, 9])]
)
def test_layers_of_no_long_range_compute(alike, seen):
    assert computed(LlamaForCausalLM(LlamaConfig(**DEEP)).eval(), alike)[0] == seen


def test_layers_of_unlike_settings_compute():
    model = Gemma2ForCausalLM(Gemma2Config(**DEEP, sliding_window=4)).eval()
    assert computed(model)[0] == list(range(10))
