"""Trainable parameters that papers and model cards print, reproduced on the meta device from configurations alone."""

import pytest
import torch
import transformers
from transformers import PreTrainedConfig, PreTrainedModel

from tunewise.methods import parse_method
from tunewise.methods.attach import count
from tunewise.models.anatomy import read_anatomy

FLAN_T5_XXL = transformers.T5Config(
    vocab_size=32128, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64, feed_forward_proj="gated-gelu"
)  # fmt: skip
BERT_LARGE = transformers.BertConfig(
    hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096, vocab_size=28996
)  # cased, as in the papers below
ROBERTA_BASE = transformers.RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1)


def shell(kind: type, config: PreTrainedConfig) -> PreTrainedModel:
    with torch.device("meta"):
        return kind.from_config(config)


def trunk(model: PreTrainedModel) -> int:
    """Parameters of the pretrained part alone, as the papers count it."""
    return sum(p.numel() for p in model.base_model.parameters())


def biases_of_the_trunk(model: PreTrainedModel) -> int:
    """What BitFit selects, without the language-model head that the papers replace by a classifier."""
    selected = set(parse_method("bitfit").select(read_anatomy(model)))
    trunk_prefix = f"{model.base_model_prefix}."
    return sum(p.numel() for name, p in model.named_parameters() if name in selected and name.startswith(trunk_prefix))


def test_lora_on_flan_t5_xxl_as_in_the_model_cards_and_courses() -> None:
    """18,874,368 of 11,154,206,720 (0.169 %). The total counts the head, which transformers 5 ties, a second time."""
    model = shell(transformers.AutoModelForSeq2SeqLM, FLAN_T5_XXL)
    n = count(model, parse_method({"name": "lora", "rank": 16, "roles": ["q", "v"]}))
    untied_head = FLAN_T5_XXL.vocab_size * FLAN_T5_XXL.d_model
    assert n == 18_874_368
    assert sum(p.numel() for p in model.parameters()) + untied_head + n == 11_154_206_720


def test_prompt_tuning_of_t5_xxl_with_five_tokens() -> None:
    """Lester et al. 2021, arXiv:2104.08691, section 1: 20,480 parameters a task."""
    model = shell(transformers.AutoModelForSeq2SeqLM, FLAN_T5_XXL)
    assert count(model, parse_method({"name": "prompt_tuning", "virtual_tokens": 5})) == 20_480


def test_prefix_tuning_of_t5_large_as_in_pefts_guide() -> None:
    """983,040 of 738,651,136 (0.133 %), printed in its guide to prefix tuning for sequence-to-sequence models."""
    shape = transformers.T5Config(vocab_size=32128, d_model=1024, d_kv=64, d_ff=4096, num_layers=24, num_heads=16)
    model = shell(transformers.AutoModelForSeq2SeqLM, shape)
    n = count(model, parse_method({"name": "prefix_tuning", "virtual_tokens": 20, "placement": "decoder"}))
    assert n == 983_040
    assert sum(p.numel() for p in model.parameters()) + n == 738_651_136


def test_bitfit_on_bert_large() -> None:
    """Ben Zaken et al. 2022, arXiv:2106.10199, section 3.1: 0.08 % of BERT-large."""
    model = shell(transformers.AutoModelForMaskedLM, BERT_LARGE)
    assert round(100 * biases_of_the_trunk(model) / trunk(model), 2) == 0.08


@pytest.mark.parametrize(("size", "percent"), [(16, 0.5), (64, 1.9), (256, 7.5)])
def test_houlsby_adapters_on_bert_large(size: int, percent: float) -> None:
    """Houlsby et al. 2019, arXiv:1902.00751: 0.5 to 8 % of BERT-large a task, layer norms not counted."""
    model = shell(transformers.AutoModelForMaskedLM, BERT_LARGE)
    added = count(model, parse_method({"name": "bottleneck", "bottleneck": size, "placement": "houlsby"}))
    assert 100 * added / trunk(model) == pytest.approx(percent, rel=0.05)


def test_lora_and_bitfit_on_roberta_base() -> None:
    """Hu et al. 2021, arXiv:2106.09685, table 2: 0.3 M and 0.1 M trainable parameters."""
    model = shell(transformers.AutoModelForMaskedLM, ROBERTA_BASE)
    assert round(count(model, parse_method({"name": "lora", "rank": 8, "roles": ["q", "v"]})) / 1e6, 1) == 0.3
    assert round(biases_of_the_trunk(model) / 1e6, 1) == 0.1
