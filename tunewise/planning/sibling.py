"""A narrow sibling of a base: the same class and depth, few numbers; what has to be tried is tried on it."""

import copy

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from tunewise.errors import UserError
from tunewise.methods.attach import Tuned, attach
from tunewise.methods.base import Method
from tunewise.planning.shell import Shell

HEAD_WIDTH, MOST_TOKENS = 8, 128
_INNER_WIDTHS = (
    "intermediate_size", "ffn_dim", "d_ff", "hidden_dim", "n_inner", "ffn_hidden_size", "encoder_ffn_dim",
    "decoder_ffn_dim", "moe_intermediate_size", "shared_expert_intermediate_size",
)  # fmt: skip
_WIDTHS = ("hidden_size", "d_model", "n_embd", "dim", "word_embed_proj_dim", "pooler_hidden_size")


def sibling_of(shell: Shell) -> PreTrainedModel | None:
    """A real model on the CPU in float32, drawn anew; None where its class cannot be made narrow."""
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            made = shell.head.auto_class(shell.kind, shell.name, shell.config).from_config(narrow(shell.config))
            for parameter in made.parameters():
                if parameter.dim() > 1:  # what enters a module is to be seen in the logits
                    nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError, AssertionError):
        return None
    return (made.float() if made.dtype is torch.float16 else made).eval()  # as no base runs in float16 on a CPU


def narrow(config: PreTrainedConfig) -> PreTrainedConfig:
    """A configuration of the same depth and kind of layers, with heads of 8 numbers and 128 tokens."""
    found = copy.deepcopy(config)
    text = found.get_text_config()
    told = text.to_dict()
    heads = text.num_attention_heads
    groups = told.get("num_key_value_heads") or told.get("num_kv_heads") or heads
    n_groups = min(groups, 2)
    n_heads = n_groups * min(heads // groups, 4) if groups < heads else min(heads, 4)
    width = n_heads * HEAD_WIDTH
    wide = {
        **dict.fromkeys(_WIDTHS, width),
        **dict.fromkeys(_INNER_WIDTHS, 2 * width),
        **dict.fromkeys(("num_experts", "num_local_experts"), told.get("num_experts_per_tok") or 1),
        **dict.fromkeys(("num_attention_heads", "num_heads", "n_head", "n_heads", "attention_heads"), n_heads),
        **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), n_heads),
        **dict.fromkeys(("head_dim", "d_kv", "kv_channels", "query_pre_attn_scalar", "embedding_size"), HEAD_WIDTH),
        **dict.fromkeys(("global_head_dim", "hidden_size_per_layer_input"), HEAD_WIDTH),
        **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), HEAD_WIDTH),
        "num_key_value_heads": n_groups,
        "num_kv_heads": n_groups if groups < heads else n_heads,
        "rotary_dim": HEAD_WIDTH,
        "vocab_size": min(MOST_TOKENS, told.get("vocab_size") or MOST_TOKENS),
        "vocab_size_per_layer_input": MOST_TOKENS,
    }
    for name, value in wide.items():
        if told.get(name) is not None:
            setattr(text, name, value)
    for name in ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"):
        number = told.get(name)
        if isinstance(number, list) or (isinstance(number, int) and number >= text.vocab_size):
            setattr(text, name, 0)
    for name, tower in vars(found).items():
        if name in ("vision_config", "audio_config") and isinstance(tower, PreTrainedConfig):  # which reads no text
            _narrow_tower(tower)
    rotation = told.get("rope_parameters")
    if isinstance(rotation, dict) and rotation.get("rope_type") not in (None, "default"):
        text.rope_parameters = {**rotation, "rope_type": "default", "rope_theta": rotation.get("rope_theta", 10_000.0)}
    return found


def _narrow_tower(config: PreTrainedConfig) -> None:
    """Two heads, and the same patches."""
    widths = dict.fromkeys(("hidden_size", "d_model"), 2 * HEAD_WIDTH) | dict.fromkeys(_INNER_WIDTHS, 2 * HEAD_WIDTH)
    told = config.to_dict()
    for name, value in {**widths, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": HEAD_WIDTH}.items():
        if told.get(name) is not None:
            setattr(config, name, value)


def with_method(sibling: PreTrainedModel, method: Method) -> Tuned | None:
    """The method on it, or None where it is too narrow for that."""
    try:
        return attach(sibling, method, warm_start=False)
    except (UserError, AssertionError, RuntimeError, ValueError):
        return None
