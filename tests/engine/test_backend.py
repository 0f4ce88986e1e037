"""What is chosen for a machine: as accurate as float32, kept for the next process, and taken back afterwards."""

import json
import os
import subprocess
import sys

import pytest
import torch

from tunewise.engine import backend as chosen_backend
from tunewise.engine.backend import ACCURATE, Backend, backend, chosen, keep_pages, measure, told


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """A machine that has not been measured."""
    monkeypatch.setenv("TUNEWISE_CACHE", str(tmp_path))
    backend.cache_clear()
    yield tmp_path
    backend.cache_clear()


def test_what_is_chosen_is_as_accurate_as_float32():
    found = measure()
    assert found.gflops.keys() == {"float32", "float32 through oneDNN", "bfloat16"}
    assert min(found.gflops.values()) > 0
    assert found.gigabytes_per_second > 0
    if found.onednn:
        assert found.onednn_error < ACCURATE
    assert torch.get_float32_matmul_precision() == "highest"


def test_a_measurement_is_kept_and_not_made_again(fresh, monkeypatch):
    first = backend()
    (kept,) = fresh.glob("backend-*.json")
    assert Backend(**json.loads(kept.read_text())) == first
    backend.cache_clear()
    monkeypatch.setattr(chosen_backend, "measure", lambda: pytest.fail("measured again"))
    assert backend() == first


@pytest.mark.parametrize("onednn", [True, False])
def test_products_are_float32_inside_and_the_setting_is_taken_back(onednn, monkeypatch):
    monkeypatch.setattr(chosen_backend, "backend", lambda: Backend(1, {}, 1.0, 0.0, onednn))
    generator = torch.Generator().manual_seed(1)
    a, b = torch.randn(64, 200, generator=generator), torch.randn(200, 96, generator=generator)
    with chosen():
        assert torch.get_float32_matmul_precision() == ("medium" if onednn else "highest")
        inside = a @ b
    assert torch.get_float32_matmul_precision() == "highest"
    exact = a.double() @ b.double()
    assert float((inside - exact).abs().max() / exact.abs().max()) < ACCURATE


def test_it_can_be_turned_off(monkeypatch):
    monkeypatch.setenv("TUNEWISE_BACKEND", "0")
    monkeypatch.setattr(chosen_backend, "backend", lambda: pytest.fail("asked"))
    with chosen():
        assert torch.get_float32_matmul_precision() == "highest"


def test_without_kernels_it_says_why():
    code = "from tunewise.engine.native.build import library, why_not; print(library(), why_not())"
    environment = {**os.environ, "TUNEWISE_NATIVE": "0"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == "None TUNEWISE_NATIVE=0 turns them off"


def test_without_a_compiler_it_says_why(tmp_path):
    code = "from tunewise.engine.native.build import library, why_not; print(library(), why_not())"
    environment = {name: value for name, value in os.environ.items() if name != "CXX"} | {"PATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == "None no C++ compiler (c++, g++ or clang++)"


def test_doctor_tells_everything():
    found = told()
    assert {
        "threads",
        "matrix products, GFLOP/s",
        "float32 products",
        "freed memory",
        "attention of packed rows",
        "weights in 4 and 8 bits",
    } <= set(found)
    assert keep_pages() in (True, False)


def test_on_another_device_float32_stays_float32(monkeypatch):
    monkeypatch.setattr(chosen_backend, "backend", lambda: Backend(1, {}, 1.0, 0.0, onednn=True))
    with chosen(torch.device("cuda")):
        assert torch.get_float32_matmul_precision() == "highest"
