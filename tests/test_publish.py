"""What would be sent to the hub, and what is refused before anybody is asked there."""

import ast
import json
from importlib import import_module
from pathlib import Path

import pytest

from tunewise.adapter_folders import CARD
from tunewise.errors import UserError
from tunewise.methods.attach import attach
from tunewise.methods.reparam.lora import LoRA
from tunewise.methods.store import save_adapter
from tunewise.models.load import load_base
from tunewise.publish import pack
from tunewise.report.plain_card import adapter_card


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run with an adapter in it, and a hub that has nothing yet."""
    publish = import_module("tunewise.publish")
    monkeypatch.setattr(publish, "_user", lambda: "somebody")
    monkeypatch.setattr(publish, "_there", lambda *_: ("", []))
    base = load_base("tiny", "float32")
    tuned = attach(base.model, LoRA(rank=2))
    save_adapter(tuned, tmp_path / "run" / "adapter", tokenizer=base.tokenizer, base_name="tiny")
    tuned.detach()
    return tmp_path / "run"


def test_an_adapter_that_was_changed_is_not_sent(run: Path) -> None:
    assert pack(run, "org/a").kind == "adapter"
    weights = next((run / "adapter").glob("adapter_model.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(UserError, match=r"adapter_model\.safetensors is damaged"):
        pack(run, "org/a")


def test_a_proof_that_failed_is_told_before_it_is_sent(run: Path) -> None:
    proofs = {"reloads": {"passed": False}, "has_an_effect": {"passed": True}}
    (run / "metrics.json").write_text(json.dumps({"proofs": proofs}))
    (run / "adapter" / "README.md").write_text("# A card")
    assert not [told for told in pack(run, "org/a").told if "proofs" in told], "the run is not finished"
    (run / "DONE").touch()
    assert "proofs of its run failed: reloads; until they are understood, trust it not" in pack(run, "org/a").told


def test_an_adapter_of_peft_that_names_no_base_has_a_card(run: Path) -> None:
    folder = run.parent / "by-peft"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": None}))
    text = pack(folder, "org/a").card
    assert "of the base `THE_BASE`" in text
    assert "base_model" not in text


@pytest.mark.parametrize("content", [{"base": 5}, {"base": {}, "notes": []}, []])
def test_what_is_no_card_of_an_adapter_is_told(content: object, run: Path) -> None:
    folder = run.parent / "odd"
    folder.mkdir()
    (folder / CARD).write_text(json.dumps(content))
    with pytest.raises(UserError, match="is no adapter folder"):
        pack(folder, "org/a")


def test_a_configuration_that_is_none_is_told(run: Path) -> None:
    folder = run.parent / "model"
    folder.mkdir()
    (folder / "config.json").write_text("[]")
    with pytest.raises(UserError, match=r"config\.json describes no model"):
        pack(folder, "org/a")


def test_labels_are_written_as_python_has_them(run: Path) -> None:
    labels = ['5" pipe', "back\\slash", "smør", "two\nlines"]
    path = run / "adapter" / CARD
    card = json.loads(path.read_text("utf-8"))
    card["base"]["head"] = {"kind": "classes", "labels": labels}
    path.write_text(json.dumps(card), "utf-8")
    code = adapter_card(run / "adapter", "a").partition("```python\n")[2].partition("```")[0]
    (call,) = (line for line in code.splitlines() if line.startswith("head = "))
    assert list(ast.literal_eval(call.removeprefix('head = tunewise.TaskHead("classes", ').removesuffix(")"))) == labels
