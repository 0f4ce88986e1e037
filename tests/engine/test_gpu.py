"""What is measured of a device, and how a GPU is told of where there is none."""

import pytest
import torch

from tunewise.engine import gpu


def test_speeds_are_operations_and_bytes_over_seconds(monkeypatch):
    monkeypatch.setattr(gpu, "_best_seconds", lambda device, job: 0.5)
    found = gpu.measure(torch.device("cpu"), 1024)
    assert found == gpu.Speeds("cpu", round(2 * 1024**3 / 1e12 / 0.5, 3), round(2 * 2 * 1024**2 / 1e9 / 0.5, 1))


def test_the_best_of_several_rounds_is_taken():
    rounds = []
    assert gpu._best_seconds(torch.device("cpu"), lambda: rounds.append(1)) >= 0
    assert len(rounds) == 12


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so():
    assert gpu.told() == {"GPU": "none that torch finds"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_is_told_of():
    assert "TFLOP/s" in gpu.told()["GPU 0"]
