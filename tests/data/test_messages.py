"""Messages of every usual spelling become one form; what is no conversation is told."""

import json
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.tokenizers_for_tests import with_template
from tunewise.data.chat_template import chat_template
from tunewise.data.conversations import Conversations
from tunewise.data.messages import Message, are_messages, read_messages, tools_of
from tunewise.errors import UserError

CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Bergen"}}}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
WITH_TOOLS = (
    "{% if tools %}tools {{ tools[0].function.name }};{% endif %}"
    "{% for message in messages %}{{ message.role }}:{{ message.content }}"
    "{% for call in message.tool_calls %}[{{ call.function.name }} {{ call.function.arguments | tojson }}]{% endfor %};"
    "{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)


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
    assert read_messages(json.dumps(items)) == read_messages(items)
    assert [one.trained for one in read_messages([items[1] | {"train": False}, items[1]])] == [False, True]
    thinking = read_messages([{"role": "assistant", "content": "b", "reasoning_content": "a"}])[0]
    assert thinking.plain() == {"role": "assistant", "content": "b", "reasoning_content": "a"}


OPENAI = [
    {"role": "developer", "content": "Be brief."},
    {"role": "user", "content": "Rain?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "c1", "type": "function",
                        "function": {"name": "weather", "arguments": '{"city": "Bergen"}'}}],
    },
    {"role": "tool", "tool_call_id": "c1", "name": "weather", "content": "rain"},
    {"role": "assistant", "content": "Yes."},
]  # fmt: skip
SHAREGPT = [
    {"from": "system", "value": "Be brief."},
    {"from": "human", "value": "Rain?"},
    {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Bergen"}}'},
    {"from": "observation", "value": "rain"},
    {"from": "gpt", "value": "Yes."},
]


def test_calls_of_tools_in_both_spellings():
    one, other = read_messages(OPENAI), read_messages(SHAREGPT)
    assert [message.role for message in one] == ["system", "user", "assistant", "tool", "assistant"]
    assert [message.role for message in other] == [message.role for message in one]
    assert one[2].tool_calls == ({"id": "c1", **CALL},)
    assert other[2].tool_calls == (CALL,)
    assert (one[2].content, one[2].trained, one[3].name) == ("", True, "weather")
    assert other[3].plain() == {"role": "tool", "content": "rain"}
    several = [SHAREGPT[1], {"from": "function_call", "value": json.dumps([CALL["function"]] * 2)}]
    assert read_messages(several)[1].tool_calls == (CALL, CALL)
    old = [OPENAI[1], {"role": "assistant", "content": None, "function_call": {"name": "weather", "arguments": ""}}]
    assert read_messages(old)[1].tool_calls[0]["function"] == {"name": "weather", "arguments": {}}


def test_tools_in_every_spelling():
    for value in ([TOOL], [TOOL["function"]], TOOL["function"], json.dumps([TOOL]), json.dumps([TOOL["function"]])):
        assert tools_of(value) == (TOOL,)
    for value in ("", "[]", [], None, " "):
        assert tools_of(value) == ()
    for value in ("not json", [1], [{"description": "no name"}], "3", {"function": {"name": 3}}):
        with pytest.raises(UserError, match="a tool is"):
            tools_of(value)


def test_tools_and_calls_stand_where_the_template_puts_them():
    chat = Conversations(chat_template(None, with_template(WITH_TOOLS)))
    example = chat.example("a", 1, read_messages(OPENAI), [TOOL])
    parts = example.parts
    assert "".join(part.text for part in parts) == (
        'tools weather;system:Be brief.;user:Rain?;assistant:[weather {"city": "Bergen"}];tool:rain;assistant:Yes.'
    )
    trained = [part.text for one in (*example.apart, example) for part in one.parts if part.trained]
    assert trained == ['[weather {"city": "Bergen"}]', "Yes."]


def test_tools_and_calls_without_a_template():
    parts = Conversations(chat_template(None, None)).example("a", 1, read_messages(SHAREGPT), [TOOL]).parts
    assert "".join(part.text for part in parts) == (
        'Tools: [{"name": "weather", "parameters": {"type": "object"}}]\nSystem: Be brief.\nHuman: Rain?\nAssistant: '
        '{"name": "weather", "arguments": {"city": "Bergen"}}\nTool: rain\nAssistant: Yes.'
    )
    assert [part.text for part in parts if part.trained] == [
        ' {"name": "weather", "arguments": {"city": "Bergen"}}',
        " Yes.",
    ]


def called(**call: object) -> list:
    return [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "", "tool_calls": [call]}]


@pytest.mark.parametrize(
    ("value", "message", "hint"),
    [
        ("hi", "no list of messages", '[{"role": "user"'),
        ([], "no list of messages", '[{"role": "user"'),
        ("[", "no list of messages", '[{"role": "user"'),
        (["hi"], "a message is 'hi', not an object", '{"role": "user"'),
        ([{"role": "user", "content": "hi"}], "no assistant's turn to be trained", "the role assistant"),
        ([{"role": "assistant", "content": " "}], "no assistant's turn to be trained", "the role assistant"),
        ([{"role": "narrator", "content": "hi"}], "the role 'narrator' is not supported", "known: user, human"),
        ([{"role": ["user"], "content": "hi"}], "the role ['user'] is not supported", "known: user"),
        ([{"content": "hi"}], "the role None is not supported", "known: user"),
        ([{"role": "user", "content": 3}], "a message's content is 3, not text", '"content"'),
        ([{"role": "assistant", "content": None}], "a message's content is None, not text", '"content"'),
        ([{"role": "user", "content": [{"type": "image"}]}], "a message holds 'image', only text can be read", ""),
        ([{"from": "function_call", "value": "no call"}], "a tool call is 'no call', not an object with a name", ""),
        ([{"from": "function_call", "value": ""}], "a function_call calls nothing", '"arguments"'),
        (called(name=3), "a tool call is {'name': 3}, not an object with a name", '"arguments"'),
        (called(name="a", arguments="{"), "the arguments of a call of a are '{', not a JSON object", '"arguments"'),
        (called(name="a", arguments=[1]), "the arguments of a call of a are [1], not a JSON object", '"arguments"'),
    ],
)  # fmt: skip
def test_what_is_no_conversation_is_told(value, message, hint):
    with pytest.raises(UserError) as error:
        read_messages(value)
    assert error.value.message == message
    assert hint in error.value.hint


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from("role from content value tool_calls name arguments function weight type text".split()),
            inner | st.sampled_from(["user", "assistant", "gpt", "function_call", "tool", "text"]),
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(anything)
@settings(deadline=None, max_examples=300)
def test_whatever_is_there_is_messages_or_told(value):
    assert are_messages(value) in (True, False)
    for read in (read_messages, tools_of):
        with suppress(UserError):
            assert all(read(value))
