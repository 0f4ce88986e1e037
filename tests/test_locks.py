"""Two processes at one run folder: one works, the other hears who it is; a lock never outlives its process."""

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.small_base import QUICK, write_place
from tunewise import files
from tunewise.errors import UserError
from tunewise.run import base_of, build_recipe, run, run_together
from tunewise.run.record import DONE, RUNNING, in_use_by

HOLD = """
import sys, time
from tunewise import files
with files.held(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def someone(tmp_path):
    """Another process that works in tmp_path/run."""
    lock = tmp_path / "run" / RUNNING
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(lock)], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    yield other
    other.kill()
    other.wait()


def recipe_in(place: Path):
    fields = {"model": str(place / "base"), "data": str(place / "reviews.csv"), "method": "lora", "seed": 0}
    return build_recipe(fields, QUICK | {"data.train": 16, "retention": None, "dtype": "float32"})


@pytest.mark.usefixtures("without_a_fresh_process")
def test_a_run_that_another_process_is_at_is_refused_until_it_is_gone(someone, tmp_path):
    recipe, out = recipe_in(write_place(tmp_path)), tmp_path / "run"
    told = rf"run is in use by process {someone.pid} on .* since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d"
    with pytest.raises(files.Held, match=told) as refused:
        run(recipe, out)
    assert refused.value.hint == "wait for it, or give another --out"
    assert f"process {someone.pid} on" in in_use_by(out)
    with pytest.raises(files.Held, match=told):
        run_together([recipe, recipe], [tmp_path / "free", out], base_of(recipe, {}))
    assert not in_use_by(tmp_path / "free"), "whoever does not get all locks keeps none"
    assert [path.name for path in out.iterdir()] == [RUNNING]
    someone.kill()
    someone.wait()
    assert (out / RUNNING).is_file(), "a killed process leaves its file, but not its lock"
    assert not in_use_by(out)
    assert run(recipe, out)["steps"] == 6
    assert (out / DONE).is_file()
    assert not (out / RUNNING).exists()


def test_a_lock_names_its_holder_and_goes_with_the_block(tmp_path):
    path = tmp_path / "deep" / RUNNING
    with files.held(path):
        assert json.loads(path.read_text())["process"] == os.getpid()
        assert files.holder(path).startswith(f"process {os.getpid()} on ")
        with pytest.raises(files.Held), files.held(path):
            pass
        assert path.exists(), "who was refused takes nothing away"
    assert not path.exists()
    assert files.holder(path) == ""
    with pytest.raises(ZeroDivisionError), files.held(path):
        1 / 0  # noqa: B018
    assert not path.exists()


def test_a_lock_on_a_file_that_lost_its_name_is_none(tmp_path, monkeypatch):
    """Between opening the file and locking it, its holder went and removed it: lock the new one."""
    path, real, calls = tmp_path / RUNNING, fcntl.flock, []

    def lock(descriptor, operation):
        calls.append(operation)
        if len(calls) == 1:
            path.unlink()
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", lock)
    with files.held(path):
        assert len(calls) == 2
        assert path.exists()
        with pytest.raises(files.Held), files.held(path):
            pass


def test_storage_without_locks_locks_nothing(tmp_path, monkeypatch):
    def refuse(number):
        def lock(descriptor, operation):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(fcntl, "flock", lock)

    refuse(files.NO_LOCKS[0])
    with files.held(tmp_path / RUNNING):
        assert files.holder(tmp_path / RUNNING) == ""
    refuse(5)
    with pytest.raises(UserError, match=r"cannot write .*: Input/output error"), files.held(tmp_path / RUNNING):
        pass


def test_a_run_that_is_refused_leaves_no_folder_and_takes_none_away(tmp_path):
    recipe = recipe_in(write_place(tmp_path))
    refused = recipe.model_validate(recipe.model_dump() | {"out_of_domain": {"other": "not-there.jsonl"}})
    (tmp_path / "mine").mkdir()
    for out in (tmp_path / "runs" / "reviews" / "lora", tmp_path / "mine"):
        with pytest.raises(UserError, match="not-there"):
            run(refused, out)
    assert not (tmp_path / "runs").exists()
    assert (tmp_path / "mine").is_dir()
    with files.held(tmp_path / "runs" / RUNNING):
        files.write_text(tmp_path / "runs" / "note", "")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["note"]
