"""What a page says of how its runs were made: digests that are those of the folders and files."""

import json
from pathlib import Path

from tests.report.runs import write_runs
from tunewise.config import dump_yaml, read_yaml
from tunewise.files import sha256
from tunewise.identity import digest_of_arm
from tunewise.report.arms import read_arms
from tunewise.report.reproduce import digests_of, environment_of
from tunewise.run.recipe import build_recipe, run_folder


def test_a_recipe_has_the_digest_that_names_its_folder(tmp_path: Path) -> None:
    for method in ("lora", {"name": "prompt_tuning", "virtual_tokens": 4}):
        recipe = build_recipe({"data": "tiny:sentiment", "method": method, "seed": 3}, {"train.learning_rate": 2e-4})
        (tmp_path / "recipe.yaml").write_text(dump_yaml(recipe))
        folder = run_folder(recipe).parent.name
        assert folder.endswith("-" + digest_of_arm(read_yaml(tmp_path / "recipe.yaml")))


def test_each_arm_has_its_digests_and_a_command(tmp_path: Path) -> None:
    root = write_runs(tmp_path / "my runs")
    lora = next(root.rglob("lora-1c")) / "seed0"
    adapter = lora / "adapter"
    adapter.mkdir()
    (adapter / "adapter_model.safetensors").write_bytes(b"tensors")
    digest = sha256(adapter / "adapter_model.safetensors")
    manifest = {"adapter_model.safetensors": {"sha256": digest, "bytes": 7}, "tunewise.json": {"sha256": "0"}}
    (adapter / "manifest.json").write_text(json.dumps(manifest))
    found = {each["arm"].label: each for each in digests_of(read_arms(root))}
    assert found["lora"]["adapters"] == [digest]
    assert found["lora"]["seeds"] == "0, 1, 2"
    assert found["lora"]["command"] == f"tunewise train '{lora / 'recipe.yaml'}'", "one word of a shell"
    assert found["full"]["adapters"] == []


def test_the_base_and_unlike_machines_are_told(tmp_path: Path) -> None:
    root = write_runs(tmp_path, seeds=(0,))
    base = {"name": "tiny", "fingerprint": "cb8e", "quantise": ""}
    for number, path in enumerate(sorted(root.rglob("env.json"))):
        path.write_text(json.dumps({"torch": f"2.{number % 2}", "base": base, "data_sha256": "", "tokenizer": None}))
    found = environment_of([run for arm in read_arms(root) for run in arm.runs])
    assert found == {"torch": "2.0, 2.1", "base": "tiny", "base fingerprint": "cb8e"}
