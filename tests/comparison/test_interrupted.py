"""Comparisons that were killed, or carried out twice at once: the same command ends as if nothing had been."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.comparison.small_comparison import assert_same, carry_out, place_for, resumed, wait_for_checkpoint, words_for
from tests.comparison.test_grid import Followed
from tests.test_locks import HOLD
from tunewise.errors import UserError
from tunewise.run.record import RUNNING

pytestmark = pytest.mark.usefixtures("without_a_fresh_process")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return place_for(tmp_path_factory.mktemp("killed"))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_comparison_that_was_killed_ends_as_one_that_was_not(workers, place, tmp_path):
    command = [sys.executable, "-m", "tunewise", *words_for(place, tmp_path), "--workers", str(workers)]
    killed = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for_checkpoint(tmp_path)
    children = _workers(killed.pid)
    killed.kill()
    killed.wait()
    assert len(children) == (0 if workers == 1 else 2)
    deadline = time.monotonic() + 240
    while any(_runs(pid) for pid in children):  # nobody is left behind, and each leaves a checkpoint
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not (tmp_path / "comparison.json").exists()
    carry_out(place, tmp_path)
    assert max(resumed(tmp_path)) >= 5
    assert_same(tmp_path, place / "whole")
    assert not [path for path in tmp_path.rglob("*") if path.name in (RUNNING, "checkpoints")]


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize(("workers", "to_all"), [(1, False), (2, False), (2, True)], ids=["one", "two", "to all"])
def test_ctrl_c_leaves_checkpoints_and_begins_nothing_more(workers, to_all, place, tmp_path):
    """Told to the process that was started, or to its workers as well, as a terminal does: they hear of it from that
    one."""
    command = [sys.executable, "-m", "tunewise", *words_for(place, tmp_path), "--workers", str(workers)]
    nothing = subprocess.DEVNULL
    stopped = subprocess.Popen(command, stdout=nothing, stderr=nothing, start_new_session=True)
    wait_for_checkpoint(tmp_path)
    before = {path.parent for path in tmp_path.glob("*/*/seed*/recipe.yaml")}
    (os.killpg if to_all else os.kill)(stopped.pid, signal.SIGINT)
    assert stopped.wait(240) == 130
    begun = {path.parent for path in tmp_path.glob("*/*/seed*/recipe.yaml")}
    assert len(begun) - len(before) <= workers, "what was on its way is not begun"
    assert not list(tmp_path.rglob(RUNNING))
    carry_out(place, tmp_path)
    assert max(resumed(tmp_path)) >= 5
    assert_same(tmp_path, place / "whole")


def _workers(pid: int) -> list[int]:
    """The processes that were split off the server which that process has started."""
    servers = [child for child in _children(pid) if b"forkserver" in Path(f"/proc/{child}/cmdline").read_bytes()]
    return [worker for server in servers for worker in _children(server)]


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _runs(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


class Killing(Followed):
    """Kills the process of the first run that has left a checkpoint."""

    def __init__(self, root):
        super().__init__()
        self._root, self._done = root, False

    def stepped(self, step, loss, n_tokens):
        if not self._done:
            self._done = True
            wait_for_checkpoint(self._root)
            mark = next(self._root.rglob("checkpoints/step-*")).parents[1] / RUNNING
            os.kill(json.loads(mark.read_text())["process"], signal.SIGKILL)


def test_a_worker_that_is_killed_is_told_of_and_its_run_goes_on(place, tmp_path):
    with pytest.raises(UserError, match="a worker was killed from outside") as told:
        carry_out(place, tmp_path, workers=2, progress=Killing(tmp_path))
    assert "goes on from the checkpoints" in told.value.hint
    carry_out(place, tmp_path)
    assert max(resumed(tmp_path)) >= 5
    assert_same(tmp_path, place / "whole")


def test_runs_of_another_process_are_left_to_it_and_waited_for(place, tmp_path, caplog):
    lock = next((place / "whole").rglob("lora-*/seed1")).relative_to(place / "whole") / RUNNING
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / lock)], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    last = threading.Timer(0.0, lambda: None)

    class Watching(Followed):
        def ends(self, number, outcome):
            super().ends(number, outcome)
            if len(self.told) == 6:  # all others have ended
                nonlocal last
                last = threading.Timer(0.5, other.kill)
                last.start()

    watcher = Watching()
    try:
        with caplog.at_level("INFO", logger="tunewise"):
            carry_out(place, tmp_path, progress=watcher)
    finally:
        other.kill()
        other.wait()
    assert last.finished.is_set(), "it was waited for"
    assert watcher.told[6] == "lora seed 1"
    assert_same(tmp_path, place / "whole")
    assert f"process {other.pid} on " in caplog.text
    assert "carries out some of these runs" in caplog.text
