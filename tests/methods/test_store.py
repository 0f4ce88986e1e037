"""Adapter folders: proved by their probe, refused for another base, and never half-written."""

import json
import shutil

import pytest
import torch

from tests import bases
from tunewise.errors import UserError
from tunewise.methods import parse_method
from tunewise.methods.attach import attach
from tunewise.methods.store import check_probe, load_adapter, read_card, save_adapter

PROMPTS = [{"input_ids": torch.tensor([ids])} for ids in [[5, 9, 33], [8, 8, 60, 12, 50]]]


@pytest.fixture
def folder(tmp_path):
    tuned = attach(bases.build("llama", torch.float32), parse_method({"name": "lora", "rank": 4}), seed=1)
    with torch.no_grad():
        for parameter in tuned.trainable.values():
            parameter.add_(0.1)
    save_adapter(tuned, tmp_path / "adapter", base_name="a-base", notes={"seed": 1}, probe=PROMPTS)
    return tmp_path / "adapter"


def test_a_reloaded_adapter_passes_its_probe(folder):
    differences = check_probe(load_adapter(bases.build("llama", torch.float32), folder), folder)
    assert differences["tuned"] == 0
    assert differences["base"] == 0
    assert differences["effect"] > 1e-3


def test_a_run_is_named_for_its_adapter_and_a_base_is_no_model(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "run" / "adapter")
    tuned = load_adapter(bases.build("llama", torch.float32), tmp_path / "run")
    expected = load_adapter(bases.build("llama", torch.float32), folder).state()
    assert all(torch.equal(value, expected[name]) for name, value in tuned.state().items())
    for taken in (lambda model: load_adapter(model, folder), lambda model: attach(model, tuned.method)):
        with pytest.raises(UserError, match="is no model") as caught:
            taken(object())
        assert "base.model" in caught.value.hint


def test_the_probe_notices_an_adapter_that_changed(folder):
    tuned = load_adapter(bases.build("llama", torch.float32), folder)
    with torch.no_grad():
        next(iter(tuned.trainable.values()))[0, 0] += 0.5
    differences = check_probe(tuned, folder)
    assert differences["tuned"] > 1e-5
    assert differences["base"] == 0


def test_the_card_says_what_it_is(folder):
    card = read_card(folder)
    assert card["method"] == {
        "name": "lora", "rank": 4, "alpha": 16.0, "rslora": False, "dropout": 0.0,
        "roles": ["q", "v"], "layers": None, "init": "kaiming", "b_rate": 1.0,
    }  # fmt: skip
    assert card["base"]["name"] == "a-base"
    assert card["n_trainable"] == 2 * 4 * (32 + 32 + 32 + 16)
    assert card["notes"] == {"seed": 1}
    assert card["dtype"] == "float32"


def test_another_base_is_refused_and_left_alone(folder):
    other = bases.build("llama", torch.float32, seed=9)
    with pytest.raises(UserError, match="was made for base a-base") as caught:
        load_adapter(other, folder)
    assert "--model a-base" in caught.value.hint
    with pytest.raises(UserError, match="this one is 01234567"):
        load_adapter(other, folder, base_fingerprint="0123456789abcdef")
    attach(other, parse_method("frozen"))


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
def test_a_damaged_file_is_named(folder, name):
    content = bytearray((folder / name).read_bytes())
    content[-5] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name} is damaged"):
        load_adapter(bases.build("llama", torch.float32), folder)


def test_a_folder_of_another_format_or_none_at_all(folder, tmp_path):
    card = json.loads((folder / "tunewise.json").read_text())
    (folder / "tunewise.json").write_text(json.dumps({**card, "format": 99}))
    with pytest.raises(UserError, match="has format 99, this version reads 1"):
        load_adapter(bases.build("llama", torch.float32), folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="is no adapter folder"):
        load_adapter(bases.build("llama", torch.float32), tmp_path / "empty")


def test_saving_leaves_scale_and_values_as_they_were(tmp_path):
    tuned = attach(bases.build("llama", torch.float32), parse_method("full"))
    with torch.no_grad():
        for parameter in tuned.trainable.values():
            parameter.add_(0.1)
    state = tuned.state()
    tuned.scale = 0.5
    half = {name: p.detach().clone() for name, p in tuned.trainable.items()}
    save_adapter(tuned, tmp_path / "adapter", probe=PROMPTS)
    assert tuned.scale == 0.5
    for name, parameter in tuned.trainable.items():
        torch.testing.assert_close(parameter, half[name])
        assert torch.equal(tuned.state()[name], state[name])


def test_seeds_are_reproducible_and_leave_the_global_generator_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    states = [attach(bases.build("llama"), parse_method("lora"), seed=s).state() for s in (1, 1, 2)]
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert any(not torch.equal(states[0][name], states[2][name]) for name in states[0])
