"""By what a run notices that something it reads has changed, and by what it does not."""

import json
import os
import shutil
import time
from types import SimpleNamespace

import pytest
import torch

from tests.small_base import write_pictures
from tunewise.config import dump_yaml
from tunewise.data.config import DataConfig
from tunewise.errors import UserError
from tunewise.run import build_recipe
from tunewise.run.record import base_is_newer, data_digest, digest_of, finished, refuse_another_base, refuse_changed
from tunewise.training.loop import CHECKPOINTS

ROWS = "".join(json.dumps({"text": f"boat {n}", "label": "ab"[n % 2]}) + "\n" for n in range(8))


def digest(path):
    return data_digest(DataConfig(path=str(path)))


def folder_of(place, *names):
    place.mkdir(parents=True)
    for number, name in enumerate(names):
        (place / name).write_text(ROWS + json.dumps({"text": f"own {number}", "label": "a"}) + "\n")
    return place


def test_a_file_that_serves_as_another_part_is_another_data_set(tmp_path):
    place = folder_of(tmp_path / "set", "dev.jsonl", "train.jsonl")
    before = digest(place)
    (place / "dev.jsonl").rename(place / "test.jsonl")  # whose place among the others is the same
    assert digest(place) != before
    (place / "test.jsonl").rename(place / "dev.jsonl")
    assert digest(place) == before


def test_a_picture_in_the_folder_of_another_class_is_another_data_set(tmp_path):
    place = write_pictures(tmp_path / "pictures")
    first, second, *_ = sorted(folder for folder in place.iterdir() if folder.is_dir())
    last = sorted(first.iterdir())[-1]
    before = digest(place)
    last.rename(second / f"0{last.name}")  # the first there: the contents in their order are the same
    assert digest(place) != before


def test_pictures_that_are_split_already_are_seen_to_change(tmp_path):
    whole = write_pictures(tmp_path / "pictures")
    for part in ("train", "test"):
        shutil.copytree(whole, tmp_path / "split" / part)
    before = digest(tmp_path / "split")
    picture = next((tmp_path / "split" / "test").glob("*/*"))
    picture.write_bytes(picture.read_bytes() + b"0")
    assert digest(tmp_path / "split") != before


def test_what_is_written_beside_the_rows_is_no_change_of_them(tmp_path):
    place = folder_of(tmp_path / "set", "train.jsonl", "test.jsonl")
    before = digest(place)
    (place / "README.md").write_text("about it")
    (place / "runs").mkdir()
    (place / "runs" / "comparison.json").write_text("{}")
    assert digest(place) == before
    (place / "data").mkdir()
    (place / "data" / "dev.jsonl").write_text(ROWS)
    assert digest(place) != before


def test_texts_that_tell_what_was_forgotten_are_read_as_well(tmp_path):
    (tmp_path / "rows.jsonl").write_text(ROWS)
    (tmp_path / "texts.txt").write_text("It rained.\n")
    asked = {"data": str(tmp_path / "rows.jsonl"), "retention": str(tmp_path / "texts.txt")}
    recipe = build_recipe({"method": "lora", **asked})
    before, out = digest_of(recipe), tmp_path / "run"
    out.mkdir()
    (out / "DONE").touch()
    (out / "recipe.yaml").write_text(dump_yaml(recipe))
    (out / "env.json").write_text(json.dumps({"data_sha256": before}))
    (out / "metrics.json").write_text('{"test": {}}')
    assert finished(recipe, out, digest_of(recipe)) == {"test": {}}
    (tmp_path / "texts.txt").write_text("It snowed.\n")
    with pytest.raises(UserError, match=r"rows\.jsonl or .*texts\.txt has changed since"):
        finished(recipe, out, digest_of(recipe))


def test_rows_that_are_replayed_are_read_as_well(tmp_path):
    for name in ("rows.jsonl", "old.jsonl"):
        (tmp_path / name).write_text(ROWS)
    data = DataConfig.model_validate({"path": str(tmp_path / "rows.jsonl"), "replay": str(tmp_path / "old.jsonl")})
    before = data_digest(data)
    (tmp_path / "old.jsonl").write_text(ROWS * 2)
    assert data_digest(data) != before


@pytest.mark.parametrize("nothing", ["none", "off", False])
def test_that_nothing_is_asked_after_is_said_by_null(nothing):
    with pytest.raises(UserError, match="nothing is asked where it is null"):
        build_recipe({"data": "tiny:sentiment", "method": "lora", "retention": nothing})


def test_a_model_card_beside_an_adapter_is_no_change_of_it(tmp_path):
    (tmp_path / "rows.jsonl").write_text(ROWS)
    adapter = tmp_path / "first" / "adapter"
    adapter.mkdir(parents=True)
    for name in ("tunewise.json", "adapter_model.safetensors"):
        (adapter / name).write_text("1")
    recipe = build_recipe({"method": "lora", "data": str(tmp_path / "rows.jsonl"), "adapter": str(tmp_path / "first")})
    before = digest_of(recipe)
    (adapter / "README.md").write_text("# A card")
    assert digest_of(recipe) == before
    (adapter / "adapter_model.safetensors").write_text("2")
    assert digest_of(recipe) != before


def test_no_checkpoint_goes_on_with_other_data(tmp_path):
    (tmp_path / "rows.jsonl").write_text(ROWS)
    recipe, out = build_recipe({"method": "lora", "data": str(tmp_path / "rows.jsonl")}), tmp_path / "run"
    refuse_changed(recipe, out, "one", base_of("a"))
    (out / CHECKPOINTS).mkdir(parents=True)
    (out / "env.json").write_text(json.dumps(told_of("a") | {"data_sha256": "one"}))
    refuse_changed(recipe, out, "other", base_of("a"))  # nothing was trained yet
    (out / CHECKPOINTS / "step-00000002").mkdir()
    refuse_changed(recipe, out, "one", base_of("a"))
    with pytest.raises(UserError, match="has changed since") as caught:
        refuse_changed(recipe, out, "other", base_of("a"))
    assert "remove that folder" in caught.value.hint
    with pytest.raises(UserError, match="the base some/where has changed since"):
        refuse_changed(recipe, out, "one", base_of("b"))


def base_of(fingerprint, dtype=torch.float32, quantise=""):
    return SimpleNamespace(name="some/where", fingerprint=fingerprint, dtype=dtype, quantise=quantise)


def told_of(fingerprint):
    return {"dtype": "float32", "base": {"fingerprint": fingerprint}}


def test_weights_are_held_against_those_of_the_run_where_both_can_be(tmp_path):
    (tmp_path / "env.json").write_text(json.dumps(told_of("a")))
    for alike in (base_of("a"), base_of("b", torch.bfloat16), base_of("b", quantise="nf4")):
        refuse_another_base(tmp_path, alike)
    with pytest.raises(UserError, match="the base some/where has changed since"):
        refuse_another_base(tmp_path, base_of("b"))
    (tmp_path / "env.json").write_text("{}")  # of a run that wrote none down
    refuse_another_base(tmp_path, base_of("b"))


def test_a_base_is_newer_where_a_file_of_its_folder_is(tmp_path):
    model, out = tmp_path / "model", tmp_path / "run"
    for folder in (model, out):
        folder.mkdir()
    (model / "model.safetensors").write_text("weights")
    recipe = build_recipe({"method": "lora", "data": "tiny:sentiment", "model": str(model)})
    assert not base_is_newer(recipe, out)  # nothing has begun
    time.sleep(0.02)  # two ticks of the clock of a file system
    (out / "env.json").write_text("{}")
    assert not base_is_newer(recipe, out)
    assert not base_is_newer(build_recipe({"method": "lora", "data": "tiny:sentiment"}), out)
    time.sleep(0.02)
    (model / "model.safetensors").write_text("others")
    os.utime(model / "model.safetensors", (0, 0))  # as an old file that was moved there
    assert base_is_newer(recipe, out)
