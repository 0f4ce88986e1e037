"""Loading a base, and the error for every folder or name that is none."""

import json
import shutil
import socket
from functools import partial
from threading import Thread

import pytest
import torch
from huggingface_hub import constants
from transformers import PreTrainedTokenizerFast

from tests import bases
from tunewise import hub
from tunewise.errors import UserError
from tunewise.hub import answers
from tunewise.models import fingerprint
from tunewise.models.found import find_base
from tunewise.models.heads import TaskHead
from tunewise.models.load import load_base
from tunewise.models.precision import choose_dtype
from tunewise.planning.shell import shell_of

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


@pytest.mark.parametrize("damage", [lambda data: data[:-8], lambda data: b"\xff" * 8 + data[8:], lambda data: b""])
def test_weights_that_are_not_whole_are_named(folder, damage):
    weights = folder / "model.safetensors"
    weights.write_bytes(damage(weights.read_bytes()))
    with pytest.raises(UserError, match=r"model\.safetensors is damaged") as caught:
        load_base(str(folder))
    assert "again" in caught.value.hint


def test_weights_that_git_lfs_has_not_fetched_are_named(folder):
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    with pytest.raises(UserError, match="pointer of Git LFS") as caught:
        load_base(str(folder))
    assert caught.value.hint == "git lfs pull"


def test_weights_that_a_link_leads_to_and_that_are_gone_are_named(folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("nowhere")
    with pytest.raises(UserError, match=r"model\.safetensors is damaged"):
        load_base(str(folder))


DAMAGED_INDEXES = [
    ("{", "is no valid JSON"),
    ("[]", 'no "weight_map"'),
    ('{"metadata": {}}', 'no "weight_map"'),
    ('{"weight_map": {"a": 3}}', 'no "weight_map"'),
    ('{"weight_map": {"a": "model-2-of-2.safetensors"}}', "has no model-2-of-2.safetensors"),
]


@pytest.mark.parametrize(("content", "told"), DAMAGED_INDEXES)
def test_a_damaged_index_of_shards_is_named(folder, content, told):
    (folder / "model.safetensors").rename(folder / "model-1-of-2.safetensors")
    (folder / "model.safetensors.index.json").write_text(content)
    with pytest.raises(UserError, match=told) as caught:
        load_base(str(folder))
    assert str(folder) in caught.value.message


@pytest.mark.parametrize(("content", "told"), DAMAGED_INDEXES)
def test_a_damaged_index_of_a_repository_is_named(tmp_path, monkeypatch, content, told):
    """Before anything that it names is asked for."""

    class Fetched(hub.Repository):
        def fetch(self, wanted):
            assert not any(file.endswith(".safetensors") for file in wanted)
            return tmp_path

    (tmp_path / "model.safetensors.index.json").write_text(content)
    there = {"config.json": 2, "tokenizer.json": 2, "model.safetensors.index.json": 2, "model-1-of-2.safetensors": 2}
    monkeypatch.setattr(hub, "look_up", lambda name: Fetched(name, "", there, "commit"))
    with pytest.raises(UserError, match=told):
        find_base("org/sharded", "weights")


def test_a_folder_without_a_tokenizer_is_told_what_to_copy(folder):
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(UserError, match="has no tokenizer") as caught:
        load_base(str(folder))
    assert "tokenizer.json" in caught.value.hint


def test_a_pickle_is_refused_with_the_way_to_convert_it(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="a pickle") as caught:
        load_base(str(folder))
    assert "save_pretrained" in caught.value.hint


def test_no_code_of_a_checkpoint_is_run_whatever_is_answered(folder, monkeypatch):
    """transformers asks whether it may, and would run it."""
    config = json.loads((folder / "config.json").read_text())
    own = {**config, "model_type": "ours", "auto_map": {"AutoConfig": "configuration_ours.OursConfig"}}
    (folder / "config.json").write_text(json.dumps(own))
    evil = f"from transformers import LlamaConfig as OursConfig\nopen({str(folder / 'ran')!r}, 'w')\n"
    (folder / "configuration_ours.py").write_text(evil)
    monkeypatch.setattr("builtins.input", lambda _: "y")
    with pytest.raises(UserError, match="is a model of its own code"):
        load_base(str(folder))
    assert not (folder / "ran").exists()


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("./base", "no model folder", ""),
        ("tine", "cannot load 'tine'", "did you mean tiny?"),
        ("somebody/some-model", "HF_HUB_OFFLINE is set", "local-dir"),
    ],
)
def test_what_is_no_model_is_named(name, message, hint):
    with pytest.raises(UserError, match=message) as caught:
        load_base(name)
    assert hint in caught.value.hint


def test_the_softmax_of_gemma2_in_float64_is_warned_of(tmp_path, folder, caplog):
    """Two facts of transformers behind the warning: when this fails, it may go."""
    padding = {"input_ids": torch.tensor([[0, 0, 5, 6]]), "attention_mask": torch.tensor([[0, 0, 1, 1]])}
    for dtype, is_lost in ((torch.float64, True), (torch.float32, False)):
        model = bases.build("gemma2", dtype)
        assert model.config._attn_implementation == "eager"
        assert model(**padding).logits[0, -1].isnan().any() == is_lost
    model.save_pretrained(tmp_path / "gemma2")
    shutil.copy(folder / "tokenizer.json", tmp_path / "gemma2")
    shutil.copy(folder / "tokenizer_config.json", tmp_path / "gemma2")
    for dtype, n_told in (("float32", 0), ("float64", 1)):
        load_base(str(tmp_path / "gemma2"), dtype)
        assert sum("padded rows come out as NaN" in message for message in caplog.messages) == n_told


def test_a_hub_that_does_not_answer_is_tried_once(monkeypatch):
    """A server that hangs up: one connection, whatever is asked for, and no second try."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        answers.cache_clear()
        connections = []

        def hang_up():
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                connections.append(connection.recv(4))
                connection.close()

        Thread(target=hang_up, daemon=True).start()
        try:
            for name in ("somebody/some-model", "somebody/other-model"):
                with pytest.raises(UserError, match=f"{address} does not answer"):
                    load_base(name)
        finally:
            answers.cache_clear()
            server.shutdown(socket.SHUT_RDWR)
    assert connections == [b"HEAD"]


def test_a_mistyped_folder_gets_the_nearest(folder):
    with pytest.raises(UserError, match="no model folder") as caught:
        load_base(str(folder.parent / "bsae"))
    assert "base" in caught.value.hint


def test_a_folder_that_is_no_model(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(UserError, match=r"it has no config\.json"):
        load_base(str(tmp_path))


@pytest.mark.parametrize(("name", "message"), [("gpu", "'gpu' is no device"), ("cuda:99", "no device cuda:99")])
def test_a_device_that_is_not_there_is_named(name, message, monkeypatch):
    monkeypatch.setenv("TUNEWISE_DEVICE", name)
    with pytest.raises(UserError, match=message):
        load_base("tiny")
    assert load_base("tiny", device="cpu").model.device.type == "cpu"


@pytest.mark.parametrize("ask", [load_base, partial(load_base, quantise="nf4"), shell_of])
def test_a_head_that_transformers_does_not_put_on_a_family_is_named(ask, folder, tmp_path):
    place = shutil.copytree(folder, tmp_path / "opt")
    bases.build("opt", torch.float32).save_pretrained(place)
    with pytest.raises(UserError, match="transformers has no tagger for opt, the family of"):
        ask(str(place), head=TaskHead("tags", ("O", "B-THING")))


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
