"""Small random models, one for each decoder row of the anatomy, built from their transformers configs."""

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

VOCABULARY, WIDTH, LAYERS, HEADS = 64, 32, 2, 4

_COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_GROUPED = {**_COMMON, "num_key_value_heads": 2}
CONFIGS: dict[str, dict[str, object]] = {
    "llama": _GROUPED,
    "llama_tied": {**_GROUPED, "tie_word_embeddings": True},  # the shape of SmolLM
    "mistral": {**_GROUPED, "sliding_window": 8},
    "qwen2": _GROUPED,
    "qwen3": {**_GROUPED, "head_dim": 8},
    "gemma2": {**_GROUPED, "head_dim": 8, "query_pre_attn_scalar": 8},
    "gemma3_text": {**_GROUPED, "head_dim": 8, "query_pre_attn_scalar": 8},
    "phi3": {**_GROUPED, "original_max_position_embeddings": 64},
    "gpt2": {
        "vocab_size": VOCABULARY,
        "n_embd": WIDTH,
        "n_layer": LAYERS,
        "n_head": HEADS,
        "n_positions": 64,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    },
    "gpt_neox": _COMMON,
    "opt": {
        **_COMMON,
        "ffn_dim": 48,
        "word_embed_proj_dim": WIDTH,
    },
}


def build(family: str, dtype: torch.dtype = torch.float64, seed: int = 0) -> PreTrainedModel:
    """The small random model of a family, in evaluation mode, with weights large enough to tell models apart."""
    config = AutoConfig.for_model(family.removesuffix("_tied"), **CONFIGS[family])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter, std=0.1)
            elif parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()
