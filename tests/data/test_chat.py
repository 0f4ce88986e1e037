"""Messages as rows spell them become turns."""

import pytest

from tunewise.data.chat import Message, read_messages
from tunewise.errors import UserError

TALK = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "hello"},
    {"role": "user", "content": "why?"},
    {"role": "assistant", "content": "because"},
]


def test_other_spellings_of_messages():
    shared = read_messages([{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}])
    assert shared == [Message("user", "hi", False), Message("assistant", "hello", True)]
    items = [
        {
            "role": "user",
            "content": [{"type": "text", "value": "a"}, {"type": "text", "text": "b"}],
            "loss_weight": 0.0,
        },
        {"role": "assistant", "content": [{"type": "text", "value": "c"}], "loss_weight": 1.0},
        {"role": "user", "content": "left out: nothing answers it"},
    ]
    assert read_messages(items) == [Message("user", "ab", False), Message("assistant", "c", True)]


def test_a_turn_of_no_weight_is_not_trained():
    talk = [*TALK[:2], {"role": "assistant", "content": "hello", "weight": 0}, *TALK[3:]]
    assert [message.content for message in read_messages(talk) if message.trained] == ["because"]


@pytest.mark.parametrize(
    ("value", "message", "hint"),
    [
        ("hi", "no list of messages", '[{"role": "user"'),
        ([], "no list of messages", '[{"role": "user"'),
        (["hi"], "a message is 'hi', not an object", '{"role": "user"'),
        ([{"role": "user", "content": "hi"}], "no assistant's turn to be trained", "the role assistant"),
        ([{"role": "assistant", "content": " "}], "no assistant's turn to be trained", "the role assistant"),
        ([{"role": "tool", "content": "hi"}], "the role 'tool' is not supported", "known: user, assistant, system"),
        ([{"content": "hi"}], "the role None is not supported", "known: user"),
        ([{"role": "user", "content": 3}], "a message's content is 3, not text", '"content"'),
        ([{"role": "user", "content": [{"type": "image"}]}], "a message holds 'image', only text can be read", ""),
    ],
)  # fmt: skip
def test_what_is_no_conversation_is_told(value, message, hint):
    with pytest.raises(UserError) as error:
        read_messages(value)
    assert error.value.message == message
    assert hint in error.value.hint
