"""Loading a base, and the error for every folder or name that is none."""

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from tests import bases
from tunewise.errors import UserError
from tunewise.models import fingerprint
from tunewise.models.load import load_base
from tunewise.models.precision import choose_dtype

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {word: index for index, word in enumerate(["<pad>", "<s>", "</s>", "a", "b", "c"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>").save_pretrained(tmp_path / "base")
    bases.build("llama", torch.float32).save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def test_a_folder_is_loaded_ready_to_use(folder):
    base = load_base(str(folder), dtype="float32")
    assert base.dtype == torch.float32
    assert not base.model.training
    assert base.tokenizer.pad_token == "</s>"
    for name, value in bases.build("llama", torch.float32).state_dict().items():
        assert torch.equal(base.model.state_dict()[name], value)
    assert base.anatomy.n_layers == 2


def test_one_fingerprint_in_every_precision_and_another_for_other_weights(folder):
    prints = {dtype: load_base(str(folder), dtype=dtype).fingerprint for dtype in ("float32", "bfloat16", "float64")}
    assert len(set(prints.values())) == 1
    other = bases.build("llama", torch.float32)
    with torch.no_grad():
        other.lm_head.weight[3, 4] += 0.1
    assert fingerprint.of_model(other) != prints["float32"]


def test_dtype_is_measured_and_never_float16_on_a_cpu():
    assert choose_dtype("auto", CPU) in (torch.float32, torch.bfloat16)
    assert choose_dtype("float16", CPU) == choose_dtype("auto", CPU)
    assert choose_dtype("bf16", CPU) == torch.bfloat16
    with pytest.raises(UserError, match="no dtype named 'flaot32'") as caught:
        choose_dtype("flaot32", CPU)
    assert "float32" in caught.value.hint


def test_a_pickle_is_refused_with_the_way_to_convert_it(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="a pickle") as caught:
        load_base(str(folder))
    assert "save_pretrained" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("./base", "no model folder", ""),
        ("tine", "cannot load 'tine'", "did you mean tiny?"),
        ("somebody/some-model", "the hub did not give it", "local-dir"),
    ],
)
def test_what_is_no_model_is_named(name, message, hint):
    with pytest.raises(UserError, match=message) as caught:
        load_base(name)
    assert hint in caught.value.hint


def test_a_mistyped_folder_gets_the_nearest(folder):
    with pytest.raises(UserError, match="no model folder") as caught:
        load_base(str(folder.parent / "bsae"))
    assert "base" in caught.value.hint


def test_a_folder_that_is_no_model(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(UserError, match=r"it has no config\.json"):
        load_base(str(tmp_path))


def test_a_tokenizer_that_grows_has_another_fingerprint(folder):
    ours, again = load_base(str(folder)).tokenizer, load_base(str(folder)).tokenizer
    before = fingerprint.of_tokenizer(ours)
    assert fingerprint.of_tokenizer(ours) == before == fingerprint.of_tokenizer(again)
    ours.add_tokens(["fjord"])
    after = fingerprint.of_tokenizer(ours)
    again.add_tokens(["fjord"])
    assert before != after == fingerprint.of_tokenizer(again)
    ours.pad_token = "fjord"
    assert fingerprint.of_tokenizer(ours) not in (before, after)
