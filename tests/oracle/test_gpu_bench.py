"""The bench of GPUs on a small shape and a CPU: our losses are those of peft + Trainer, and nothing is kept."""

import json

import pytest
import torch

from bench import gpu, gpu_systems, kept, performance
from bench.gpu_systems import System, Taken
from tunewise.data.encode import Encoded
from tunewise.engine.batches import IGNORED

SMALL = [
    "--device", "cpu", "--layers", "2", "--hidden", "64", "--vocabulary", "128", "--longest", "64",
    "--batch-size", "2", "--steps", "3", "--rounds", "1", "--works", "1b-lora-qv",
]  # fmt: skip


def test_a_small_shape_is_measured_beside_trainer_and_not_kept(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(kept, "RESULTS", tmp_path)
    gpu.main(SMALL)
    (found,) = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith('{"shape"')]
    systems = found["systems"]
    assert systems.keys() == gpu_systems.SYSTEMS.keys()
    for name in ("tunewise", "peft + Trainer", "peft + Trainer at its best"):
        assert systems[name]["tokens_per_second"] > 0, systems[name]
        assert systems[name]["peak_mib"] > 0
    assert systems["peft + Trainer"]["loss_difference"] < 0.01  # and not 0, or one was compared with itself
    assert systems["peft + Trainer"]["loss_difference"] > 0
    assert all(each["error"] < 0.02 for each in found["attention"].values())
    assert not list(tmp_path.iterdir())
    assert "| 1b, lora, q and v | tunewise |" in performance.gpu([found])


def test_losses_of_another_size_fail_the_bench(monkeypatch):
    def wrong(job):
        return Taken(1.0, [1.0] * job.config.steps, 1, "packed")

    ours = gpu_systems.SYSTEMS["tunewise"]
    monkeypatch.setattr(gpu_systems, "SYSTEMS", {"tunewise": ours, "wrong": System(wrong, (), "every")})
    with pytest.raises(AssertionError, match="the losses of wrong are"):
        gpu.main(SMALL)


def test_a_peer_that_fails_is_told_with_its_reason(monkeypatch, capsys):
    def broken(job):
        raise ValueError("not with this version")

    ours, absent = gpu_systems.SYSTEMS["tunewise"], System(broken, ("no_such_package",), "every")
    systems = {"tunewise": ours, "broken": System(broken, (), "every"), "absent": absent}
    monkeypatch.setattr(gpu_systems, "SYSTEMS", systems)
    gpu.main(SMALL)
    found = json.loads(capsys.readouterr().out.splitlines()[-1])["systems"]
    assert found["broken"] == {"reason": "failed: ValueError: not with this version"}
    assert found["absent"] == {"reason": "no_such_package: not installed"}
    assert found["tunewise"]["tokens_per_second"] > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(capsys):
    gpu.main([])
    assert capsys.readouterr().out == "there is no GPU: nothing was measured\n"


def test_shapes_and_rows_are_what_they_are_said_to_be():
    sizes = {}
    for name, shape in gpu.SHAPES.items():
        model = gpu.build(shape, torch.device("meta"))
        sizes[name] = sum(parameter.numel() for parameter in model.parameters())
    assert sizes == {"1b": 1_235_814_400, "8b": 8_030_261_248}  # as on the model cards of Llama 3.2 1B and 3.1 8B
    made = gpu.rows(gpu.SHAPES["1b"], 400)
    lengths = torch.tensor([len(row.ids) for row in made], dtype=torch.float32)
    answers = torch.tensor([sum(label != IGNORED for label in row.labels) for row in made], dtype=torch.float32)
    assert lengths.max() <= gpu.SHAPES["1b"].longest
    assert 100 < answers.median() < 140
    assert 130 < (lengths - answers).median() < 170


def test_operations_are_those_that_torch_counts():
    """Of a step that trains everything, with the head at all positions and without attention."""
    shape = gpu.Shape(32, 64, 2, 4, 2, is_tied=False, batch_size=2, vocabulary=64, longest=32)
    model, rows = gpu.build(shape, torch.device("cpu")), gpu.rows(shape, 1)
    whole = [Encoded(row.id, row.ids, row.ids, 0, truncated=False) for row in rows]
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
        model(torch.tensor([rows[0].ids]), use_cache=False).logits.float().sum().backward()
    counts = counter.get_flop_counts()["Global"]
    products = sum(count for operation, count in counts.items() if "attention" not in str(operation))
    # transformers 5.17 turns positions into angles by a product too
    assert gpu.operations(gpu.Work("1b", "full"), shape, whole) == pytest.approx(products, rel=1e-3)
