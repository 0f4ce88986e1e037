"""Caps that are never exceeded, and waits that are as long as they should be."""

import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from tunewise.teacher.backoff import Backoff, retry_after
from tunewise.teacher.budget import Budget
from tunewise.teacher.exchange import TEMPLATE_TOKENS, Reply, Request


def request(key: str = "0/0/instructions", text: str = "é" * 10, max_tokens: int = 100) -> Request:
    return Request(key, text, max_tokens)


def test_a_request_reserves_a_token_a_byte_and_all_it_may_write() -> None:
    assert request().most_tokens == 20 + TEMPLATE_TOKENS + 100


def test_requests_under_way_count() -> None:
    budget = Budget(max_requests=2)
    assert budget.admits(request("a"))
    assert budget.admits(request("b"))
    assert not budget.admits(request("c"))
    assert budget.sends()
    budget.settle(request("a"), Reply("x"))
    assert not budget.admits(request("c"))
    assert budget.sends()
    assert not budget.sends()
    assert budget.why_not(request()) == "2 requests were sent, and no more than 2 were to be"


def test_tokens_under_way_count_and_are_given_back() -> None:
    one = request()
    budget = Budget(max_tokens=2 * one.most_tokens)
    assert budget.admits(request("a"))
    assert budget.admits(request("b"))
    assert not budget.admits(request("c"))
    budget.settle(request("a"), Reply("x", 10, 5))
    assert not budget.admits(request("c")), "15 tokens are gone for good"
    budget.settle(request("b"), None)
    assert budget.used == 15
    assert budget.admits(request("c"))
    budget.settle(request("c"), Reply("x", 300, 0))
    assert budget.why_not(one) == f"315 tokens were used, and the next request could pass {2 * one.most_tokens}"


def test_what_was_spent_before_counts() -> None:
    budget = Budget(max_requests=5)
    budget.spent_before(5, [Reply("x", 7, 8)])
    assert (budget.used, budget.n_answered) == (15, 1)
    assert not budget.admits(request())


def test_threads_do_not_pass_a_cap_together() -> None:
    budget, sent = Budget(max_requests=50), []

    def send() -> None:
        while budget.sends():
            sent.append(1)

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(sent) == budget.sent == 50


def test_waits_double_with_jitter_up_to_a_minute() -> None:
    backoff = Backoff(1.0)
    for attempt, longest in [(1, 1), (2, 2), (3, 4), (6, 32), (9, 60), (30, 60)]:
        waits = [backoff.seconds(attempt) for _ in range(50)]
        assert longest / 2 <= min(waits) < max(waits) <= longest
    assert backoff.seconds(1, asked=90.0) == 90.0


def test_what_one_thread_is_told_all_wait_for() -> None:
    now = [0.0]
    backoff = Backoff(1.0, clock=lambda: now[0])
    backoff.close_for(5.0)
    woken = threading.Event()
    threading.Thread(target=lambda: backoff.wait() or woken.set()).start()
    assert not woken.wait(0.05), "it waits"
    backoff.stop()
    assert woken.wait(5), "and is woken when all are to stop"
    assert not backoff.wait()


@pytest.mark.parametrize(
    ("header", "seconds"), [(None, 0), ("", 0), ("3", 3), ("0.5", 0.5), ("-2", 0), ("soon", 0), ("nan", 0), ("inf", 0)]
)
def test_retry_after(header: str | None, seconds: float) -> None:
    assert retry_after(header) == seconds


def test_retry_after_as_a_date() -> None:
    later = datetime.now(UTC) + timedelta(seconds=60)
    assert 57 < retry_after(format_datetime(later, usegmt=True)) <= 60
    assert retry_after(format_datetime(later - timedelta(hours=1), usegmt=True)) == 0
