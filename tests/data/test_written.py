"""Conversations as an encoder-decoder is trained on them: each answer is written behind all that was said before it."""

from transformers import PreTrainedTokenizerFast

from tests.bytes_tokenizer import bytes_tokenizer
from tunewise.data.examples import Example, Part
from tunewise.data.trained_on import each_answer, trained_on
from tunewise.data.written import written_each

HEARD, SAID = "user: hi\nassistant:", " hello"
TALK = Example(
    "t1",
    (
        Part(HEARD, False), Part(f"{SAID}<end>", True), Part("\nuser: bye\nassistant:", False), Part(" so long", True),
        Part("\n", False),
    ),
    line=7, end="<end>",
)  # fmt: skip


def read(examples: list[Example], tokenizer: PreTrainedTokenizerFast, max_length: int = 999) -> list[tuple[str, ...]]:
    rows = [row for _, row in written_each(examples, tokenizer, max_length)]
    return [(row.id, tokenizer.decode(row.ids), tokenizer.decode(row.labels[:-1])) for row in rows]


def test_each_answer_is_a_row_behind_all_that_was_said_before_it():
    tokenizer = bytes_tokenizer(begin=False)
    one, two = each_answer(TALK)
    assert (one.id, one.line, one.prompt, one.answer) == ("t1#1", 7, HEARD, SAID)
    assert (two.id, two.prompt, two.answer) == ("t1", TALK.prompt, TALK.answer)
    assert [[part.trained for part in each.parts].count(True) for each in (one, two)] == [1, 1]
    assert list(each_answer(two)) == [two]
    found = read([TALK, two], tokenizer)
    assert found == [
        ("t1#1", HEARD, SAID.strip()),
        ("t1", f"{HEARD}{SAID}<end>\nuser: bye\nassistant:", "so long"),
        ("t1", f"{HEARD}{SAID}<end>\nuser: bye\nassistant:", "so long"),
    ]
    assert read(list(trained_on([TALK], "last_answer")), tokenizer) == found[1:2]
