"""Where the families of models keep their parts: one row a family, and the only file with architecture names.

A family that is not here is inferred from its module names (and the inference told), or refused with the row to write.
"""

import logging
from dataclasses import dataclass, replace

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tunewise.errors import UserError

logger = logging.getLogger(__name__)

DECODER, ENCODER, ENCODER_DECODER, VISION = KINDS = ("decoder", "encoder", "encoder_decoder", "vision")
WRITERS = (DECODER, ENCODER_DECODER)
"""The kinds that write text."""
PROJECTS_POSITIONS = "deberta-v2"  # its projections to queries and keys run a second time, over relative positions


@dataclass(frozen=True)
class Family:
    """One row. Paths in `sites` and `fused` are relative to a layer; `cross_q` is the q that looks at an encoder."""

    layers: str
    embedding: str | None  # None: it reads images
    sites: dict[str, str]
    fused: dict[str, str] | None = None  # whole role -> path
    feed_forward: tuple[str, ...] = ()  # where a layer may have gate, up and down: the first that is there
    experts: str | None = None  # the fused weights of many experts, in the layers that have some
    key_norm: str | None = None  # what the keys pass, a head at a time, between their projection and the rotation
    key_norm_heads_first: bool = False
    interleaved_heads: bool = False  # the fused qkv is (heads, 3, d_head) instead of (3, heads, d_head)
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

_OF_EXPERTS = replace(
    _LLAMA, sites={role: path for role, path in _LLAMA.sites.items() if role in "qkvo"}, experts="mlp.experts"
)
"""Tokens are sent to a few of many experts; the router, and what weighs a shared expert, are no sites."""

_GEMMA3 = replace(_LLAMA, key_norm="self_attn.k_norm", key_norm_heads_first=True)

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
    "llama": _LLAMA,  # SmolLM is a llama too
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": replace(_LLAMA, key_norm="self_attn.k_norm"),
    "gemma2": _LLAMA,
    "gemma3_text": _GEMMA3,
    "gemma3": replace(_GEMMA3, layers="model.language_model.layers", embedding="model.language_model.embed_tokens"),
    "phi3": Family(
        layers="model.layers",
        embedding="model.embed_tokens",
        sites={"o": "self_attn.o_proj", "down": "mlp.down_proj"},
        fused={"qkv": "self_attn.qkv_proj", "gate_up": "mlp.gate_up_proj"},
    ),
    "gpt2": Family(
        layers="transformer.h",
        embedding="transformer.wte",
        sites={"o": "attn.c_proj", "up": "mlp.c_fc", "down": "mlp.c_proj"},
        fused={"qkv": "attn.c_attn"},
    ),
    "gpt_neox": Family(
        layers="gpt_neox.layers",
        embedding="gpt_neox.embed_in",
        sites={"o": "attention.dense", "up": "mlp.dense_h_to_4h", "down": "mlp.dense_4h_to_h"},
        fused={"qkv": "attention.query_key_value"},
        interleaved_heads=True,
    ),
    "opt": _OPT,
    "bert": _BERT,  # MiniLM is a bert too
    "roberta": replace(
        _BERT, layers="roberta.encoder.layer", embedding="roberta.embeddings.word_embeddings", head="lm_head.decoder"
    ),
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
    PROJECTS_POSITIONS: replace(
        _BERT,
        layers="deberta.encoder.layer",
        embedding="deberta.embeddings.word_embeddings",
        sites={
            **_BERT.sites,
            "q": "attention.self.query_proj",
            "k": "attention.self.key_proj",
            "v": "attention.self.value_proj",
        },
    ),
    "t5": _T5,
    "mt5": _T5,
    "bart": replace(
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
    ),
    "vit": _VIT,
    "deit": replace(_VIT, layers="deit.layers"),
    "dinov2": (_DINOV2, _DINOV2_BEFORE_5_20),
    "mixtral": _OF_EXPERTS,
    "qwen2_moe": replace(_OF_EXPERTS, feed_forward=("mlp.shared_expert", "mlp")),
    "qwen3_moe": replace(_OF_EXPERTS, feed_forward=("mlp",), key_norm="self_attn.k_norm"),
    "olmoe": replace(_OF_EXPERTS, key_norm="self_attn.k_norm"),
    "granitemoe": replace(_OF_EXPERTS, experts="block_sparse_moe.experts"),
    "gpt_oss": _OF_EXPERTS,
}


def kind_of(config: PreTrainedConfig) -> str:
    """Which of KINDS a base with this configuration is; of an unknown family, a decoder unless it says otherwise."""
    known = FAMILIES.get(config.model_type)
    if known is None:
        return ENCODER_DECODER if config.is_encoder_decoder else DECODER
    return (known[0] if isinstance(known, tuple) else known).kind


def has_own_head(config: PreTrainedConfig) -> bool:
    """Whether checkpoints of this configuration hold a head of their own, though it says that the embedding is tied.

    T5 1.1 (FLAN-T5) and mT5: transformers 5 ties them in the configuration, and unties them where the weights differ.
    """
    return config.model_type == "mt5" or config.to_dict().get("scale_decoder_outputs") is False


def experts_per_token(config: PreTrainedConfig) -> int:
    """To how many experts a mixture sends each token."""
    return int(config.get_text_config().to_dict()["num_experts_per_tok"])


def family_of(model: PreTrainedModel) -> Family:
    """The row of `model`, or one inferred from its module names; UserError where neither is to be had."""
    model_type = model.config.model_type
    known = FAMILIES.get(model_type)
    if known is None:
        family = _infer(model)
        logger.warning("model_type %r is new here; inferred from its module names: %s", model_type, family)
        return family
    rows = known if isinstance(known, tuple) else (known,)
    paths = {path for path, _ in model.named_modules()}
    for row in rows:
        if all(f"{row.layers}.0.{path}" in paths for path in (*row.sites.values(), *(row.fused or {}).values())):
            return row
    raise UserError(
        f"this {model_type} model ({type(model).__name__}) has no layers at {rows[0].layers}",
        hint="load it with a head: AutoModelForCausalLM, AutoModelForSequenceClassification and the like",
    )


def _infer(model: PreTrainedModel) -> Family:
    """The row for a model whose family is unknown, from the leaf names its layers share with the known decoders."""
    lists = {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len({type(layer) for layer in module}) == 1
    }
    if not lists:
        raise UserError(
            f"no stack of layers found in a {model.config.model_type!r} model",
            hint="tunewise adapts transformers; load a decoder such as llama, gpt2 or opt",
        )
    layers = max(lists, key=lambda path: sum(p.numel() for p in lists[path].parameters()))
    linears = [path for path, module in lists[layers][0].named_modules() if isinstance(module, nn.Linear | Conv1D)]
    known = _roles_by_leaf()
    leaves = {path: path.rsplit(".", 1)[-1] for path in linears}
    sites = {known[leaf]: path for path, leaf in leaves.items() if leaf in known}
    embedding = next(path for path, module in model.named_modules() if module is model.get_input_embeddings())
    if not {"q", "v", "o", "up", "down"} <= sites.keys() or len(sites) != len(linears):
        roles = ", ".join(f'"?": "{path}"' for path in linears)
        raise UserError(
            f"model_type {model.config.model_type!r} is in no row of the anatomy, and its names do not tell the roles",
            hint=f"add to FAMILIES in tunewise/models/families.py: "
            f'"{model.config.model_type}": Family(layers="{layers}", embedding="{embedding}", sites={{{roles}}})',
        )
    return Family(layers=layers, embedding=embedding, sites=sites)


def _roles_by_leaf() -> dict[str, str]:
    """The last name of each site's path in the known decoders -> its role, where all of them agree."""
    roles: dict[str, set[str]] = {}
    for family in FAMILIES.values():
        if not isinstance(family, Family) or family.kind != DECODER:
            continue
        for role, path in family.sites.items():
            roles.setdefault(path.rsplit(".", 1)[-1], set()).add(role)
    return {leaf: found.pop() for leaf, found in roles.items() if len(found) == 1}
