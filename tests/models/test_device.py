"""Where a base is loaded where nobody says it, and what is said of it."""

import pytest
import torch

from tunewise.models.device import choose_device, why_chosen


@pytest.fixture(params=[0, 2])
def n_gpus(request, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: request.param > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: request.param)
    return request.param


def test_a_gpu_is_taken_where_there_is_one(n_gpus, monkeypatch):
    monkeypatch.delenv("TUNEWISE_DEVICE")
    assert choose_device().type == ("cuda" if n_gpus else "cpu")
    assert why_chosen() == (
        "cuda, as torch finds a GPU (TUNEWISE_DEVICE=cpu takes the CPU)" if n_gpus else "cpu, as torch finds no GPU"
    )


def test_the_environment_says_another(n_gpus, monkeypatch):
    monkeypatch.setenv("TUNEWISE_DEVICE", "cuda:1" if n_gpus else "cpu")
    assert str(choose_device()) == ("cuda:1" if n_gpus else "cpu")
    assert why_chosen().endswith(", as TUNEWISE_DEVICE says")
    assert str(choose_device("cpu")) == "cpu"
