"""Who carries jobs out while the processes that are to do it still import."""

import os
import threading
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import pytest
import torch

from tunewise.comparison.workers import SideBySide
from tunewise.processes import CAN_SPLIT
from tunewise.training.sharing import threads_of

pytestmark = pytest.mark.skipif(not CAN_SPLIT, reason="processes are not split off here")


@dataclass(frozen=True)
class Asking:
    """A job whose outcome is who carried it out, and with how many threads."""

    number: int

    def carry_out(self, bases, progress):
        return [self.number, os.getpid(), torch.get_num_threads()]


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
        if threading.current_thread() is threading.main_thread():
            self.begun.append(number)
            if len(self.begun) == self._n:
                self._there.set()


def carried_out(jobs, begins, bases):
    with SideBySide(2, bases) as workers:
        return dict(workers.carry_out(jobs, begins))


@pytest.mark.parametrize("n", [1, 3, 6])
def test_this_process_begins_as_one_of_them_would(n, monkeypatch):
    slow, before = Slow(monkeypatch, n), torch.get_num_threads()
    found = carried_out([Asking(number) for number in range(6)], slow.begins, {})
    assert [found[number][0] for number in range(6)] == list(range(6)), "each once"
    assert slow.begun[:n] == list(range(n))
    assert [found[number][1] == os.getpid() for number in range(6)] == [number in slow.begun for number in range(6)]
    assert {told[2] for told in found.values()} == {threads_of(2)}
    assert torch.get_num_threads() == before


def test_it_waits_where_it_was_given_no_bases():
    found = carried_out([Asking(number) for number in range(3)], lambda number: None, None)
    assert os.getpid() not in {told[1] for told in found.values()}


def test_what_is_interrupted_here_begins_nowhere_else(monkeypatch):
    slow = Slow(monkeypatch, 2)
    told = []
    with pytest.raises(KeyboardInterrupt), SideBySide(2, {}) as workers:
        for number, _ in workers.carry_out([Asking(0), Interrupted(1), Asking(2)], slow.begins):
            told.append(number)
    assert (told, slow.begun) == ([0], [0, 1])
