"""One endpoint and its troubles, each asked by a real client over loopback."""

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.teacher.server import FAULTS, Server
from tunewise.errors import UserError
from tunewise.teacher.at_once import at_once
from tunewise.teacher.budget import Budget
from tunewise.teacher.endpoint import Address, Endpoint
from tunewise.teacher.exchange import Reply, Request
from tunewise.teacher.teacher import Unanswered

QUICK = {"timeout_seconds": 2.0, "backoff_seconds": 0.01, "retries": 4}


def requests(n: int, **fields: Any) -> list[Request]:
    return [Request(f"line/{i}", f"question {i}", 50, **fields) for i in range(n)]


def echo(asked: str) -> str:
    return f"answer to {asked}"


def asked_of(server: Server, wanted: list[Request], budget: Budget | None = None, **address: Any) -> dict[str, Reply]:
    endpoint = Endpoint(Address(server.url, **{**QUICK, **address}))
    found = list(endpoint.replies(wanted, budget or Budget(), lambda: False))
    assert len({request.key for request, _ in found}) == len(found), "nothing comes twice"
    return {request.text: reply for request, reply in found}


@contextmanager
def unanswered(message: str) -> Iterator[None]:
    with pytest.raises(Unanswered, match=message) as told:
        yield
    assert told.value.hint or "times over" in told.value.message


def once(fault: str) -> Callable[[str, int], str]:
    return lambda digest, arrival: "" if arrival else fault


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_what_is_sent_and_what_comes_back(api: str) -> None:
    with Server(echo) as server:
        wanted = requests(1, stops=("Task:",), temperature=0.5, top_p=0.9)
        found = asked_of(server, wanted, api=api, model="writer-2")
    (payload,) = server.payloads
    question = {"prompt": "question 0"}
    if api == "chat":
        question = {"messages": [{"role": "user", "content": "question 0"}]}
    fields = {"max_tokens": 50, "temperature": 0.5, "top_p": 0.9, "stop": ["Task:"]}
    assert payload == {"model": "writer-2", **question, **fields}
    assert found == {"question 0": Reply("answer to question 0", prompt_tokens=2, completion_tokens=4)}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_trouble_that_passes(fault: str) -> None:
    with Server(echo, once(fault)) as server:
        found = asked_of(server, requests(3))
        assert {text: reply.text for text, reply in found.items()} == {
            f"question {i}": f"answer to question {i}" for i in range(3)
        }
        assert {reply.sent for reply in found.values()} == {2}
        assert server.faults[fault] == 3
        assert set(server.answered.values()) == {1}


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("500", "did not answer, 5 times over: it answered 500: no"),
        ("cut", "did not answer, 5 times over: the connection broke"),
        ("slow", r"did not answer, 5 times over: it was silent for 0.05 s"),
        ("malformed", "5 times over: it answered application/json that is no JSON"),
        ("html", "5 times over: it answered text/html that is no JSON: <html><body>Gateway"),
        ("no choices", "5 times over: it answered without choices"),
    ],
)
def test_a_trouble_that_stays(fault: str, message: str) -> None:
    with Server(echo, lambda digest, arrival: fault) as server:
        with pytest.raises(Unanswered, match=message):
            asked_of(server, requests(1), timeout_seconds=0.05 if fault == "slow" else 10.0)
        assert server.n_arrived == 5


@pytest.mark.parametrize(
    ("fault", "message", "hint"),
    [
        ('401 {"message": "bad key"}', "it answered 401: bad key", "environment variable"),
        ('403 {"message": "not yours"}', "it answered 403", "environment variable"),
        ('404 {"message": "no model writer"}', "it answered 404: no model writer", "--teacher-name"),
        ('402 {"message": "pay first"}', "it answered 402", "balance"),
        ('429 {"message": "broke", "code": "insufficient_quota"}', "it answered 429: broke", "balance"),
        ('400 {"message": "bad request"}', "it answered 400: bad request", "the request itself"),
        ('301 {"message": "moved"}', "it answered 301", "give the URL it leads to"),
        ('418 {"message": "a teapot"}', "it answered 418", "log"),
    ],
)
def test_what_asking_again_does_not_help(fault: str, message: str, hint: str) -> None:
    with Server(echo, lambda digest, arrival: f"!{fault}") as server:
        with pytest.raises(Unanswered, match=message) as told:
            asked_of(server, requests(1))
        assert server.n_arrived == 1
        assert hint in told.value.hint


def test_nothing_is_lost_beside_a_failure() -> None:
    collected = []

    def ask(request: Request) -> Reply:
        if request.key == "line/0":
            raise Unanswered("gone")
        time.sleep(0.05)
        return Reply("x")

    with pytest.raises(Unanswered, match="gone"):
        for request, _ in at_once(ask, requests(9), 4, Budget(), lambda: False, lambda: None):
            collected.append(request.key)
    assert sorted(collected) == ["line/1", "line/2", "line/3"], "those under way come, and none is begun after it"


def test_a_request_that_is_refused_is_none_the_others_wait_for() -> None:
    with Server(echo) as server:
        wanted = requests(6)
        bad = wanted[3].digest("writer")
        server.fault = lambda digest, arrival: '!400 {"message": "policy"}' if digest == bad else ""
        found = asked_of(server, wanted, concurrency=1)
    assert found["question 3"].refused == "it answered 400: policy"
    assert [reply.refused for reply in found.values()].count("") == 5
    assert server.arrived[bad] == 1


def test_a_wait_that_is_asked_for_is_kept() -> None:
    with Server(echo, once("429")) as server:
        start = time.monotonic()
        asked_of(server, requests(1), backoff_seconds=0.0)
        assert time.monotonic() - start >= 0.05


@pytest.mark.parametrize("concurrency", [1, 4])
def test_so_many_at_once_and_no_more(concurrency: int) -> None:
    together = threading.Barrier(concurrency)

    def answer(asked: str) -> str:
        together.wait(20)
        return echo(asked)

    with Server(answer) as server:
        assert len(asked_of(server, requests(12), concurrency=concurrency, timeout_seconds=30)) == 12
    assert server.most_under_way == concurrency


@pytest.mark.parametrize("cap", [1, 5, 12])
def test_a_cap_on_requests_is_exact(cap: int) -> None:
    with Server(echo, lambda digest, arrival: "500" if arrival == 0 else "") as server:
        budget = Budget(max_requests=cap)
        asked_of(server, requests(20), budget)
        assert server.n_arrived == budget.sent == cap


def test_a_cap_on_tokens_is_never_passed() -> None:
    with Server(lambda asked: "word " * 50) as server:
        budget = Budget(max_tokens=1000)
        found = asked_of(server, requests(40), budget)
        spent = sum(reply.prompt_tokens + reply.completion_tokens for reply in found.values())
    assert budget.used == spent == 52 * len(found)
    assert 1000 - requests(11)[10].most_tokens <= spent <= 1000


def test_stopping_begins_nothing_more_and_wakes_who_waits() -> None:
    with Server(echo, lambda digest, arrival: "500") as server:
        endpoint = Endpoint(Address(server.url, concurrency=2, retries=9, backoff_seconds=60, timeout_seconds=30))
        start = time.monotonic()
        assert list(endpoint.replies(requests(9), Budget(), lambda: server.n_arrived >= 2)) == []
        assert time.monotonic() - start < 20
    assert server.n_arrived == 2


def test_fields_that_a_model_refuses_are_left_out() -> None:
    def fault(digest: str, arrival: int) -> str:
        payload = server.payloads[-1]
        for field in ("max_tokens", "temperature", "stop"):
            if field in payload:
                return "!400 " + json.dumps({"message": f"no {field}", "param": field})
        return ""

    with Server(echo) as server:
        server.fault = fault
        found = asked_of(server, requests(2, stops=("x",), temperature=0.5), concurrency=1, retries=0)
    assert [reply.refused for reply in found.values()] == ["", ""]
    assert server.payloads[-1].keys() == {"model", "messages", "max_completion_tokens", "top_p"}
    assert server.n_arrived == 5, "three to learn it, and two answers"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"choices": [{"message": {"content": None}}]}, ""),
        ({"choices": [{"message": {"content": [{"type": "text", "text": "a"}, {"text": "b"}]}}]}, "ab"),
        ({"choices": [{"message": {"content": "half \ud800"}}]}, "half ?"),
        ({"choices": [{"text": "written on"}]}, "written on"),
        ({"choices": [{"text": "x"}], "usage": {"prompt_tokens": -5, "completion_tokens": 1}}, "x"),
    ],
)
def test_texts_in_every_wrapping(body: dict[str, Any], text: str) -> None:
    with Server(echo) as server:
        server.extras["body"] = body
        reply = asked_of(server, requests(1))["question 0"]
    assert (reply.text, reply.estimated) == (text, True)
    assert (reply.prompt_tokens, reply.completion_tokens) == (3, -(-len(text.encode()) // 4))


@pytest.mark.parametrize(
    ("finish", "cut", "refused"),
    [("stop", False, ""), ("length", True, ""), ("content_filter", False, "the endpoint filtered the answer")],
)
def test_how_an_answer_ended(finish: str, cut: bool, refused: str) -> None:
    with Server(echo) as server:
        server.extras["body"] = {"choices": [{"message": {"content": "x"}, "finish_reason": finish}]}
        reply = asked_of(server, requests(1))["question 0"]
    assert (reply.was_cut, reply.refused) == (cut, refused)


def test_the_only_model_is_taken() -> None:
    with Server(echo, models=["solo"]) as server:
        assert Endpoint(Address(server.url)).name == "solo"
    with Server(echo, models=["a", "b"]) as server, pytest.raises(UserError, match="serves 2 models") as told:
        Endpoint(Address(server.url))
    assert told.value.hint == "add --teacher-name MODEL, one of a, b"


def test_nobody_listens() -> None:
    with Server(echo) as server:
        url = server.url
    with pytest.raises(UserError, match="cannot be reached"):
        Endpoint(Address(url, **QUICK))
    start = time.monotonic()
    with unanswered("it cannot be reached"):
        list(Endpoint(Address(url, "x", retries=9, backoff_seconds=60)).replies(requests(1), Budget(), lambda: False))
    assert time.monotonic() - start < 20, "told at once: nothing was ever answered"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://", "names no host"),
        ("http://me:secret@host/v1", "the URL of host holds more than an address"),
        ("https://host/v1?key=secret", "the URL of host holds more than an address"),
        ("http://host:half/v1", "is no URL"),
    ],
)
def test_urls_that_are_none(url: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as told:
        Endpoint(Address(url, "x"))
    assert "secret" not in str(told.value)


def test_the_key_is_sent_and_never_told(caplog: pytest.LogCaptureFixture) -> None:
    key = "sk-very-secret-1234"
    with Server(lambda asked: f"your key is {key}") as server:
        endpoint = Endpoint(Address(server.url, **QUICK), key)
        ((_, reply),) = endpoint.replies(requests(1), Budget(), lambda: False)
        server.fault = lambda digest, arrival: "!401 " + json.dumps({"message": f"{key} is no key"})
        with pytest.raises(Unanswered, match=r"\*\*\* is no key") as told:
            list(endpoint.replies(requests(2)[1:], Budget(), lambda: False))
    assert reply.text == "your key is ***"
    assert all(headers["authorization"] == f"Bearer {key}" for headers in map(_lower, server.headers))
    assert key not in str(told.value)
    assert key not in repr(endpoint)
    with caplog.at_level(logging.WARNING):
        Endpoint(Address("http://elsewhere.example/v1", "x"), key)
    assert "others can read it" in caplog.text
    assert key not in caplog.text
    with pytest.raises(UserError, match="characters that no key has") as told:
        Endpoint(Address(server.url, "x"), "geheim\nX-Other: 1 ø")
    assert "geheim" not in str(told.value)


def _lower(headers: dict[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}
