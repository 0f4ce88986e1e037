"""Who carries jobs out while the processes that are to do it still import, and how they leave, and in which order jobs
are given."""

import os
import signal
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import pytest
import torch

from tests.comparison.test_grid import Followed
from tests.small_base import write_place
from tunewise.comparison import build_comparison
from tunewise.comparison.grid import carry_out
from tunewise.comparison.workers import SideBySide, Workers
from tunewise.errors import UserError
from tunewise.processes import CAN_SPLIT
from tunewise.run import run_folder
from tunewise.training.sharing import threads_of

splitting_off = pytest.mark.skipif(not CAN_SPLIT, reason="processes are not split off here")


@dataclass(frozen=True)
class Asking:
    """A job whose outcome is who carried it out, and with how many threads."""

    number: int

    def carry_out(self, bases, progress):
        return [self.number, os.getpid(), torch.get_num_threads()]


class Waiting(Asking):
    """A job that would take an hour, and leaves a word when it has begun."""

    def carry_out(self, bases, progress):
        progress.finished()
        time.sleep(3600)


class Interrupted(Asking):
    def carry_out(self, bases, progress):
        raise KeyboardInterrupt


class Slow:
    """The processes are there once `n` jobs have begun here."""

    def __init__(self, monkeypatch, n):
        self.begun, self._n, self._there = [], n, threading.Event()
        submit = ProcessPoolExecutor.submit

        def submitted(pool, *job):
            assert self._there.wait(60)
            return submit(pool, *job)

        monkeypatch.setattr(ProcessPoolExecutor, "submit", submitted)

    def begins(self, number):
        """Of a comparison's watcher."""
        if threading.current_thread() is threading.main_thread():
            self.begun.append(number)
            if len(self.begun) == self._n:
                self._there.set()


def carried_out(jobs, begins, bases):
    with SideBySide(2, bases) as workers:
        return dict(workers.carry_out(jobs, begins))


@splitting_off
@pytest.mark.parametrize("n", [1, 3, 6])
def test_this_process_begins_as_one_of_them_would(n, monkeypatch):
    slow, before = Slow(monkeypatch, n), torch.get_num_threads()
    found = carried_out([Asking(number) for number in range(6)], slow.begins, {})
    assert [found[number][0] for number in range(6)] == list(range(6)), "each once"
    assert slow.begun[:n] == list(range(n))
    assert [found[number][1] == os.getpid() for number in range(6)] == [number in slow.begun for number in range(6)]
    assert {told[2] for told in found.values()} == {threads_of(2)}
    assert torch.get_num_threads() == before


@splitting_off
def test_it_waits_where_it_was_given_no_bases():
    found = carried_out([Asking(number) for number in range(3)], lambda number: None, None)
    assert os.getpid() not in {told[1] for told in found.values()}


@splitting_off
def test_what_is_interrupted_here_begins_nowhere_else(monkeypatch):
    slow = Slow(monkeypatch, 2)
    told = []
    with pytest.raises(KeyboardInterrupt), SideBySide(2, {}) as workers:
        for number, _ in workers.carry_out([Asking(0), Interrupted(1), Asking(2)], slow.begins):
            told.append(number)
    assert (told, slow.begun) == ([0], [0, 1])


class Telling:
    """Counts the jobs that have begun to wait."""

    def __init__(self, n):
        self._left, self.all_there = n, threading.Event()

    def finished(self):
        self._left -= 1
        if not self._left:
            self.all_there.set()


@splitting_off
def test_an_error_ends_what_is_under_way_and_what_waits():
    """Two of them wait for an hour, and others behind them."""
    told = Telling(2)

    with pytest.raises(KeyboardInterrupt), SideBySide(2) as workers:
        beside = threading.Thread(target=lambda: (told.all_there.wait(60), os.kill(os.getpid(), signal.SIGINT)))
        beside.start()
        dict(workers.carry_out([Waiting(number) for number in range(6)], lambda number: told))


@splitting_off
def test_an_error_between_two_outcomes_ends_what_is_under_way():
    told = Telling(1)
    with pytest.raises(UserError, match="no more"), SideBySide(2) as workers:
        for _ in workers.carry_out([Asking(0), *(Waiting(number) for number in range(1, 6))], lambda number: told):
            assert told.all_there.wait(60)
            raise UserError("no more", "")


@splitting_off
def test_an_error_beside_a_worker_that_was_killed_ends_the_others_too():
    told = Telling(1)
    with pytest.raises(UserError, match="no more"), SideBySide(2) as workers:
        for _, (_, killed, _) in workers.carry_out([Asking(0), Waiting(1)], lambda number: told):
            assert told.all_there.wait(60)
            os.kill(killed, signal.SIGKILL)
            raise UserError("no more", "")


class OneAfterAnother(Workers):
    """Notes the methods in the order in which jobs are given, of several workers."""

    def __init__(self, n_workers):
        self.n_workers, self.methods = n_workers, []

    def carry_out(self, jobs, begins):
        self.methods = [job.recipes[0].method.name for job in jobs]
        for number, job in enumerate(jobs):
            yield number, job.carry_out({}, begins(number))


@pytest.mark.usefixtures("without_a_fresh_process")
@pytest.mark.parametrize(
    ("n_workers", "last"), [(1, ["frozen", "lora", "full"]), (2, ["full", "lora", "frozen"])], ids=["one", "two"]
)
def test_the_last_round_of_several_begins_with_those_that_train_most(n_workers, last, tmp_path):
    place = write_place(tmp_path)
    asked = {"model": str(place / "base"), "data": str(place / "reviews.csv"), "arms": ["frozen", "lora", "full"]}
    fields = {"data.train": 8, "dtype": "float32", "train.steps": 1, "train.lanes": False, "retention": None}
    comparison = build_comparison(asked | {"seeds": (0, 1)}, fields)
    folders = {arm: [run_folder(each, tmp_path) for each in seeds] for arm, seeds in comparison.recipes.items()}
    workers = OneAfterAnother(n_workers)
    carry_out(comparison.recipes, folders, {}, lambda: workers, Followed())
    assert workers.methods == ["frozen", "lora", "full", *last]
