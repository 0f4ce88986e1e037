"""What a run does on a GPU, on a pretended one: everything lies there, and comes out as on the CPU."""

import json
import os
import subprocess
import sys

import pytest
import torch

from tests import pretended_gpu
from tests.pretended_gpu import ROOT
from tunewise.engine.native.build import why_not
from tunewise.methods import METHODS

pytestmark = [
    pytest.mark.skipif(bool(why_not()), reason="there is no C++ compiler"),
    pytest.mark.skipif(sys.platform != "linux", reason="libraries are found as Linux finds them"),
    pytest.mark.skipif(
        bool(torch.version.cuda or torch.version.hip), reason="this torch is built for GPUs, and has their kernels"
    ),
]
FIELDS = {
    "frozen": ":shots=2",
    "bitfit": ":add=true",
    "sparse": ":examples=16",
    "multitask_prompt": ":virtual_tokens=5",
}
FIELDS_OF_ALL = ("dtype=float64", "data.train=16", "data.dev=4", "data.test=4", "train.steps=3", "train.batch_size=8")
THERE_TOO = {
    "tests/engine/test_cuda.py": "test",
    "tests/test_dial.py": "test",
    "tests/test_run_together.py": "test",
    "tests/test_run_on_other_kinds.py": "learns_proves_itself or frozen_trunk",
    "tests/test_quantised_run.py": "passes_its_proofs",
}
"""Files of tests that are run there, and which of them."""


@pytest.fixture(scope="session")
def found_there(tmp_path_factory):
    """The environment of a process that finds the GPU."""
    return pretended_gpu.environment(pretended_gpu.build(tmp_path_factory.mktemp("gpu")))


def output_of(command, environment):
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def losses(folder):
    """Every arm's, step by step, where every proof has passed."""
    found = {}
    for place in sorted(folder.glob("*/*/seed0")):
        metrics = json.loads((place / "metrics.json").read_text())
        assert all(proof["passed"] for proof in metrics["proofs"].values()), (place, metrics["proofs"])
        log = place / "log.jsonl"
        steps = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
        found[place.parent.name.partition("-")[0]] = [step["loss"] for step in steps if "loss" in step]
    return found


def test_every_method_is_trained_proved_and_compared_there_with_the_losses_of_the_cpu(found_there, tmp_path):
    names = ",".join(name + FIELDS.get(name, "") for name in METHODS)
    compare = [sys.executable, "-m", "tunewise", "compare", "--data", "tiny:sentiment", "--methods", names]
    compare += ["--seeds", "0", *FIELDS_OF_ALL, "retention=null"]
    found = {}
    for device, environment in (("cpu", dict(os.environ)), ("cuda", found_there)):
        output_of([*compare, "--out", tmp_path / device], {**environment, "TUNEWISE_DEVICE": device})
        found[device] = losses(tmp_path / device)
    assert found["cuda"].keys() == found["cpu"].keys()
    assert len(found["cuda"]) == len(METHODS)
    for name, there in found["cuda"].items():
        assert len(there) == (0 if name == "frozen" else 3)
        assert there == pytest.approx(found["cpu"][name], abs=1e-5), name


@pytest.mark.parametrize(("file", "which"), THERE_TOO.items())
def test_what_holds_on_the_cpu_holds_there(file, which, found_there):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", file, "-k", which]
    told = output_of([*command, "-o", "console_output_style=count"], {**found_there, "TUNEWISE_DEVICE": "cuda"})
    assert "s" not in told.splitlines()[0].split()[0], f"some were skipped: {told}"
