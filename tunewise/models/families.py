"""Where the families of models keep their parts: one row a family, and the only file with architecture names.

How the row of a model is found, or inferred where there is none, is in lookup.py; who is refused, in refused.py.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from transformers import PreTrainedConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from tunewise.errors import UserError
from tunewise.models.refused import REFUSED

DECODER, ENCODER, ENCODER_DECODER, VISION = KINDS = ("decoder", "encoder", "encoder_decoder", "vision")
WRITERS = (DECODER, ENCODER_DECODER)
"""The kinds that write text."""
PROJECTS_POSITIONS = "deberta-v2"  # its projections to queries and keys run a second time, over relative positions
RECURRENT = ("qwen3_5", "qwen3_5_text", "lfm2")  # most of their layers mix tokens without keys and values
READS_IDS = ("gemma4", "gemma4_text")  # each layer looks ids up in a table of its own, and some have others' keys
SCALES_IDS = ("esm",)  # what it looks up for token ids is made smaller, and what it is given as embeddings is not


@dataclass(frozen=True)
class Family:
    """One row. Paths in `sites` and `fused` are relative to a layer; `cross_q` is the q that looks at an encoder."""

    layers: str
    embedding: str | None  # None: it reads images
    sites: dict[str, str]
    fused: dict[str, str] | None = None  # whole role -> path
    feed_forward: tuple[str, ...] = ()  # where a layer may have gate, up and down: the first that is there
    experts: str | None = None  # the fused weights of many experts, in the layers that have some
    key_norm: str | None = None  # what the keys pass behind their projection, in the models that have it
    norms_heads_first: bool = False  # whether those of queries and keys are given (batch, heads, length, d_head)
    qkv_groups: "Callable[[PreTrainedConfig], int]" = lambda config: 1
    """How many times q, k and v stand behind one another in a fused qkv: once, or once for each head."""
    qkv_order: tuple[str, ...] = ("q", "k", "v")
    elsewhere: dict[str, str] | None = None  # sites of the layers that mix tokens otherwise; any site may be missing
    head: str = "lm_head"
    kind: str = DECODER
    decoder: "Family | None" = None  # the second stack of an encoder-decoder


_LLAMA = Family(
    layers="model.layers",
    embedding="model.embed_tokens",
    sites={
        "q": "self_attn.q_proj",
        "k": "self_attn.k_proj",
        "v": "self_attn.v_proj",
        "o": "self_attn.o_proj",
        "gate": "mlp.gate_proj",
        "up": "mlp.up_proj",
        "down": "mlp.down_proj",
    },
)

_QWEN3 = replace(_LLAMA, key_norm="self_attn.k_norm")
_GEMMA3 = replace(_QWEN3, norms_heads_first=True)
_GEMMA4 = replace(_QWEN3, elsewhere={})
_UNGATED = replace(_LLAMA, sites={role: path for role, path in _LLAMA.sites.items() if role != "gate"})
_GLM = replace(
    _LLAMA,
    sites={**{role: _LLAMA.sites[role] for role in ("q", "k", "v", "o")}, "down": "mlp.down_proj"},
    fused={"gate_up": "mlp.gate_up_proj"},
)
_OF_EXPERTS = replace(
    _LLAMA, sites={role: path for role, path in _LLAMA.sites.items() if role in "qkvo"}, experts="mlp.experts"
)
"""Tokens are sent to a few of many experts; the router, and what weighs a shared expert, are no sites."""


_OPT = Family(
    layers="model.decoder.layers",
    embedding="model.decoder.embed_tokens",
    sites={
        "q": "self_attn.q_proj",
        "k": "self_attn.k_proj",
        "v": "self_attn.v_proj",
        "o": "self_attn.out_proj",
        "up": "fc1",
        "down": "fc2",
    },
)

_BART = replace(
    _OPT,
    layers="model.encoder.layers",
    embedding="model.encoder.embed_tokens",
    kind=ENCODER_DECODER,
    decoder=replace(
        _OPT,
        sites={
            **_OPT.sites,
            "cross_q": "encoder_attn.q_proj",
            "cross_k": "encoder_attn.k_proj",
            "cross_v": "encoder_attn.v_proj",
            "cross_o": "encoder_attn.out_proj",
        },
    ),
)

_BERT = Family(
    layers="bert.encoder.layer",
    embedding="bert.embeddings.word_embeddings",
    sites={
        "q": "attention.self.query",
        "k": "attention.self.key",
        "v": "attention.self.value",
        "o": "attention.output.dense",
        "up": "intermediate.dense",
        "down": "output.dense",
    },
    head="cls.predictions.decoder",
    kind=ENCODER,
)

_VIT = Family(
    layers="vit.layers",
    embedding=None,
    sites={
        "q": "attention.q_proj",
        "k": "attention.k_proj",
        "v": "attention.v_proj",
        "o": "attention.o_proj",
        "up": "mlp.fc1",
        "down": "mlp.fc2",
    },
    kind=VISION,
)
_DINOV2 = replace(_VIT, layers="dinov2.encoder.layer")
_DINOV2_BEFORE_5_20 = replace(
    _DINOV2,
    sites={
        "q": "attention.attention.query",
        "k": "attention.attention.key",
        "v": "attention.attention.value",
        "o": "attention.output.dense",
        "up": "mlp.fc1",
        "down": "mlp.fc2",
    },
)


_GPT2 = Family(
    layers="transformer.h",
    embedding="transformer.wte",
    sites={"o": "attn.c_proj", "up": "mlp.c_fc", "down": "mlp.c_proj"},
    fused={"qkv": "attn.c_attn"},
)
_GPTJ = replace(_GPT2, sites={"o": "attn.out_proj", "up": "mlp.fc_in", "down": "mlp.fc_out"}, fused=None)


def _by_head(config: PreTrainedConfig) -> int:
    return config.num_attention_heads


def _of_falcon(config: PreTrainedConfig) -> int:
    """Each key-value head behind its queries (40B, 180B); one behind all queries (7B); or each head with its own."""
    if config.new_decoder_architecture:
        return config.num_kv_heads
    return 1 if config.multi_query else config.num_attention_heads


_BLOOM = Family(
    layers="transformer.h",
    embedding="transformer.word_embeddings",
    sites={"o": "self_attention.dense", "up": "mlp.dense_h_to_4h", "down": "mlp.dense_4h_to_h"},
    fused={"qkv": "self_attention.query_key_value"},
    qkv_groups=_by_head,
)


def _bert(name: str, head: str = "cls.predictions.decoder") -> Family:
    """A BERT whose trunk has another name."""
    return replace(_BERT, layers=f"{name}.encoder.layer", embedding=f"{name}.embeddings.word_embeddings", head=head)


def _attention(prefix: str, path: str) -> dict[str, str]:
    return {f"{prefix}{role}": f"{path}.{role}" for role in ("q", "k", "v", "o")}


def _t5(inner: dict[str, str]) -> Family:
    """T5 with these names in its feed-forward part."""
    encoder = {role: f"layer.1.DenseReluDense.{name}" for role, name in inner.items()}
    decoder = {role: f"layer.2.DenseReluDense.{name}" for role, name in inner.items()}
    own, cross = _attention("", "layer.0.SelfAttention"), _attention("cross_", "layer.1.EncDecAttention")
    return Family(
        layers="encoder.block",
        embedding="encoder.embed_tokens",
        sites={**own, **encoder},
        kind=ENCODER_DECODER,
        decoder=Family("decoder.block", "decoder.embed_tokens", {**own, **cross, **decoder}),
    )


_T5 = (_t5({"gate": "wi_0", "up": "wi_1", "down": "wo"}), _t5({"up": "wi", "down": "wo"}))

FAMILIES: dict[str, Family | tuple[Family, ...]] = {  # of several rows, the first whose sites are all there
    **dict.fromkeys(("llama", "mistral", "qwen2"), _LLAMA),  # SmolLM is a llama too
    "qwen3": _QWEN3,
    **dict.fromkeys(("gemma", "gemma2", "vaultgemma", "olmo", "granite", "granite_swa", "smollm3", "helium"), _LLAMA),
    **dict.fromkeys(("ministral", "ministral3", "seed_oss", "ernie4_5", "internlm3"), _LLAMA),
    "hunyuan_v1_dense": replace(_LLAMA, key_norm="self_attn.key_layernorm", norms_heads_first=True),
    **dict.fromkeys(("olmo2", "olmo3", "cohere", "cohere2"), _QWEN3),
    "exaone4": _GEMMA3,
    "gemma3_text": _GEMMA3,
    "gemma3": replace(_GEMMA3, layers="model.language_model.layers", embedding="model.language_model.embed_tokens"),
    "phi3": Family(
        layers="model.layers",
        embedding="model.embed_tokens",
        sites={"o": "self_attn.o_proj", "down": "mlp.down_proj"},
        fused={"qkv": "self_attn.qkv_proj", "gate_up": "mlp.gate_up_proj"},
    ),
    **dict.fromkeys(("glm", "glm4"), _GLM),
    **dict.fromkeys(("nemotron", "arcee"), _UNGATED),
    "apertus": replace(_UNGATED, key_norm="self_attn.k_norm", norms_heads_first=True),
    "stablelm": replace(_LLAMA, key_norm="self_attn.k_layernorm", norms_heads_first=True),
    "phi": replace(  # 1, 1.5 and 2
        _UNGATED,
        sites={**_UNGATED.sites, "o": "self_attn.dense", "up": "mlp.fc1", "down": "mlp.fc2"},
        key_norm="self_attn.k_layernorm",
        norms_heads_first=True,
    ),
    "starcoder2": replace(_UNGATED, sites={**_UNGATED.sites, "up": "mlp.c_fc", "down": "mlp.c_proj"}),
    "falcon": replace(_BLOOM, qkv_groups=_of_falcon),
    "bloom": _BLOOM,
    "persimmon": replace(
        _BLOOM,
        layers="model.layers",
        embedding="model.embed_tokens",
        fused={"qkv": "self_attn.query_key_value"},
        sites={**_BLOOM.sites, "o": "self_attn.dense"},
        key_norm="self_attn.k_layernorm",
    ),
    "mpt": Family(
        layers="transformer.blocks",
        embedding="transformer.wte",
        sites={"o": "attn.out_proj", "up": "ffn.up_proj", "down": "ffn.down_proj"},
        fused={"qkv": "attn.Wqkv"},
    ),
    "gptj": replace(_GPTJ, sites={**_GPTJ.sites, "q": "attn.q_proj", "k": "attn.k_proj", "v": "attn.v_proj"}),
    "codegen": replace(  # made for four cores, each with its share of the heads
        _GPTJ, fused={"qkv": "attn.qkv_proj"}, qkv_groups=lambda config: 4, qkv_order=("q", "v", "k")
    ),
    "gpt_neo": replace(
        _GPTJ,
        sites={
            **{role: f"attn.attention.{role}_proj" for role in ("q", "k", "v")},
            "o": "attn.attention.out_proj",
            "up": "mlp.c_fc",
            "down": "mlp.c_proj",
        },
    ),
    "gpt_bigcode": replace(  # StarCoder
        _GPT2, qkv_groups=lambda config: 1 if config.multi_query else config.num_attention_heads
    ),
    "gpt2": _GPT2,
    "gpt_neox": Family(
        layers="gpt_neox.layers",
        embedding="gpt_neox.embed_in",
        sites={"o": "attention.dense", "up": "mlp.dense_h_to_4h", "down": "mlp.dense_4h_to_h"},
        fused={"qkv": "attention.query_key_value"},
        qkv_groups=_by_head,
    ),
    "opt": _OPT,
    "xglm": replace(_OPT, layers="model.layers", embedding="model.embed_tokens"),
    "biogpt": replace(_OPT, layers="biogpt.layers", embedding="biogpt.embed_tokens", head="output_projection"),
    "bert": _BERT,  # MiniLM is a bert too
    **dict.fromkeys(("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert"), _bert("roberta", "lm_head.decoder")),
    "roberta-prelayernorm": _bert("roberta_prelayernorm", "lm_head.decoder"),
    "data2vec-text": _bert("data2vec_text", "lm_head.decoder"),
    "esm": _bert("esm", "lm_head.decoder"),
    "electra": _bert("electra", "generator_lm_head"),
    "ernie": _bert("ernie"),
    "rembert": _bert("rembert"),
    "megatron-bert": _BERT,
    "mpnet": replace(_bert("mpnet", "lm_head.decoder"), sites={**_BERT.sites, **_attention("", "attention.attn")}),
    "modernbert": Family(
        layers="model.layers",
        embedding="model.embeddings.tok_embeddings",
        sites={"o": "attn.Wo", "down": "mlp.Wo"},
        fused={"qkv": "attn.Wqkv", "gate_up": "mlp.Wi"},
        head="decoder",
        kind=ENCODER,
    ),
    "nomic_bert": replace(
        _LLAMA,
        layers="nomic_bert.layers",
        embedding="nomic_bert.embeddings.word_embeddings",
        head="cls.predictions.decoder",
        kind=ENCODER,
    ),
    "eurobert": replace(_LLAMA, kind=ENCODER),
    "distilbert": Family(
        layers="distilbert.transformer.layer",
        embedding="distilbert.embeddings.word_embeddings",
        sites={
            "q": "attention.q_lin",
            "k": "attention.k_lin",
            "v": "attention.v_lin",
            "o": "attention.out_lin",
            "up": "ffn.lin1",
            "down": "ffn.lin2",
        },
        head="vocab_projector",
        kind=ENCODER,
    ),
    "deberta": replace(
        _bert("deberta"),
        sites={role: path for role, path in _BERT.sites.items() if role not in ("q", "k", "v")},
        fused={"qkv": "attention.self.in_proj"},
        qkv_groups=_by_head,
    ),
    PROJECTS_POSITIONS: replace(
        _bert("deberta"),
        sites={
            **_BERT.sites,
            "q": "attention.self.query_proj",
            "k": "attention.self.key_proj",
            "v": "attention.self.value_proj",
        },
    ),
    **dict.fromkeys(("t5", "mt5", "umt5"), _T5),
    **dict.fromkeys(
        ("bart", "mbart", "pegasus", "marian", "m2m_100", "blenderbot", "blenderbot-small", "plbart", "mvp"), _BART
    ),
    "vit": _VIT,
    "vit_msn": _VIT,
    **{name: replace(_VIT, layers=f"{name}.layers") for name in ("deit", "beit", "ijepa")},
    "dinov2": (_DINOV2, _DINOV2_BEFORE_5_20),
    "dinov2_with_registers": replace(_DINOV2, layers="dinov2_with_registers.encoder.layer"),
    **dict.fromkeys(
        ("qwen3_5", "qwen3_5_text"),
        replace(_QWEN3, elsewhere={"qkv": "linear_attn.in_proj_qkv", "o": "linear_attn.out_proj"}),
    ),
    "gemma4_text": _GEMMA4,
    "gemma4": replace(_GEMMA4, layers="model.language_model.layers", embedding="model.language_model.embed_tokens"),
    "lfm2": replace(
        _LLAMA,
        sites={
            **{role: _LLAMA.sites[role] for role in ("q", "k", "v")},
            "o": "self_attn.out_proj",
            "gate": "feed_forward.w1",
            "up": "feed_forward.w3",
            "down": "feed_forward.w2",
        },
        elsewhere={"qkv": "conv.in_proj", "o": "conv.out_proj"},
        key_norm="self_attn.k_layernorm",
    ),
    "mixtral": _OF_EXPERTS,
    "qwen2_moe": replace(_OF_EXPERTS, feed_forward=("mlp.shared_expert", "mlp")),
    "qwen3_moe": replace(_OF_EXPERTS, feed_forward=("mlp",), key_norm="self_attn.k_norm"),
    "olmoe": replace(_OF_EXPERTS, key_norm="self_attn.k_norm"),
    "granitemoe": replace(_OF_EXPERTS, experts="block_sparse_moe.experts"),
    "gpt_oss": _OF_EXPERTS,
}


NOT_IN_16_BITS = ("deberta",)
"""transformers multiplies by float32 there, whatever the weights are."""


def kind_of(config: PreTrainedConfig) -> str:
    """Which of KINDS a base with this configuration is; of an unknown family, what transformers has heads for.

    Raises UserError for a family that is refused.
    """
    name = config.model_type
    if name in REFUSED:
        raise UserError(f"{name} models are not adapted here: {REFUSED[name]}", "docs/models.md lists the families")
    if name in FAMILIES:
        known = FAMILIES[name]
        return (known[0] if isinstance(known, tuple) else known).kind
    if config.is_encoder_decoder:
        return ENCODER_DECODER
    if name in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return ENCODER
    is_vision = name in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES and name not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return VISION if is_vision else DECODER


def has_own_head(config: PreTrainedConfig) -> bool:
    """Whether checkpoints of this configuration hold a head of their own, though it says that the embedding is tied.

    T5 1.1 (FLAN-T5) and mT5: transformers 5 ties them in the configuration, and unties them where the weights differ.
    """
    return config.model_type == "mt5" or config.to_dict().get("scale_decoder_outputs") is False


def experts_per_token(config: PreTrainedConfig) -> int:
    """To how many experts a mixture sends each token."""
    return int(config.get_text_config().to_dict()["num_experts_per_tok"])
