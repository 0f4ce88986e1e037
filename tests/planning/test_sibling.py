"""The narrow sibling of a base: small whatever the base is, and packed where the base is."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests import bases, more_bases
from tunewise.engine.native.build import library
from tunewise.engine.packing import why_not_packed
from tunewise.models.families import FAMILIES
from tunewise.models.shapes import shape_named
from tunewise.planning.shell import shell_of
from tunewise.planning.sibling import narrow, sibling_of

LARGE = {
    "qwen3-30b-a3b": lambda: shape_named("qwen3-30b-a3b"),
    "gpt-oss-120b": lambda: shape_named("gpt-oss-120b"),
    "llama-3.1-405b": lambda: shape_named("llama-3.1-405b"),
    **{
        name: (lambda name=name: AutoConfig.for_model(name))
        for name in ("gemma3", "gemma4_text", "qwen3_5_text", "qwen2_moe")
    },
}
"""Of many experts, many layers, tables in every layer, and a tower that reads images."""


@pytest.mark.parametrize("name", LARGE)
def test_no_sibling_is_large(name):
    config = LARGE[name]()
    assert config.model_type in FAMILIES
    with torch.device("meta"):
        made = AutoModelForCausalLM.from_config(narrow(config))
    assert made.num_parameters() < 12e6
    assert made.config.get_text_config().num_hidden_layers == config.get_text_config().num_hidden_layers


@pytest.mark.skipif(library() is None, reason="no kernels here")
@pytest.mark.parametrize("name", ["llama", "ministral3", "lfm2", "qwen3_5_text", "mixtral", "gpt_oss"])
def test_a_sibling_runs_packed_where_the_base_does(name, tmp_path):
    """A convolution's whisper of the row before is to be heard there too; and a rotation keeps what else it is told."""
    module = more_bases if name in more_bases.MORE else bases
    model = module.build(name, torch.float32)
    model.config.save_pretrained(tmp_path)
    sibling = sibling_of(shell_of(str(tmp_path)))
    assert sibling is not None
    told = [why_not_packed(each) for each in (model, sibling)]
    assert told[0] == told[1]
