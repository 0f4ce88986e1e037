"""Where an adapter lies, and that nothing is written over one that is read, or over that of a run."""

from pathlib import Path

import pytest

from tests.cli.command import tunewise
from tunewise.adapter_folders import find_adapter, refuse_loss
from tunewise.errors import UserError
from tunewise.files import sha256
from tunewise.methods.attach import attach
from tunewise.methods.reparam.lora import LoRA
from tunewise.methods.store import save_adapter
from tunewise.models.load import load_base


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with an adapter in it."""
    folder = tmp_path_factory.mktemp("adapters") / "run"
    base = load_base("tiny", "float32")
    tuned = attach(base.model, LoRA(rank=2))
    save_adapter(tuned, folder / "adapter", tokenizer=base.tokenizer, base_name="tiny")
    tuned.detach()
    (folder / "recipe.yaml").write_text("data: tiny:sentiment\nmethod: lora:rank=2\n")
    return folder


@pytest.mark.parametrize(
    "words",
    [
        ("merge", "RUN", "--out", "RUN/adapter"),
        ("combine", "RUN", "--rank", "1", "--out", "RUN/adapter"),
        ("combine", "RUN/adapter", "--rank", "1", "--out", "RUN/./adapter"),
        ("dial", "RUN/adapter", "--data", "tiny:sentiment", "--save", "RUN/adapter"),
    ],
    ids=" ".join,
)
def test_an_adapter_is_not_replaced_by_what_is_made_of_it(words: tuple[str, ...], run: Path) -> None:
    weights = run / "adapter" / "adapter_model.safetensors"
    before = sha256(weights)
    found = tunewise("adapter", *(word.replace("RUN", str(run)) for word in words))
    assert found.code == 2
    assert "and would be lost\nhint: name a new folder" in found.err
    assert sha256(weights) == before


def test_only_what_is_there_can_be_lost(run: Path, tmp_path: Path) -> None:
    refuse_loss(tmp_path / "adapter", [run / "adapter", tmp_path / "none"])
    with pytest.raises(UserError, match="is the adapter of a run"):
        refuse_loss(run / "adapter", [])


def test_a_file_in_the_place_of_a_folder_is_told(run: Path) -> None:
    with pytest.raises(UserError, match=r"recipe\.yaml is no folder"):
        find_adapter(run / "recipe.yaml")
