"""Bodies that are sent back are JSON, whatever the model said."""

import json

import pytest

from tunewise.serve.fields import Chat, Completion
from tunewise.serve.job import Done, Piece, Token
from tunewise.serve.replies import Reply

CHAT = Chat(model="base", messages=[{"role": "user", "content": "a"}], logprobs=True, top_logprobs=2)
COMPLETION = Completion(model="base", prompt="a", logprobs=2)


def refuse(constant):
    raise AssertionError(f"{constant} is no JSON")


@pytest.mark.parametrize("request_", [CHAT, COMPLETION], ids=["chat", "completion"])
def test_logarithms_that_json_cannot_hold_are_told_as_the_least(request_):
    token = Token("b", float("nan"), (("b", float("nan")), ("c", float("-inf"))))
    piece, reply = Piece(0, "b", "length", tokens=(token,)), Reply(request_)
    *_, event = reply.chunks(piece)
    whole = reply.whole([piece], Done(1, 1))
    for body in (json.dumps(whole), event.removeprefix("data: ")):
        told = json.loads(body, parse_constant=refuse)["choices"][0]["logprobs"]
        assert json.dumps(told).count("-9999.0") == 3
