"""What waits is one batch: lanes beside one another, or one after another where they cannot be; and a batch that fails
takes nobody else with it."""

import threading
import time
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest

from tunewise.engine.native.build import library
from tunewise.evaluation.by_lane import ByLane
from tunewise.methods.alone import CannotShare
from tunewise.methods.lanes import Lanes
from tunewise.run.speakers import speakers_of
from tunewise.serve.fields import Chat
from tunewise.serve.job import Done, Job, Piece
from tunewise.serve.refusal import Refusal
from tunewise.serve.scheduler import Scheduler, _Group

WRITERS = ("base", "lora", "prompts")


class Heard:
    """A job, and what is told of it."""

    def __init__(self, model: str, text: str = "say 7", **fields):
        self.events, self._is_over = [], threading.Event()
        messages = [{"role": "user", "content": text}]
        self.job = Job(
            Chat(**{"temperature": 0, "max_tokens": 12, "messages": messages, "model": model} | fields), self._hear
        )

    def _hear(self, event):
        self.events.append(event)
        if isinstance(event, Done | Refusal):
            self.ended_at = time.monotonic()
            self._is_over.set()

    def outcome(self):
        """The text, or the refusal."""
        assert self._is_over.wait(60)
        last = self.events[-1]
        return last if isinstance(last, Refusal) else "".join(e.text for e in self.events if isinstance(e, Piece))


@contextmanager
def scheduler_of(runs, heard=(), n_places=8, **more):
    """Running, with jobs that came before it began."""
    found = Scheduler(speakers_of(runs, **more), n_places, 1024, 1024)
    for each in heard:
        found.ask(each.job)
    with found.started():
        yield found


def answered(runs, **more):
    heard = [Heard(name) for name in (*WRITERS, "reviews", "base", "lora")]
    heard[3] = Heard("reviews", "the soup 3 was good")
    with scheduler_of(runs, heard, **more):
        return [each.outcome() for each in heard]


@pytest.fixture
def parts(monkeypatch):
    """The lanes of each batch of more than one."""
    found, at = [], Lanes.at

    def recorded(lanes, parts):
        found.append(tuple(part.lane for part in parts.parts))
        return at(lanes, parts)

    monkeypatch.setattr(Lanes, "at", recorded)
    return found


@pytest.mark.skipif(library() is None, reason="no kernels here")
def test_jobs_of_several_runs_are_one_batch_and_padded_they_are_too(runs, parts):
    expected = answered(runs)
    assert (0, 1, 2) in parts
    assert expected[0] == expected[4] != expected[1] == expected[5]
    n_packed = parts.count((0, 1, 2))
    assert n_packed >= 4
    assert answered(runs, overrides={"dtype": "float64"}) == expected
    assert parts.count((0, 1, 2)) - n_packed >= 4


def test_those_beyond_the_places_wait_their_turn(runs, parts):
    expected = answered(runs)
    parts.clear()
    assert answered(runs, n_places=2) == expected
    assert max(len(lanes) for lanes in parts if 3 not in lanes) == 2


def test_one_who_asks_for_many_answers_keeps_nobody_waiting_for_them_all(runs):
    many, one, late = (Heard("lora", n=n, temperature=1.0, seed=3, stop="nowhere") for n in (6, 1, 1))
    with scheduler_of(runs, [many, one, late], n_places=1):
        assert len({each.outcome() for each in (one, late)}) == 1
        assert not isinstance(many.outcome(), Refusal)
    assert one.ended_at < late.ended_at < many.ended_at


@pytest.mark.parametrize("reason", ["no lanes at all", "lanes answer otherwise together"])
def test_where_lanes_cannot_share_a_batch_they_answer_one_after_another(runs, parts, monkeypatch, reason):
    expected = answered(runs)

    def refuse(*_):
        raise CannotShare(reason)

    parts.clear()
    monkeypatch.setattr(*((Lanes, "__enter__") if "no" in reason else (ByLane, "_try")), refuse)
    assert answered(runs) == expected
    assert all(len(lanes) < 2 for lanes in parts)


def test_a_batch_that_fails_is_told_and_the_next_is_answered(runs):
    with scheduler_of(runs) as found:
        before = Heard("lora")
        found.ask(before.job)
        text = before.outcome()
        (group,) = found._groups
        step = type(group.writing).step

        def fail(self):
            raise RuntimeError("out of memory")

        type(group.writing).step = fail
        try:
            failing = Heard("lora")
            found.ask(failing.job)
            refusal = failing.outcome()
        finally:
            type(group.writing).step = step
        after = Heard("lora")
        found.ask(after.job)
        assert after.outcome() == text
    assert (refusal.status, refusal.kind) == (500, "server_error")
    assert "out of memory" in refusal.message


def test_one_that_ends_breaks_off_what_waits(runs):
    found = Scheduler(speakers_of(runs), 8, 1024, 1024)
    heard = Heard("base")
    found.ask(heard.job)
    found.close()
    with found.started():
        pass
    assert heard.outcome().status == 503
    late = Heard("base")
    found.ask(late.job)
    assert late.outcome().status == 503


def test_while_too_many_wait_nobody_else_is_taken(runs):
    found = Scheduler(speakers_of({"lora": runs["lora"]}), 8, 1024, most_waiting=3)
    two, many, one = Heard("lora", n=2, temperature=1.0), Heard("lora", n=9, temperature=1.0), Heard("base")
    for each in (two, many, one):  # 2 wait, then 11
        found.ask(each.job)
    with found.started():
        refusal = one.outcome()
        assert (refusal.status, refusal.code) == (503, "server_overloaded")
        assert refusal.message == "11 answers wait already; ask again later"
        assert int(refusal.headers["retry-after"]) > 0
        assert not any(isinstance(each.outcome(), Refusal) for each in (two, many))
        late = Heard("base")
        found.ask(late.job)
        assert not isinstance(late.outcome(), Refusal)


def test_those_who_have_gone_away_do_not_wait_wherever_they_stand():
    class Full:
        def add(self, wanted):
            return False

    group = _Group([0], nullcontext, Full, is_shared=True, writing=Full())
    held = [SimpleNamespace(job=SimpleNamespace(is_over=is_over), wanted=None) for is_over in (False, True, False)]
    group.queue(held)
    group.admit()
    assert [*group.waiting] == [held[0], held[2]]


def test_ctrl_c_before_it_has_begun_ends_its_thread(runs, monkeypatch):
    found = Scheduler(speakers_of({"lora": runs["lora"]}), 8, 1024, 1024)

    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr(found._is_ready, "wait", interrupt)
    with pytest.raises(KeyboardInterrupt), found.started():
        pass
    assert not found._thread.is_alive()
