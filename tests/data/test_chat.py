"""Chat messages become parts by position in what the tokenizer's own template writes."""

import pytest

from tests.data.tokenizers_for_tests import COUNTING, REFUSING, bytes_without_begin, pieces_with_begin, with_template
from tunewise.data.chat import parts_of
from tunewise.data.encode import MASKED, encode
from tunewise.data.examples import Example, Part
from tunewise.data.messages import read_messages
from tunewise.errors import UserError

TALK = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "hello"},
    {"role": "user", "content": "why?"},
    {"role": "assistant", "content": "because"},
]


def test_the_parts_are_what_the_template_writes():
    tokenizer = bytes_without_begin()
    parts = parts_of(read_messages(TALK), tokenizer)
    whole = tokenizer.apply_chat_template(TALK, tokenize=False)
    assert "".join(part.text for part in parts) == whole.rstrip("\n")
    assert [part.text for part in parts if part.trained] == ["hello<|im_end|>\n", "because<|im_end|>"]
    example = Example("a", parts)
    opened = tokenizer.apply_chat_template(TALK[:-1], tokenize=False, add_generation_prompt=True)
    assert example.prompt == opened, "what is asked in training is what a serving program will write"


def test_one_end_token_ends_the_last_answer_and_is_trained():
    tokenizer = bytes_without_begin()
    encoded = encode(Example("a", parts_of(read_messages(TALK), tokenizer)), tokenizer, 1000)
    end = tokenizer.eos_token_id
    assert encoded.ids[-1] == encoded.labels[-1] == end
    assert encoded.ids[-2] != end
    assert [label for label in encoded.labels if label == end] == [end, end]
    trained = tokenizer.decode([label for label in encoded.labels if label != MASKED])
    assert trained == "hello<|im_end|>\nbecause<|im_end|>"


def test_without_a_template_the_plain_one_is_used():
    for tokenizer in (None, pieces_with_begin()):
        assert parts_of(read_messages(TALK), tokenizer) == (
            Part("System: Be kind.", False),
            Part("\nHuman: hi", False),
            Part("\nAssistant:", False),
            Part(" hello", True),
            Part("\nHuman: why?", False),
            Part("\nAssistant:", False),
            Part(" because", True),
        )


def test_a_turn_of_no_weight_is_not_trained():
    talk = [*TALK[:2], {"role": "assistant", "content": "hello", "weight": 0}, *TALK[3:]]
    assert [part.text for part in parts_of(read_messages(talk), None) if part.trained] == [" because"]


def test_a_template_that_changes_earlier_turns_is_refused():
    with pytest.raises(UserError, match="changes earlier turns when turn 2 is added") as error:
        parts_of(read_messages(TALK[1:3]), with_template(COUNTING))
    assert "prompt and completion columns" in error.value.hint


def test_a_template_that_refuses_a_role_is_told():
    with pytest.raises(UserError, match="refuses the turns system: no system role"):
        parts_of(read_messages(TALK), with_template(REFUSING))
