"""Rows of dev that are drawn to be asked by hand: typed again they ask the same, and the right answer is known."""

import random

import pytest

from tests.bytes_tokenizer import bytes_tokenizer
from tests.data.test_typed import ROWS
from tunewise.data.config import DataConfig
from tunewise.data.drawn import draw, told_of
from tunewise.data.load import load_task
from tunewise.data.typed import typed_example
from tunewise.files import write_jsonl

RIGHT = {"text": "label", "pair": "label", "value": "score", "alpaca": "output", "prompt": "completion"}


def _task(folder, rows, tokenizer=None):
    write_jsonl(folder / "rows.jsonl", rows)
    return load_task(DataConfig(path=str(folder / "rows.jsonl")), tokenizer or bytes_tokenizer())


@pytest.mark.parametrize("name", ROWS)
def test_a_row_is_typed_as_it_was_written(name, tmp_path):
    rows, columns = ROWS[name]
    task = _task(tmp_path, rows)
    by_id = {f"rows:{number}": row for number, row in enumerate(rows, start=1)}
    for number in range(5):
        drawn = draw(task, random.Random(number))
        row = by_id[drawn.id]
        assert drawn.id in {example.id for example in task.dev}
        expected = {column: "|".join(row[column]) if column == "choices" else row[column] for column in columns}
        assert drawn.told == expected
        right = row["choices"]["AB".index(row["answer"])] if name == "choices" else str(row[RIGHT[name]])
        assert drawn.right == (right.strip(),)
        assert drawn.is_right(f" {right}") is True
        assert drawn.is_right("another") is (False if name in ("text", "pair", "choices") else None)


def test_of_conversations_those_of_one_turn_are_typed(tmp_path):
    def turns(*texts):
        return {"messages": [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]}

    tokenizer = bytes_tokenizer()
    turn = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
    tokenizer.chat_template = turn + "{% if add_generation_prompt %}<assistant>{% endif %}"
    task = _task(tmp_path, [turns(f"say {i}", f"boat {i}") for i in range(30)], tokenizer)
    drawn = draw(task, random.Random(0))
    assert drawn.told["text"].replace("say", "boat") == drawn.right[0]
    assert typed_example(task, drawn.told).prompt == f"<user>{drawn.told['text']}\n<assistant>"
    opened = {"role": "system", "content": "S"}
    rows = [{"messages": [opened, *turns(f"say {i}", f"boat {i}")["messages"]]} for i in range(30)]
    with_system = _task(tmp_path, rows, tokenizer)
    assert draw(with_system, random.Random(0)) is None


def test_what_cannot_be_typed_again_is_not_drawn(tmp_path):
    rows, _ = ROWS["text"]
    task = _task(tmp_path, [{"kind": "x", **row} for row in rows])
    example = task.dev[0]
    assert told_of(task, example) == {"text": example.texts[0]}
    (prompt, answer) = example.parts
    changed = type(prompt)(f"{prompt.text}!", False)
    assert told_of(task, type(example)(example.id, (changed, answer), example.label, texts=example.texts)) is None
