"""The families beside those that the contract tests go through: where their parts are, and what is attached there.

Each is held against a number that the package did not make: peft's logits from the same file, the base's own from
embeddings put together by hand, adapters written out in a line of torch, or weights written into the model.
"""

import copy
import re
from functools import cache
from pathlib import Path

import peft
import pytest
import torch
from torch.nn import functional

from tests import bases, more_bases
from tests.more_bases import DECODERS, ENCODERS, IMAGES, MORE, PAIRS
from tests.rows import random_rows
from tests.tuned import losses_and_gradients
from tests.tuned import moved as moved_from_its_start
from tunewise.engine.native.build import library
from tunewise.engine.objectives import NextToken, PackedNextToken
from tunewise.engine.packed_classifier import first_position
from tunewise.engine.packed_writing import why_not_pairs
from tunewise.engine.packing import why_not_packed
from tunewise.errors import UserError
from tunewise.methods import METHODS, parse_method
from tunewise.methods.attach import Tuned, attach
from tunewise.methods.store import load_adapter, save_adapter
from tunewise.models import families
from tunewise.models.anatomy import read_anatomy
from tunewise.models.families import FAMILIES
from tunewise.models.refused import REFUSED
from tunewise.models.weights import dense_weight, set_dense_weight

IDS = torch.tensor([[5, 9, 33, 20, 7, 41, 3], [8, 8, 60, 12, 50, 6, 11]])
FUSED = (
    "falcon", "falcon_grouped", "falcon_alibi", "bloom", "persimmon_plain", "mpt", "codegen", "gpt_bigcode",
    "gpt_bigcode_heads", "deberta_plain", "modernbert",
)  # fmt: skip
GATED = ("glm", "glm4", "modernbert")  # gate and up are one module
NO_SITES = {  # DeBERTa's of positions; norms with a row for each head; the gates of linear attention and of Gemma 4
    "pos_proj", "pos_q_proj", "q_norm", "k_norm", "in_proj_z", "in_proj_a", "in_proj_b", "per_layer_input_gate",
    "per_layer_projection",
}  # fmt: skip
ONLY_FLOAT32 = ("xglm",)  # transformers writes a float64 into a float32 there
KINDS = {
    **dict.fromkeys(DECODERS, families.DECODER),
    **dict.fromkeys(ENCODERS, families.ENCODER),
    **dict.fromkeys(PAIRS, families.ENCODER_DECODER),
    **dict.fromkeys(IMAGES, families.VISION),
}


def build(name):
    return copy.deepcopy(_built(name))


@cache
def _built(name):
    return more_bases.build(name, torch.float32 if name in ONLY_FLOAT32 else torch.float64)


@cache
def base_says(name):
    return says(_built(name))


def tolerance(name):
    return 1e-4 if name in ONLY_FLOAT32 else 1e-9


def acted_on_by(name):
    """The small models that the method of this name does not refuse."""
    not_on = METHODS[name].not_on
    return [family for family, small in MORE.items() if not {small.model_type, KINDS[family]} & set(not_on)]


def moved(family, **method) -> Tuned:
    tuned = attach(build(family), parse_method(method))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in tuned.trainable.values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return tuned


def says(model, ids=IDS, prefix=()):
    with torch.no_grad():
        return bases.logits(model, ids, prefix)


def test_every_family_of_the_table_is_tried_here_or_in_the_contract():
    tried = {small.model_type for small in MORE.values()}
    tried |= {read_anatomy(bases.build(family)).model_type for family in (*bases.CONFIGS, *bases.MIXTURES)}
    assert set(FAMILIES) - tried == {"gemma3", "gemma4", "qwen3_5"}  # their text parts have rows of their own
    assert len(MORE) >= 60


@pytest.mark.parametrize("name", MORE)
def test_every_linear_weight_of_a_layer_is_in_exactly_one_whole_site(name):
    model = more_bases.build(name, torch.float32)
    anatomy = read_anatomy(model)
    whole = [site.module for site in anatomy.find(["all"])]
    assert len(whole) == len(set(whole))
    matrices = {
        key.removesuffix(".weight")
        for key, parameter in model.named_parameters()
        if parameter.dim() == 2 and key.startswith(anatomy.layers) and "relative_attention_bias" not in key
    }
    assert {path for path in matrices if path.rpartition(".")[2] not in NO_SITES} == set(whole)
    assert {"q", "k", "v", "o", "up", "down"} <= set(anatomy.roles)
    assert (anatomy.kind, anatomy.d_model) == (KINDS[name], bases.WIDTH)
    assert anatomy.n_layers == bases.LAYERS * (2 if name in PAIRS else 1)
    width = MORE[name].fields.get("head_dim") or bases.WIDTH // bases.HEADS
    for site in anatomy.sites:
        assert site.d_out == anatomy.n_key_value_heads * width or site.role not in ("k", "v")
    assert bool(anatomy.head) == (KINDS[name] in families.WRITERS)


@pytest.mark.parametrize("name", ["nemotron", "qwen3_5_text", "stablelm_parallel", "gemma4_text"])
def test_norms_are_all_that_are_called_so(name):
    """LayerNorm1P, RMSNormGated, and those that have one for each head."""
    model = more_bases.build(name, torch.float32)
    anatomy = read_anatomy(model)
    wanted = {key for key, p in model.named_parameters() if "norm" in key.rpartition(".")[0] and p.dim() == 1}
    assert set(parse_method("norms").select(anatomy)) == wanted
    assert len(wanted) > 2 * anatomy.n_layers


@pytest.mark.parametrize("name", FUSED)
def test_the_slices_of_a_fused_projection_are_queries_keys_and_values(name):
    """Values alone leave attention; scores are products of queries and keys, and of nothing else."""
    model = build(name)
    anatomy = read_anatomy(model)
    for key, parameter in model.named_parameters():
        if key.endswith(("q_bias", "v_bias")):
            torch.nn.init.zeros_(parameter)
    mixed = []
    for site in anatomy.find(["o"]):
        model.get_submodule(site.module).register_forward_pre_hook(lambda module, args: mixed.append(args[0]))
    kept = {site.name: dense_weight(model, site) for site in anatomy.sites if site.is_slice}

    def write(role, weight, bias=0.0):
        for site in anatomy.find([role]):
            shape, own = kept[site.name][0].shape, kept[site.name][1]
            drawn = weight * torch.randn(shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
            set_dense_weight(model, site, drawn, None if own is None else torch.full_like(own, bias))

    plain = says(model)
    write("q", 0.0)
    without_queries = says(model)
    write("k", 1.0, 1.0)
    torch.testing.assert_close(says(model), without_queries, rtol=0, atol=1e-12)
    assert (without_queries - plain).abs().max() > 1e-3
    write("q", 1.0, 1.0)
    assert (says(model) - without_queries).abs().max() > 1e-3
    write("k", 0.0)
    torch.testing.assert_close(says(model), without_queries, rtol=0, atol=1e-12)
    write("v", 0.0, 1.0)
    mixed.clear()
    says(model)
    assert len(mixed) == anatomy.n_layers
    for value in mixed:  # an average of values that are their bias alone
        torch.testing.assert_close(value, torch.full_like(value, float(anatomy.find(["v"])[0].has_bias)))


@pytest.mark.parametrize("name", MORE)
def test_lora_on_every_module_is_pefts(name, tmp_path):
    model = more_bases.build(name, torch.float32)
    plain = says(model)
    tuned = attach(model, parse_method({"name": "lora", "rank": 2, "alpha": 6, "roles": ["all"]}))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in tuned.trainable.values():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    save_adapter(tuned, tmp_path / "adapter")
    ours = says(tuned.model)
    theirs = peft.PeftModel.from_pretrained(tuned.detach(), tmp_path / "adapter")
    torch.testing.assert_close(says(theirs), ours, rtol=0, atol=1e-4)
    assert (ours - plain).abs().max() > 1e-2
    assert sum("lora_A" in key for key, _ in theirs.named_parameters()) == len(tuned.deltas)


@pytest.mark.parametrize("name", MORE)
def test_what_can_be_folded_is_the_weight_it_stands_for(name):
    """Scaled keys, values and feed-forward inputs (IA3), and LoRA on the slices that peft knows nothing of."""
    on_slices = {"name": "lora", "rank": 2, "roles": ["q", "v", *(["gate"] if name in GATED else [])]}
    for method in ({"name": "ia3"}, *([on_slices] if name in (*FUSED, *GATED) else [])):
        tuned = moved(name, **method)
        ours = says(tuned.model)
        assert (ours - base_says(name)).abs().max() > 1e-4
        with tuned.folded() as model:
            torch.testing.assert_close(says(model), ours, rtol=0, atol=tolerance(name))


def detached(tuned) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """The base with what was trained of its own tensors, and the others by name."""
    state = tuned.state()
    model = tuned.detach()
    with torch.no_grad():
        for name in tuned.selected:
            model.get_parameter(name).copy_(state.pop(f"base.{name}"))
    return model, state


@pytest.mark.parametrize("name", MORE)
def test_adapters_and_biases_are_a_line_of_torch(name):
    """Biases added to every output, and y + up(relu(down(y))) behind attention and the feed-forward part."""
    for method in ({"name": "bitfit", "add": True}, {"name": "bottleneck", "bottleneck": 4, "placement": "houlsby"}):
        tuned = moved(name, **method)
        ours = says(tuned.model)
        assert (ours - base_says(name)).abs().max() > 1e-4
        model, state = detached(tuned)
        for site in map(tuned.site, tuned.deltas):
            own = {key.removeprefix(f"delta.{site.name}."): value for key, value in state.items()}
            model.get_submodule(site.module).register_forward_hook(_by_hand(own))
        torch.testing.assert_close(says(model), ours, rtol=0, atol=tolerance(name))
        assert len(tuned.deltas) >= 2 * tuned.anatomy.n_layers or method["name"] == "bitfit"


def _by_hand(own):
    def added(module, args, y):
        if "bias" in own:
            return y + own["bias"]
        inner = functional.relu(functional.linear(y, own["down"], own["down_bias"]))
        return y + functional.linear(inner, own["up"], own["up_bias"])

    return added


@pytest.mark.parametrize(
    "name", [name for name in acted_on_by("prompt_tuning") if name != "esm"]
)  # it scales ids alone
def test_a_soft_prompt_is_embeddings_put_before_those_of_the_text(name):
    tuned = moved(name, name="prompt_tuning", virtual_tokens=3)
    ours = says(tuned.model, prefix=tuned.prefix_ids)
    embed = tuned.model.get_submodule(tuned.anatomy.embedding.module)
    model, state = detached(tuned)
    with torch.no_grad():
        entered = torch.cat([state["delta.embedding.prompt"].expand(len(IDS), -1, -1), embed(IDS)], dim=1)
        decoded = {"decoder_input_ids": IDS[:, :4], "use_cache": False} if name in PAIRS else {}
        found = model(inputs_embeds=entered, **decoded).logits
    by_hand = found if found.dim() == 2 or decoded else found[:, -IDS.shape[1] :]
    torch.testing.assert_close(ours, by_hand, rtol=0, atol=tolerance(name))


@pytest.mark.parametrize("name", acted_on_by("prefix_tuning"))
def test_of_a_prefix_its_keys_and_values_are_seen_and_nothing_else(name):
    """The tokens that make room for it may be any: what the base makes of them reaches nobody."""
    tuned = moved(name, name="prefix_tuning", virtual_tokens=3)
    ours = says(tuned.model, prefix=tuned.prefix_ids)
    with torch.no_grad():
        embeddings = {tuned.model.get_input_embeddings(), tuned.model.get_submodule(tuned.anatomy.embedding.module)}
        for embedding in embeddings:
            embedding.weight[:2] += 1.0  # ids 0 and 1, of which IDS holds none
    now = says(tuned.model, prefix=tuned.prefix_ids)
    of_words = slice(2, None) if ours.dim() == 3 else slice(None)  # those two are words of a tied head
    torch.testing.assert_close(now[..., of_words], ours[..., of_words], rtol=0, atol=tolerance(name))
    for parameter in tuned.trainable.values():
        torch.nn.init.normal_(parameter)
    assert (says(tuned.model, prefix=tuned.prefix_ids) - now).abs().max() > 1e-4


@pytest.mark.parametrize(
    "name", ["falcon", "falcon_grouped", "bloom", "gpt_bigcode", "olmo2", "phi_normed", "persimmon"]
)
def test_a_prefix_is_pefts_where_its_cache_holds_what_is_learned(name, tmp_path):
    tuned = moved_from_its_start(
        attach(more_bases.build(name, torch.float32), parse_method({"name": "prefix_tuning", "virtual_tokens": 3}))
    )
    save_adapter(tuned, tmp_path)
    ours = says(tuned.model, prefix=tuned.prefix_ids)
    fresh = load_adapter(more_bases.build(name, torch.float32), tmp_path)
    assert torch.equal(says(fresh.model, prefix=fresh.prefix_ids), ours)
    assert (tmp_path / "adapter_config.json").exists() == (name != "falcon_grouped")
    if name != "falcon_grouped":  # whose cache holds the keys of a group once for each query
        theirs = peft.PeftModel.from_pretrained(more_bases.build(name, torch.float32), tmp_path)
        torch.testing.assert_close(says(theirs), ours, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["gpt_bigcode", "modernbert", "umt5"])
def test_ia3_on_every_module_is_pefts_where_names_are_shared(name, tmp_path):
    """By what leaves attention and what leaves the feed-forward part, or an end of them."""
    tuned = moved_from_its_start(
        attach(more_bases.build(name, torch.float32), parse_method({"name": "ia3", "roles": ["all"]}))
    )
    save_adapter(tuned, tmp_path)
    ours = says(tuned.model)
    theirs = peft.PeftModel.from_pretrained(more_bases.build(name, torch.float32), tmp_path)
    torch.testing.assert_close(says(theirs), ours, rtol=0, atol=1e-4)
    assert (ours - says(tuned.detach())).abs().max() > 1e-2


def test_a_prompt_of_esm_is_none_of_pefts(tmp_path):
    """Which hands on embeddings, and ESM makes those of ids smaller."""
    tuned = attach(more_bases.build("esm", torch.float32), parse_method({"name": "prompt_tuning", "virtual_tokens": 3}))
    save_adapter(tuned, tmp_path / "ours")
    assert not (tmp_path / "ours" / "adapter_config.json").exists()
    config = peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=3)
    peft.get_peft_model(more_bases.build("esm", torch.float32), config).save_pretrained(tmp_path / "theirs")
    with pytest.raises(UserError, match="esm reads embeddings"):
        load_adapter(more_bases.build("esm", torch.float32), tmp_path / "theirs")


def a_prefix_of_pefts(model, folder):
    """Logits behind a prefix that peft has written into the folder."""
    theirs = peft.get_peft_model(model, peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)).eval()
    with torch.no_grad():
        torch.nn.init.normal_(theirs.prompt_encoder["default"].embedding.weight, std=0.5)
    theirs.save_pretrained(folder)
    return says(theirs)


@pytest.mark.parametrize(
    "name", ["hunyuan_v1_dense", "phi_normed", "stablelm_parallel", "exaone4", "falcon_alibi", "gptj", "olmoe"]
)
def test_a_prefix_of_pefts_is_read_whatever_the_keys_pass(name, tmp_path):
    """Norms before a rotation of all numbers or of some, and behind one; no rotation at all."""
    build = bases.build if name in bases.MIXTURES else more_bases.build
    expected = a_prefix_of_pefts(build(name, torch.float32), tmp_path)
    tuned = load_adapter(build(name, torch.float32), tmp_path)
    torch.testing.assert_close(says(tuned.model, prefix=tuned.prefix_ids), expected, rtol=0, atol=1e-4)


def test_keys_that_a_base_has_not_rotated_alone_are_not_turned_back(tmp_path, monkeypatch):
    a_prefix_of_pefts(more_bases.build("hunyuan_v1_dense", torch.float32), tmp_path)
    monkeypatch.setitem(FAMILIES, "hunyuan_v1_dense", FAMILIES["llama"])  # as of a base without a row
    model = more_bases.build("hunyuan_v1_dense", torch.float32)
    with pytest.raises(UserError, match="keys of this hunyuan_v1_dense base are not rotated alone"):
        load_adapter(model, tmp_path)
    assert attach(model, parse_method("lora")).method.name == "lora"


@pytest.mark.parametrize("method", ["prompt_tuning", "prefix_tuning", "mam", "llama_adapter"])
def test_who_has_no_keys_and_values_in_every_layer_is_refused_what_needs_them(method):
    refused = {name for name in DECODERS if name not in acted_on_by(method)}
    ids = {"gemma4_text", "gemma4_shared", "gemma4_values"}
    assert refused == (ids if method == "prompt_tuning" else {"qwen3_5_text", "lfm2", *ids})
    for name in refused:
        with pytest.raises(UserError, match=f"{method} does not act on"):
            attach(build(name), parse_method({"name": method, "virtual_tokens": 2}))


PAGE = (Path(__file__).parents[2] / "docs" / "models.md").read_text("utf-8")
ON_THE_PAGE = {
    name: row.rpartition(" | ")[2]
    for row in re.findall(r"^\| (`.* (?:packed|padded)) \|$", PAGE, re.M)
    for name in re.findall(r"`([^`]+)`", row.partition(" | ")[0])
}


def test_norms_that_are_given_heads_first_are_known_as_such():
    found = []
    for name in (*bases.DECODERS, *DECODERS):
        model, seen = bases.build(name) if name in bases.DECODERS else build(name), []
        norms = {model.get_submodule(path): path for path in read_anatomy(model).norms}
        for norm in norms:
            norm.register_forward_pre_hook(lambda norm, args, seen=seen: seen.append((norm, args[0].shape)))
        with torch.no_grad():
            model(input_ids=torch.arange(3, 14)[None].to(model.device), use_cache=False)
        heads_first = {norms[norm] for norm, shape in seen if len(shape) == 4 and shape[2] == 11}
        assert heads_first == set(read_anatomy(model).norms_heads_first), name
        found += [name] if heads_first else []
    assert {"gemma3_text", "apertus", "phi_normed", "hunyuan_v1_dense"} <= set(found)


def test_the_page_tells_of_every_family_once():
    assert set(ON_THE_PAGE) == set(FAMILIES)
    for row in re.findall(r"^\| `.*", PAGE, re.M):
        assert all(row.count(f"`{name}`") == 1 for name in re.findall(r"`([^`]+)`", row.partition(" | ")[0]))
    assert PAGE.count(" packed |") + PAGE.count(" padded |") >= 20
    refused = PAGE.partition("## Refused")[2]
    for name, why in REFUSED.items():
        assert re.search(rf"^\| {re.escape(why)} \| .*`{name}`", refused, re.M), name


@pytest.mark.skipif(library() is None, reason="no kernels here")
@pytest.mark.parametrize("name", [*ENCODERS, *PAIRS])
def test_texts_and_pairs_run_packed_where_the_page_says_so(name):
    model = more_bases.build(name, torch.float32)
    anatomy = read_anatomy(model)
    reason = why_not_pairs(model, anatomy) if name in PAIRS else first_position(model, anatomy, (), "first")[1]
    assert ON_THE_PAGE[MORE[name].model_type] == ("padded" if reason else "packed"), reason
    pooled = {"nomic_bert": "its head makes one answer of all texts", "eurobert": "packs texts to another answer"}
    assert pooled.get(name, "") in reason


@pytest.mark.skipif(library() is None, reason="no kernels here")
@pytest.mark.parametrize("name", DECODERS)
def test_rows_run_packed_as_padded_or_padded_with_the_reason(name):
    tuned = moved_from_its_start(
        attach(more_bases.build(name, torch.float32), parse_method({"name": "lora", "rank": 2, "roles": ["all"]}))
    )
    rows = random_rows(3)
    padded = losses_and_gradients(tuned, NextToken(0), rows)
    number = min(range(len(rows)), key=lambda number: len(rows[number].ids))
    alone = losses_and_gradients(tuned, NextToken(0), [rows[number]])
    torch.testing.assert_close(padded[0][number], alone[0][0], rtol=2e-5, atol=2e-5)
    reason = why_not_packed(tuned.model)
    assert ON_THE_PAGE[MORE[name].model_type] == ("padded" if reason else "packed"), reason
    if reason:
        assert type(tuned.model).__name__ in reason
        return
    packed = losses_and_gradients(tuned, PackedNextToken(0), rows)
    torch.testing.assert_close(packed[0], padded[0], rtol=2e-5, atol=2e-5)
    for key, gradient in padded[1].items():
        scale = gradient.abs().max().clamp(min=1e-3)
        torch.testing.assert_close(packed[1][key] / scale, gradient / scale, rtol=0, atol=2e-4, msg=key)
