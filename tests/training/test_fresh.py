"""Work in a process of its own: what it may know, and what is told where it fails."""

import os
import signal
from multiprocessing import get_context
from pathlib import Path

import pytest

from tunewise.training import fresh
from tunewise.training.fresh import Failed, Fresh

SEEN = []
"""What was asked for in this process."""


def work(words):
    """What is known there, and what is asked for."""
    SEEN.append(words)
    if words[0] == "fail":
        raise ValueError("no such thing")
    if words[0] == "leave":
        os._exit(3)
    if words[0] == "say":
        return {"said": words[1]}
    return {"process": os.getpid(), "seen": len(SEEN), "folder": str(Path.cwd()), "variable": os.environ.get("TOLD")}


@pytest.fixture
def asked(monkeypatch):
    """One that was split off this process, whatever that has read; beside other threads one is started."""
    monkeypatch.setattr(fresh, "has_only_imported", lambda: True)
    found = Fresh(work)
    found.stand_by()
    yield found
    found.end()


def test_each_question_has_a_process_that_knows_of_no_other(asked, tmp_path, monkeypatch):
    monkeypatch.setenv("TOLD", "this moment")
    monkeypatch.chdir(tmp_path)
    one, other = asked.ask(["one"]), asked.ask(["other"])
    assert one["process"] != other["process"] != os.getpid()
    assert (one["seen"], other["seen"]) == (1, 1)
    assert (one["folder"], one["variable"]) == (str(tmp_path), "this moment")


def test_several_are_answered_side_by_side_and_in_their_order(asked):
    one, other = asked.ask_each([["one"], ["other"]])
    assert one["process"] != other["process"] != os.getpid()
    assert (one["seen"], other["seen"]) == (1, 1)
    told = asked.ask_each([["say", name] for name in "abc"])
    assert [each["said"] for each in told] == ["a", "b", "c"]
    with pytest.raises(Failed, match="ValueError: no such thing"):
        asked.ask_each([["one"], ["fail"], ["one"]])
    assert asked.ask(["one"])["seen"] == 1


@pytest.mark.parametrize(("word", "told"), [("fail", "ValueError: no such thing"), ("leave", "exit code 3")])
def test_what_went_wrong_is_told_and_the_next_question_is_answered(asked, word, told):
    with pytest.raises(Failed, match=told):
        asked.ask([word])
    assert asked.ask(["one"])["seen"] == 1


def test_a_process_is_started_where_none_waits_any_more(asked):
    asked.ask(["first"])
    os.kill(asked._waiting.pid, signal.SIGKILL)
    assert asked.ask(["one"])["seen"] == 1  # by a new Python process, which imported this module
    started = asked._waiting.pid
    assert asked.ask(["other"])["seen"] == 1
    assert asked._waiting.pid == started


def test_the_process_that_the_workers_come_from_may_split_it_off():
    server = get_context("forkserver")
    server.set_forkserver_preload([__name__])
    asked = Fresh(work)
    asked.come_from(server)
    try:
        SEEN.append("here")
        one, other = asked.ask(["one"]), asked.ask(["other"])
        assert one["process"] != other["process"] != os.getpid()
        assert (one["seen"], other["seen"]) == (1, 1)
        with pytest.raises(Failed, match="exit code 3"):
            asked.ask(["leave"])
        waiting = asked._waiting.pid
    finally:
        asked.end()
        SEEN.clear()
    with pytest.raises(ProcessLookupError):
        os.kill(waiting, 0)


def test_a_process_that_imports_meanwhile_is_the_one_that_is_asked(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    asked = Fresh(work)
    try:
        asked.import_meanwhile()
        started = asked._waiting.pid
        asked.import_meanwhile()
        assert asked.ask(["one"])["seen"] == 1
        assert asked._waiting.pid == started
    finally:
        asked.end()


def test_none_imports_meanwhile_where_one_thread_is_allowed(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    asked = Fresh(work)
    asked.import_meanwhile()
    assert asked._waiting is None


def test_for_a_gpu_a_process_is_started_which_nothing_is_split_off():
    asked = Fresh(work)
    assert asked.ask(["one"], "cuda")["seen"] == 1
    assert asked._waiting is None


def test_nothing_is_split_off_a_process_that_has_read_something():
    asked = Fresh(work)
    asked.stand_by()
    assert asked._waiting is None
