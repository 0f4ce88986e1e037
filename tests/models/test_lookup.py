"""Families without a row: inferred where their names tell the roles, refused where they cannot be adapted rightly."""

import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

from tests import bases
from tests.cli.command import tunewise
from tests.more_bases import ENCODERS
from tunewise.errors import UserError
from tunewise.models.anatomy import read_anatomy
from tunewise.models.families import DECODER, ENCODER, FAMILIES, VISION, kind_of
from tunewise.models.refused import REFUSED

LIKE_LLAMA = ("cwm", "diffllama", "bitnet")
LIKE_BERT = ("yoso", "layoutlm", "mra")


def shell(name, auto_class=AutoModelForCausalLM, **fields):
    with torch.device("meta"):
        return auto_class.from_config(AutoConfig.for_model(name, **fields))


@pytest.mark.parametrize("name", LIKE_LLAMA)
def test_tomorrows_llama_needs_no_row(name, caplog):
    assert name not in FAMILIES
    anatomy = read_anatomy(shell(name, **bases.DECODERS["llama"]))
    assert (anatomy.kind, anatomy.n_layers, anatomy.n_key_value_heads) == (DECODER, bases.LAYERS, 2)
    assert set(anatomy.roles) == {"q", "k", "v", "o", "gate", "up", "down"}
    assert name in caplog.text
    assert "inferred" in caplog.text


@pytest.mark.parametrize("name", LIKE_BERT)
def test_an_encoder_with_the_names_of_a_known_one_is_inferred_as_one(name):
    assert name not in FAMILIES
    fields = ENCODERS["ernie"].fields
    anatomy = read_anatomy(shell(name, transformers.AutoModelForSequenceClassification, **fields))
    assert (anatomy.kind, anatomy.n_layers) == (ENCODER, bases.LAYERS)
    paths = {site.role: site.module.rpartition("layer.0.")[2] for site in anatomy.find(["all"], [0])}
    assert paths == {
        "q": "attention.self.query", "k": "attention.self.key", "v": "attention.self.value",
        "o": "attention.output.dense", "up": "intermediate.dense", "down": "output.dense",
    }  # fmt: skip


def test_names_that_do_not_tell_the_roles_are_refused_with_the_row_to_write():
    with pytest.raises(UserError, match="in no row of the anatomy, and its names do not tell") as caught:
        read_anatomy(shell("openai-gpt", vocab_size=64, n_embd=32, n_layer=2, n_head=4))
    for part in ("families.py", '"openai-gpt"', 'layers="transformer.h"', '"?": "attn.c_attn"'):
        assert part in caught.value.hint


def test_layers_that_differ_are_refused():
    with pytest.raises(UserError, match=r"'jamba' is in no row of the anatomy, and its layers 0 and 1 hold different"):
        read_anatomy(shell("jamba", **{**bases.DECODERS["llama"], "num_hidden_layers": 4}))
    with pytest.raises(UserError, match="layers of different kinds found in a 'olmo_hybrid' model"):
        read_anatomy(shell("olmo_hybrid", **{**bases.DECODERS["llama"], "num_hidden_layers": 4}))


@pytest.mark.parametrize("name", REFUSED)
def test_a_family_that_cannot_be_adapted_rightly_is_refused_before_its_weights_are_read(name, tmp_path):
    config = AutoConfig.for_model(name)
    with pytest.raises(UserError, match=f"{name} models are not adapted here: ") as caught:
        kind_of(config)
    assert REFUSED[name] in caught.value.message
    if name == "albert":
        config.save_pretrained(tmp_path / "base")
        for words in (("plan", tmp_path / "base"), ("train", "--model", tmp_path / "base", "--data", "tiny:sentiment")):
            found = tunewise(*words)
            assert found.code == 2
            assert "its layers are one set of weights" in found.err.replace("\n", " ")


def test_the_kind_of_a_stranger_is_what_transformers_has_heads_for():
    assert kind_of(AutoConfig.for_model("yoso")) == ENCODER
    assert kind_of(AutoConfig.for_model("bit")) == VISION
    assert kind_of(AutoConfig.for_model("ctrl")) == DECODER
    assert kind_of(AutoConfig.for_model("fsmt")) == "encoder_decoder"
    assert not {"yoso", "bit", "ctrl", "fsmt"} & set(FAMILIES)
