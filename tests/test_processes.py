"""Processes of ours beside the program that calls them."""

import os
import subprocess
import sys
from multiprocessing.context import ForkServerContext

import pytest

from tunewise.processes import SplittingOff, Starting, context, spare_cores

PROGRAM = """
from pathlib import Path
from tests.test_processes import told_by
from tunewise.processes import {kind}
with Path("runs.txt").open("a") as runs:
    runs.write("run\\n")
print(told_by({kind}()))
"""


def tell(channel):
    main = sys.modules["__main__"]
    channel.send((os.getpid(), getattr(main, "__file__", "")))


def told_by(kind):
    ours, its = kind.Pipe()
    process = kind.Process(target=tell, args=(its,))
    process.start()
    found = ours.recv()
    process.join()
    return found


@pytest.mark.parametrize("kind", [SplittingOff, Starting])
def test_a_program_without_a_guard_is_run_once(kind, tmp_path):
    """multiprocessing would import it in each process, and it would start others from there."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(kind=kind.__name__))
    path = os.pathsep.join(filter(None, sys.path))
    told = subprocess.run(
        [sys.executable, str(program)], cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, text=True,
        capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    assert "program.py" not in told.stdout
    assert (tmp_path / "runs.txt").read_text() == "run\n"


def test_the_program_is_there_again_behind_the_start():
    before = sys.modules["__main__"]
    pid, _ = told_by(SplittingOff())
    assert pid != os.getpid()
    assert sys.modules["__main__"] is before


def test_what_a_gpu_may_be_closed_to():
    assert isinstance(context(has_gpu=False), ForkServerContext)
    assert isinstance(context(has_gpu=True), Starting)


def test_a_person_who_allows_one_thread_spares_no_core(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert spare_cores() == 0
