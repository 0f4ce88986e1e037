"""Bodies whose length nobody tells, piece by piece."""

import asyncio
import json

import pytest

from tunewise.serve.body import BodyLimit


def passed(pieces):
    """What the application behind the limit has read, and what was sent."""
    left = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces[:-1]]
    left += [{"type": "http.request", "body": pieces[-1], "more_body": False}, {"type": "http.disconnect"}]
    read, sent = [], []

    async def receive():
        return left.pop(0)

    async def send(message):
        sent.append(message)

    async def app(scope, receive, send):
        while (message := await receive())["type"] != "http.disconnect":
            read.append(message["body"])

    asyncio.run(BodyLimit(app, 10)({"type": "http", "headers": []}, receive, send))
    return read, sent, left


@pytest.mark.parametrize("pieces", [[b""], [b"0123456789"], [b"01234", b"56789", b""]])
def test_what_may_be_so_long_is_handed_on_as_it_came(pieces):
    read, sent, left = passed(pieces)
    assert read == pieces
    assert sent == left == []


def test_what_is_longer_is_refused_and_no_more_of_it_read():
    read, sent, left = passed([b"01234", b"567890", b"more"])
    assert read == []
    assert sent[0]["status"] == 413
    told = json.loads(sent[1]["body"])["error"]
    assert told == {
        "message": "the body of a request may have 10 bytes; send less", "type": "invalid_request_error",
        "param": None, "code": None,
    }  # fmt: skip
    assert left[0]["body"] == b"more"
