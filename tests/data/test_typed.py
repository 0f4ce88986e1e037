"""Questions that are typed, against the same questions read from rows."""

import json

import pytest

from tests.bytes_tokenizer import bytes_tokenizer
from tunewise.data.config import DataConfig
from tunewise.data.load import load_task
from tunewise.data.messages import Message
from tunewise.data.readers import fields_of
from tunewise.data.typed import columns_of, free_task, may_be_empty, told_in, typed_example
from tunewise.errors import UserError
from tunewise.files import write_jsonl

ROWS = {
    "text": ([{"text": f"soup {i}", "label": "ab"[i % 2]} for i in range(30)], ("text",)),
    "pair": (
        [{"premise": f"a boat {i}", "hypothesis": f"boats {i}", "label": "yn"[i % 2]} for i in range(30)],
        ("premise", "hypothesis"),
    ),
    "value": ([{"text": f"soup {i}", "score": i / 2} for i in range(30)], ("text",)),
    "alpaca": (
        [{"instruction": f"Count {i}", "input": "" if i % 2 else f"in {i}", "output": f"out {i}"} for i in range(30)],
        ("instruction", "input"),
    ),
    "prompt": ([{"prompt": f"count {i}:", "completion": f" the {i} boat"} for i in range(30)], ("prompt",)),
    "choices": (
        [{"question": f"what {i}?", "choices": ["a cat", f"a {i}"], "answer": "AB"[i % 2]} for i in range(30)],
        ("question", "choices"),
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_typed_question_is_asked_as_that_of_a_row(name, tmp_path):
    rows, columns = ROWS[name]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    task = load_task(DataConfig(path=str(tmp_path / "rows.jsonl")), bytes_tokenizer())
    assert columns_of(task) == columns
    by_id = {example.id: example for example in (*task.train, *task.dev, *task.test)}
    for number, row in enumerate(rows, start=1):
        expected = by_id[f"rows:{number}"]
        typed = typed_example(task, told_in({column: row[column] for column in columns}, columns))
        assert (typed.prompt, task.options(typed)) == (expected.prompt, task.options(expected))
        if name in ("text", "pair", "value"):
            assert typed.texts == expected.texts


def test_an_instruction_does_without_its_input_and_a_pair_without_neither(tmp_path):
    for name, without, bare in (("alpaca", ("input",), "Count 1"), ("pair", (), None), ("prompt", (), None)):
        write_jsonl(tmp_path / f"{name}.jsonl", ROWS[name][0])
        task = load_task(DataConfig(path=str(tmp_path / f"{name}.jsonl")), bytes_tokenizer())
        assert may_be_empty(task) == without
        if bare:
            told = told_in(bare, columns_of(task), without)
            assert typed_example(task, told).prompt == "Human: Count 1\nAssistant:"
    with pytest.raises(UserError, match="nothing is asked"):
        told_in(" ", ("instruction", "input"), ("input",))


def test_tags_are_of_words_with_spaces_between(tmp_path):
    write_jsonl(tmp_path / "t.jsonl", [{"tokens": ["a", f"b{i}"], "tags": ["O", "B-x"]} for i in range(30)])
    task = load_task(DataConfig(path=str(tmp_path / "t.jsonl")), None)
    assert columns_of(task) == ("tokens",)
    typed = typed_example(task, {"tokens": "one two  three"})
    assert typed.texts == ("one", "two", "three")
    assert len(typed.tags) == 3


def test_a_conversation_is_written_as_a_server_writes_it(tmp_path):
    answer = {"role": "assistant", "content": "b"}
    rows = [{"messages": [{"role": "user", "content": f"a {i}?"}, answer]} for i in range(30)]
    write_jsonl(tmp_path / "c.jsonl", rows)
    tokenizer = bytes_tokenizer()
    turns = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
    tokenizer.chat_template = turns + "{% if add_generation_prompt %}<bot>{% endif %}"
    for task in (load_task(DataConfig(path=str(tmp_path / "c.jsonl")), tokenizer), free_task(tokenizer)):
        before = [Message("user", "a?", False), Message("assistant", "b", False)]
        assert columns_of(task) == ("text",)
        typed = typed_example(task, {"text": "and?"}, before)
        assert typed.prompt == "<user>a?\n<assistant>b\n<user>and?\n<bot>"


def test_an_answer_to_what_is_typed_ends_as_those_of_rows_do(tmp_path):
    turn = [{"role": "user", "content": "a?"}, {"role": "assistant", "content": "b"}]
    write_jsonl(tmp_path / "c.jsonl", [{"messages": [{**turn[0], "content": f"a {i}?"}, turn[1]]} for i in range(30)])
    tokenizer = bytes_tokenizer()
    tokenizer.add_tokens(["<stop>"], special_tokens=True)
    turns = "{% for m in messages %}<{{ m.role }}>{{ m.content }}<stop>\n{% endfor %}"
    tokenizer.chat_template = turns + "{% if add_generation_prompt %}<assistant>{% endif %}"
    task = load_task(DataConfig(path=str(tmp_path / "c.jsonl")), tokenizer)
    assert typed_example(task, {"text": "a?"}).end == task.train[0].end == "<stop>"


def test_without_a_chat_template_a_text_is_gone_on_with():
    task = free_task(bytes_tokenizer())
    assert typed_example(task, {"text": "Once upon"}).prompt == "Once upon"


@pytest.mark.parametrize(
    ("said", "columns", "message"),
    [
        ("one text", ("premise", "hypothesis"), "is one text"),
        ("one text", ("question", "choices"), r'"choices": \["\.\.\.", "\.\.\."\]'),
        ({"premis": "a"}, ("premise", "hypothesis"), "premis"),
        ({"premise": " ", "hypothesis": ""}, ("premise", "hypothesis"), "nothing is asked"),
        ("  ", ("text",), "nothing is asked"),
        ({"premise": None, "hypothesis": None}, ("premise", "hypothesis"), "nothing is asked"),
        ("sm\udcf8r", ("text",), r"'\\udcf8', which is no character"),
        ({"choices": ["a", "\ud800"]}, ("choices",), "which is no character"),
    ],
)
def test_what_is_no_question_is_told(said, columns, message):
    with pytest.raises(UserError, match=message):
        told_in(said, columns)


def test_what_is_no_text_is_written_as_in_a_row():
    said = {"a": 0.5, "b": True, "c": None, "d": "it"}
    assert told_in(said, ("a", "b", "c", "d")) == fields_of("rows.jsonl", 1, said)
    assert told_in(said, ("a", "b", "c", "d"))["c"] == ""


def test_choices_are_typed_with_bars_between_or_given_as_a_list(tmp_path):
    write_jsonl(tmp_path / "rows.jsonl", ROWS["choices"][0])
    task = load_task(DataConfig(path=str(tmp_path / "rows.jsonl")), bytes_tokenizer())
    columns = columns_of(task)
    one = typed_example(task, told_in({"question": "q", "choices": "a | b"}, columns))
    other = typed_example(task, told_in({"question": "q", "choices": ["a", "b"]}, columns))
    assert one == other
    with pytest.raises(UserError, match="a choice is there twice"):
        typed_example(task, told_in({"question": "q", "choices": "a | b | a"}, columns))
    with pytest.raises(UserError, match="one choice is none"):
        typed_example(task, told_in({"question": "q", "choices": "a"}, columns))


def test_minimal_pairs_and_mixtures_ask_nothing(tmp_path):
    pairs = [{"sentence_good": f"they go {i}", "sentence_bad": f"they goes {i}"} for i in range(30)]
    write_jsonl(tmp_path / "p.jsonl", pairs)
    with pytest.raises(UserError, match="minimal pairs"):
        columns_of(load_task(DataConfig(path=str(tmp_path / "p.jsonl")), None))
    write_jsonl(tmp_path / "a.jsonl", ROWS["text"][0])
    write_jsonl(tmp_path / "b.jsonl", ROWS["prompt"][0])
    (tmp_path / "mixture.yaml").write_text(json.dumps({"sources": {"a": "a.jsonl", "b": "b.jsonl"}}), "utf-8")
    with pytest.raises(UserError, match="several tasks"):
        columns_of(load_task(DataConfig(path=str(tmp_path / "mixture.yaml")), bytes_tokenizer()))
