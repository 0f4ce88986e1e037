"""Small random models, one or more for each row of the anatomy, built from their transformers configs."""

import copy
import functools
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import transformers
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from tunewise.models.quantise import finish_loading, loading

VOCABULARY, WIDTH, LAYERS, HEADS, LABELS, IMAGE = 64, 32, 2, 4, 3, 8

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
_GPT2 = {
    "vocab_size": VOCABULARY,
    "n_embd": WIDTH,
    "n_layer": LAYERS,
    "n_head": HEADS,
    "n_positions": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_T5 = {
    "vocab_size": VOCABULARY,
    "d_model": WIDTH,
    "d_kv": 8,
    "num_layers": LAYERS,
    "num_heads": HEADS,
    "d_ff": 48,
    "dropout_rate": 0.0,
    "decoder_start_token_id": 0,
}
_CLASSES = {"num_labels": LABELS}
_ENCODER = {**_COMMON, **_CLASSES, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
_IMAGES = {
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": 48,
    "image_size": IMAGE,
    "patch_size": 4,
    **_CLASSES,
}
DECODERS: dict[str, dict[str, object]] = {
    "llama": _GROUPED,
    "llama_tied": {**_GROUPED, "tie_word_embeddings": True},  # the shape of SmolLM
    "mistral": {**_GROUPED, "sliding_window": 8},
    "qwen2": _GROUPED,
    "qwen3": {**_GROUPED, "head_dim": 8},
    "gemma2": {**_GROUPED, "head_dim": 8, "query_pre_attn_scalar": 8},
    "gemma3_text": {**_GROUPED, "head_dim": 8, "query_pre_attn_scalar": 8},
    "phi3": {**_GROUPED, "original_max_position_embeddings": 64},
    "gpt2": _GPT2,
    "gpt_neox": _COMMON,
    "opt": {
        **_COMMON,
        "ffn_dim": 48,
        "word_embed_proj_dim": WIDTH,
    },
}
OTHERS: dict[str, dict[str, object]] = {
    "llama_classes": {**_GROUPED, **_CLASSES},
    "gpt2_classes": {**_GPT2, **_CLASSES, "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0},
    "bert_classes": _ENCODER,
    "bert_tokens": _ENCODER,
    "roberta_classes": {**_ENCODER, "type_vocab_size": 1, "pad_token_id": 0},
    "distilbert_classes": {
        "vocab_size": VOCABULARY,
        "dim": WIDTH,
        "n_layers": LAYERS,
        "n_heads": HEADS,
        "hidden_dim": 48,
        "max_position_embeddings": 64,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "seq_classif_dropout": 0.0,
        **_CLASSES,
    },
    "deberta-v2_classes": {
        **_ENCODER,
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "share_att_key": True,
        "max_relative_positions": 16,
        "pooler_dropout": 0.0,
    },
    "t5": {**_T5, "tie_word_embeddings": True},
    "t5_gated": {**_T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},  # v1.1, FLAN
    "mt5": {**_T5, "tie_word_embeddings": False},
    "bart": {
        "vocab_size": VOCABULARY,
        "d_model": WIDTH,
        "encoder_layers": LAYERS,
        "decoder_layers": LAYERS,
        "encoder_attention_heads": HEADS,
        "decoder_attention_heads": HEADS,
        "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 48,
        "max_position_embeddings": 64,
        "dropout": 0.0,
        "forced_eos_token_id": None,
    },
    "vit_images": _IMAGES,
    "deit_images": _IMAGES,
    "dinov2_images": {**_IMAGES, "mlp_ratio": 2},
}
_MIXTURE = {**_GROUPED, "num_experts_per_tok": 2}
MIXTURES: dict[str, dict[str, object]] = {  # of experts
    "mixtral": {**_MIXTURE, "num_local_experts": 4},
    "qwen2_moe": {
        **_MIXTURE,
        "num_experts": 4,
        "moe_intermediate_size": 24,
        "shared_expert_intermediate_size": 40,
        "mlp_only_layers": [0],
    },
    "qwen3_moe": {**_MIXTURE, "num_experts": 4, "moe_intermediate_size": 24, "head_dim": 8, "norm_topk_prob": True},
    "olmoe": {**_MIXTURE, "num_experts": 4},
    "granitemoe": {**_MIXTURE, "num_local_experts": 4},
    "gpt_oss": {**_MIXTURE, "num_local_experts": 4, "head_dim": 8, "sliding_window": 8},
}
CONFIGS = DECODERS | OTHERS
_VARIANTS = ("_tied", "_gated", "_classes", "_tokens", "_images")
_HEADS = {
    "_classes": transformers.AutoModelForSequenceClassification,
    "_tokens": transformers.AutoModelForTokenClassification,
    "_images": transformers.AutoModelForImageClassification,
}
_ARCHITECTURES = {"deit_images": ["DeiTForImageClassification"]}  # of the two that deit has
_CHECKPOINTS = tempfile.TemporaryDirectory()  # gone with this process


class Padding:
    """All that an objective asks of a tokenizer."""

    pad_token_id = 0


def shell(family: str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The small model of a family as transformers builds it, on whatever device is the default."""
    config = AutoConfig.for_model(family.removesuffix(_variant(family)), **(CONFIGS | MIXTURES)[family])
    config.architectures = _ARCHITECTURES.get(family)
    return auto_class(family, config).from_config(config, dtype=dtype)


def _variant(family: str) -> str:
    return next((end for end in _VARIANTS if family.endswith(end)), "")


def auto_class(family: str, config: PreTrainedConfig) -> type:
    """The class of transformers that builds and loads a family with its head."""
    plain = transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else transformers.AutoModelForCausalLM
    return _HEADS.get(_variant(family), plain)


def build(family: str, dtype: torch.dtype = torch.float64, seed: int = 0) -> PreTrainedModel:
    """The small random model of a family, in evaluation mode, with weights large enough to tell models apart."""
    return copy.deepcopy(_built(family, dtype, seed, torch.get_default_device()))


@functools.cache
def _built(family: str, dtype: torch.dtype, seed: int, device: torch.device) -> PreTrainedModel:
    """The same once for all who ask; `device` is the default one, on which it is built, and which may be meta."""
    # T5's scores are not divided by the root of the width: with weights as large its softmax would magnify rounding
    model = drawn(lambda: shell(family, dtype), 0.14 if family in ("t5", "t5_gated", "mt5") else 0.2, seed)
    if family in MIXTURES and dtype == torch.float64:
        model.set_experts_implementation("eager")  # torch's grouped product knows no float64
    return model


def drawn(made: Callable[[], PreTrainedModel], deviation: float = 0.2, seed: int = 0) -> PreTrainedModel:
    """A model with its weights drawn from a normal distribution, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = made()
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter, std=0.1)
            elif parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=deviation)
    return model.eval()


@functools.cache
def checkpoint(family: str) -> Path:
    """A folder with the small model in float32."""
    folder = Path(_CHECKPOINTS.name) / family
    build(family, torch.float32).save_pretrained(folder)
    return folder


def quantised(form: str, family: str = "llama", dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The small model with its linear weights in nf4, fp4 or int8, in evaluation mode, loaded as `load_base` does."""
    return copy.deepcopy(_loaded_quantised(form, family, dtype))


@functools.cache
def _loaded_quantised(form: str, family: str, dtype: torch.dtype) -> PreTrainedModel:
    config = AutoConfig.from_pretrained(checkpoint(family))
    storage = loading(config, form, dtype, torch.device("cpu"))
    model = auto_class(family, config).from_pretrained(checkpoint(family), config=config, dtype=dtype, **storage)
    finish_loading(model, form)
    return model.eval()


def peft_task(family: str) -> dict[str, object]:
    """What a peft configuration has to say of the task of this model."""
    if family.endswith("_images"):
        return {"modules_to_save": ["classifier"]}
    if family.endswith(("_classes", "_tokens")):
        extra = {"modules_to_save": ["pooler"]} if family.startswith("deberta") else {}
        return {"task_type": "SEQ_CLS" if family.endswith("_classes") else "TOKEN_CLS", **extra}
    return {"task_type": "SEQ_2_SEQ_LM" if family in ("t5", "t5_gated", "mt5", "bart") else "CAUSAL_LM"}


def logits(model: PreTrainedModel, ids: Tensor, prefix: Sequence[int] = ()) -> Tensor:
    """What the model says of `ids` (batch, length) behind a prefix; a vision model sees a picture for each row."""
    if model.main_input_name == "pixel_values":
        pictures = torch.randn(len(ids), 3, IMAGE, IMAGE, generator=torch.Generator().manual_seed(0))
        pictures = pictures + ids[:, :1, None, None] / VOCABULARY
        return model(pictures.to(next(model.parameters()).dtype)).logits
    entered = torch.cat([torch.tensor([list(prefix)] * len(ids), dtype=torch.long), ids], dim=1)
    if model.config.is_encoder_decoder:
        return model(input_ids=entered, decoder_input_ids=ids[:, :4], use_cache=False).logits
    found = model(input_ids=entered).logits
    return found if found.dim() == 2 else found[:, -ids.shape[1] :]
