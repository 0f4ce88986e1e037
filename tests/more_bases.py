"""Small random models of the families beside those of `bases`, each in the forms its checkpoints come in."""

from dataclasses import dataclass

import torch
import transformers
from transformers import AutoConfig, PreTrainedModel

from tests import bases

_PLAIN = bases.DECODERS["gpt_neox"]
_GROUPED = bases.DECODERS["llama"]
_HEADED = {**_GROUPED, "head_dim": 8}
_GPT = {**bases.DECODERS["gpt2"], "n_inner": 48}
_ENCODER = bases.OTHERS["bert_classes"]
_PAIRS = {**bases.OTHERS["bart"], "pad_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2}
_IMAGES = bases.OTHERS["vit_images"]
_MULTIPLIED = {
    "embedding_multiplier": 3.0,
    "attention_multiplier": 0.4,
    "residual_multiplier": 0.5,
    "logits_scaling": 2.0,
}
_SLIDING = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}
_MIXED = {"layer_types": ["linear_attention", "full_attention"]}
_LINEAR = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
_GEMMA4 = {
    **_HEADED,
    "num_hidden_layers": 2,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": 64,
    "global_head_dim": 8,
    "num_kv_shared_layers": 0,
    "layer_types": ["sliding_attention", "full_attention"],
    "sliding_window": 4,
}
_FALCON = {**_PLAIN, "ffn_hidden_size": 48}


@dataclass(frozen=True)
class Small:
    """One small model: its `model_type` and the fields of its configuration."""

    model_type: str
    fields: dict[str, object]


DECODERS: dict[str, Small] = {
    **{
        name: Small(name, _GROUPED)
        for name in (
            "olmo",
            "arcee",
            "nemotron",
            "olmo2",
            "olmo3",
            "cohere",
            "stablelm",
            "starcoder2",
            "phi",
        )
    },
    **{
        name: Small(name, _HEADED)
        for name in (
            "internlm3",
            "ernie4_5",
            "seed_oss",
            "gemma",
            "vaultgemma",
            "helium",
            "ministral",
            "ministral3",
            "hunyuan_v1_dense",
            "apertus",
            "glm",
            "glm4",
        )
    },
    "granite": Small("granite", {**_GROUPED, **_MULTIPLIED}),
    "granite_swa": Small("granite_swa", {**_HEADED, **_MULTIPLIED}),
    "smollm3": Small("smollm3", {**_GROUPED, "no_rope_layers": [1, 0]}),  # 1: with rotation
    "cohere2": Small("cohere2", {**_GROUPED, **_SLIDING}),
    "exaone4": Small("exaone4", {**_HEADED, **_SLIDING}),
    "cohere_normed": Small("cohere", {**_GROUPED, "use_qk_norm": True, "logit_scale": 0.5}),  # Command R+
    "stablelm_parallel": Small(  # 2 12B
        "stablelm", {**_GROUPED, "use_parallel_residual": True, "use_qkv_bias": True, "qk_layernorm": True}
    ),
    "phi_normed": Small("phi", {**_GROUPED, "qk_layernorm": True}),
    "olmo3_sliding": Small("olmo3", {**_GROUPED, "sliding_window": 4}),
    "qwen3_5_text": Small("qwen3_5_text", {**_HEADED, **_LINEAR, **_MIXED}),
    "gemma4_text": Small("gemma4_text", _GEMMA4),
    "gemma4_shared": Small(  # E2B, E4B: upper layers have the keys and values of a lower one
        "gemma4_text", {**_GEMMA4, "layer_types": ["full_attention"] * 2, "num_kv_shared_layers": 1}
    ),
    "gemma4_values": Small(  # 31B: values are keys in some layers, and no token ids are looked up in layers
        "gemma4_text", {**_GEMMA4, "attention_k_eq_v": True, "hidden_size_per_layer_input": 0}
    ),
    "lfm2": Small("lfm2", {**_GROUPED, "layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False}),
    "falcon": Small("falcon", {**_FALCON, "multi_query": True, "parallel_attn": True}),  # 7B
    "falcon_grouped": Small("falcon", {**_FALCON, "new_decoder_architecture": True, "num_kv_heads": 2}),  # 40B, 180B
    "falcon_alibi": Small(
        "falcon", {**_FALCON, "multi_query": False, "alibi": True, "bias": True, "parallel_attn": False}
    ),  # RW
    "bloom": Small("bloom", {"vocab_size": 64, "hidden_size": 32, "n_layer": 2, "n_head": 4, "pad_token_id": 0}),
    "persimmon": Small("persimmon", _PLAIN),
    "persimmon_plain": Small("persimmon", {**_PLAIN, "qk_layernorm": False}),
    "mpt": Small("mpt", {"vocab_size": 64, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 64}),
    "gptj": Small("gptj", {**_GPT, "rotary_dim": 4}),
    "codegen": Small("codegen", {**_GPT, "rotary_dim": 4}),
    "gpt_neo": Small(
        "gpt_neo",
        {
            **{name: value for name, value in _PLAIN.items() if not name.startswith("num_")},
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 4,
        },
    ),
    "gpt_bigcode": Small("gpt_bigcode", _GPT),
    "gpt_bigcode_heads": Small("gpt_bigcode", {**_GPT, "multi_query": False}),
    "xglm": Small("xglm", {**_PLAIN, "d_model": 32, "ffn_dim": 48, "num_layers": 2, "attention_heads": 4}),
    "biogpt": Small("biogpt", _PLAIN),
}
ENCODERS: dict[str, Small] = {
    **{
        name: Small(name, {**_ENCODER, "type_vocab_size": 1})
        for name in (
            "xlm-roberta",
            "xlm-roberta-xl",
            "camembert",
            "roberta-prelayernorm",
            "data2vec-text",
            "ernie",
            "rembert",
            "megatron-bert",
            "mpnet",
            "esm",
            "nomic_bert",
            "eurobert",
        )
    },
    "electra": Small("electra", {**_ENCODER, "embedding_size": 16}),
    "deberta": Small(
        "deberta",
        {**_ENCODER, "relative_attention": True, "pos_att_type": ["c2p", "p2c"], "max_relative_positions": 16},
    ),
    "deberta_plain": Small("deberta", _ENCODER),
    "modernbert": Small("modernbert", {**_ENCODER, "cls_token_id": 1, "sep_token_id": 2, "local_attention": 8}),
}
PAIRS: dict[str, Small] = {
    **{
        name: Small(name, _PAIRS)
        for name in ("mbart", "pegasus", "marian", "m2m_100", "blenderbot", "blenderbot-small", "plbart", "mvp")
    },
    "umt5": Small("umt5", bases.OTHERS["mt5"]),
}
IMAGES: dict[str, Small] = {
    name: Small(name, _IMAGES) for name in ("beit", "vit_msn", "ijepa", "dinov2_with_registers")
}
MORE = DECODERS | ENCODERS | PAIRS | IMAGES


def shell(name: str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The small model as transformers builds it, on whatever device is the default."""
    small = MORE[name]
    config = AutoConfig.for_model(small.model_type, **small.fields)
    if name in ENCODERS:
        return transformers.AutoModelForSequenceClassification.from_config(config, dtype=dtype)
    if name in IMAGES:
        return transformers.AutoModelForImageClassification.from_config(config, dtype=dtype)
    plain = transformers.AutoModelForSeq2SeqLM if name in PAIRS else transformers.AutoModelForCausalLM
    return plain.from_config(config, dtype=dtype)


def build(name: str, dtype: torch.dtype = torch.float64) -> PreTrainedModel:
    """The small random model in evaluation mode, with weights large enough to tell models apart."""
    return bases.drawn(lambda: shell(name, dtype), 0.14 if name == "umt5" else 0.2)
