"""What is kept aside: the same values, in memory or in a file that nobody sees; and full fine-tuning with it."""

import resource

import pytest
import torch

from tests.bases import build
from tests.rows import random_rows
from tunewise.engine.objectives import NextToken
from tunewise.errors import UserError
from tunewise.methods import parse_method
from tunewise.methods.attach import attach
from tunewise.models import aside
from tunewise.models.aside import mapped, put_aside
from tunewise.training.config import TrainConfig
from tunewise.training.loop import fit

SOME = {
    "bfloat16": torch.randn(7, 5, dtype=torch.bfloat16),
    "transposed": torch.randn(4, 6).T,
    "a number": torch.tensor(2.5, dtype=torch.float64),
    "codes": torch.arange(-3, 200, dtype=torch.int8),
    "nothing": torch.zeros(0, 3),
    "last": torch.tensor([True, False]),
}


@pytest.fixture
def on_disk(monkeypatch, tmp_path):
    """Everything that is put aside goes to a folder of its own."""
    (tmp_path / "cache").mkdir()
    monkeypatch.setattr(aside, "LARGEST_IN_MEMORY_BYTES", 0)
    monkeypatch.setattr(aside, "cache_folder", lambda: tmp_path / "cache")
    return tmp_path / "cache"


def test_what_is_mapped_is_the_same_and_nobody_sees_the_file(on_disk):
    tensors = {name: tensor.clone() for name, tensor in SOME.items()}
    kept = put_aside(tensors)
    for tensor in tensors.values():
        tensor.zero_()
    assert list(kept) == list(SOME)
    for name, tensor in SOME.items():
        assert (kept[name].dtype, kept[name].shape) == (tensor.dtype, tensor.shape), name
        assert torch.equal(kept[name], tensor), name
    assert list(on_disk.iterdir()) == []


def test_small_tensors_are_copied_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(aside, "cache_folder", lambda: tmp_path / "that is not there")
    kept = put_aside(SOME)
    assert all(torch.equal(kept[name], tensor) for name, tensor in SOME.items())
    monkeypatch.setattr(aside, "LARGEST_IN_MEMORY_BYTES", aside.bytes_of(SOME) - 1)
    with pytest.raises(UserError, match="that is not there"):
        put_aside(SOME)


def test_a_full_disk_is_told(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(UserError, match="cannot write"):
            mapped({"w": torch.zeros(100_000)}, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def trained(folder):
    model, scores = build("llama", torch.float32), iter([0.1, 0.9, 0.5, 0.2])
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    tuned = attach(model, parse_method("full"))
    config = TrainConfig(epochs=4, batch_size=4, learning_rate=1e-2)
    told = {"seed": 0, "folder": folder, "objective": NextToken(0)}
    result = fit(tuned, random_rows(8), config, dev_score=lambda: next(scores), **told)
    assert result.best_step == 4
    return tuned, result, before


def test_full_fine_tuning_ends_the_same_with_its_copies_on_the_disk(tmp_path, on_disk, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(aside, "LARGEST_IN_MEMORY_BYTES", 1 << 28)
        whole, expected, _ = trained(tmp_path / "memory")
        in_memory = whole.held_bytes
    tuned, result, before = trained(tmp_path / "disk")
    assert result.losses == expected.losses
    assert [path.name for path in (tmp_path / "disk" / "checkpoints").iterdir()] == ["best-00000004"]
    state, wanted = tuned.state(), whole.state()
    assert state.keys() == wanted.keys()
    assert all(torch.equal(state[name], value) for name, value in wanted.items())
    assert in_memory == 2 * tuned.held_bytes == 2 * sum(value.nbytes for value in before.values())
    tuned.scale = 0.5
    name, value = next(iter(before.items()))
    half = torch.lerp(value, state[f"base.{name}"], 0.5)
    assert torch.equal(tuned.model.get_parameter(name), half)
    model = tuned.detach()
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
