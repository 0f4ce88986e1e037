"""Answers as chat models and models that write on set them."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunewise.teacher import parsing


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" Sing a song.\nTask 10: Name a town.\nTask 11: Add it up.", ["Sing a song.", "Name a town.", "Add it up."]),
        ("Task 9: Sing a song.\nTask 10: Name a town.", ["Sing a song.", "Name a town."]),
        ("Sure! Here are more:\n\n9. Sing a song.\n10. Name a town.", ["Sing a song.", "Name a town."]),
        ("Here you are:\n\n1. Sing a song.\n2. Name a town.", ["Sing a song.", "Name a town."]),
        ("**Task 9:** Sing a song.\n\n**Task 10:** Name a town.", ["Sing a song.", "Name a town."]),
        (
            "### Task 9: Sing a song\nin two lines.\n### Task 10: Name a town.",
            ["Sing a song\nin two lines.", "Name a town."],
        ),
        ("- Sing a song.\n- Name a town.", ["Sing a song.", "Name a town."]),
        ("Sing a song.\n\nAnd then we went home.", ["Sing a song."]),
        ("9) Sing 3. songs\n10) Name a town.", ["Sing 3. songs", "Name a town."]),
        ("", []),
        ("9.\n10.\n", []),
    ],
)
def test_numbered_lists(text: str, expected: list[str]) -> None:
    assert parsing.numbered(text, 9) == expected


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ("Sing a  song\nof three.", "Sing a song of three."),
        ('"Sing a song."', "Sing a song."),
        ("Instruction: Sing.", "Sing."),
        ("task: “Sing.”", "Sing."),
        ('Say "yes" and "no"', 'Say "yes" and "no"'),
        ('"yes" or "no"?', '"yes" or "no"?'),
        ('"yes" or "no"', '"yes" or "no"'),
    ],
)
def test_one_instruction(part: str, expected: str) -> None:
    assert parsing.one_instruction(part) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("yes", True), (" No.", False), ("**Yes**, it is.", True), ("Answer: no", False), ("YES\n\nTask: x", True),
        ("Perhaps", None), ("nothing", None), ("It is not, no.", None), ("", None),
    ],
)  # fmt: skip
def test_yes_or_no(text: str, expected: bool | None) -> None:
    assert parsing.yes_or_no(text) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" a boat\nOutput: it floats", ("a boat", "it floats")),
        ("Input: a boat\nOutput: it floats", ("a boat", "it floats")),
        ("none\nOutput: it floats", ("", "it floats")),
        ("Input: <noinput>\nOutput: it floats", ("", "it floats")),
        ("N/A\n\nOutput:\nit floats\nand sails\n\nTask: Next\nInput: x\nOutput: y", ("", "it floats\nand sails")),
        ("**Input:** a boat\n**Output:** it floats", ("a boat", "it floats")),
        ("Task: Say what it does.\nInput: a boat\nOutput: it floats", ("a boat", "it floats")),
        ("Output: it floats", ("", "it floats")),
        ("two\nlines\nOutput: it floats", ("two\nlines", "it floats")),
        ("a boat\nAnswer: it floats", ("a boat", "it floats")),
        ("a boat, input: wood\nOutput: it floats", ("a boat, input: wood", "it floats")),
        ("none of these boats\nOutput: floats", ("none of these boats", "floats")),
        ("a boat", "no output in the answer"),
        ("", "no output in the answer"),
    ],
)
def test_an_example_whose_input_comes_first(text: str, expected: tuple[str, str] | str) -> None:
    assert parsing.pair(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" good\nInput: warm\nLabel: bad\nInput: wet", [("warm", "good"), ("wet", "bad")]),
        ("Label: good\nInput: warm\n\nLabel: bad\nInput: wet", [("warm", "good"), ("wet", "bad")]),
        ("Class label: good\nInput: warm", [("warm", "good")]),
        ("Label 1: good\nInput 1: warm\nLabel 2: bad\nInput 2: wet", [("warm", "good"), ("wet", "bad")]),
        ("good\nInput: warm\nTask: Next\nLabel: x\nInput: y", [("warm", "good")]),
        ("good\nInput: none", [("", "good")]),
        ("good\nLabel: bad\nInput: wet", [("wet", "bad")]),
        ("good", "no label with an input in the answer"),
        ("Input: warm", "no label with an input in the answer"),
    ],
)
def test_examples_whose_label_comes_first(text: str, expected: list[tuple[str, str]] | str) -> None:
    assert parsing.labelled(text) == expected


def test_whole_tasks() -> None:
    text = (
        " Say what it does.\nInput: a boat\nOutput: it floats\n\n"
        "Task 5: Name a town.\nInput: none\nOutput: Bergen\n\n"
        "Task 6:\nInstruction: Add them up.\nInput:\n1. 2\n2. 1\nOutput: 3\n\nTask 7: Cut off"
    )
    assert parsing.tasks(text, 4) == [
        parsing.Whole("Say what it does.", "a boat", "it floats"),
        parsing.Whole("Name a town.", "", "Bergen"),
        parsing.Whole("Add them up.", "1. 2\n2. 1", "3"),
        parsing.Whole("Cut off", "", None),
    ]


def test_thoughts_and_fences_are_no_answer() -> None:
    assert parsing.plain("<think>Task 9: no\n\nOutput: x</think>\n\nyes") == "yes"
    assert parsing.plain("so it is.</think> yes") == "yes"
    assert parsing.plain("<think>and so on for ever") == ""
    assert parsing.plain("```text\nOutput: x\n```") == "Output: x"
    code = "Say:\n```python\nprint(1)\n```"
    assert parsing.plain(code) == code
    two = "```\na\n```\nand\n```\nb\n```"
    assert parsing.plain(two) == two


MARKS = ["Task 9:", "10.", "Task:", "Input:", "Output:", "Label:", "**", "```", "<think>", "</think>", "- "]
PIECES = st.sampled_from([*MARKS, "\n", "\n\n", " ", "none", "yes", "boat", "1", '"', "é", "写"])


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES, max_size=25).map("".join))
def test_whatever_is_written_is_read_without_inventing_anything(text: str) -> None:
    found = [*parsing.numbered(text, 9), parsing.plain(text)]
    pair, labelled = parsing.pair(text), parsing.labelled(text)
    found += [] if isinstance(pair, str) else pair
    found += [] if isinstance(labelled, str) else [part for both in labelled for part in both]
    for task in parsing.tasks(text, 9):
        found += [task.input, task.output or ""]
        assert task.instruction == "" or task.instruction.split()[0] in text
    assert all(part in text for part in found)
    assert parsing.yes_or_no(text) in (True, False, None)


@pytest.mark.parametrize("filler", [" ", "\n", "*", "(", "#", "`", "<think>", "1.\n", "Input:\n", '"'])
def test_a_teacher_that_never_stops_is_read_in_no_time(filler: str) -> None:
    text, start = filler * 4000 + "x", time.process_time()
    parsing.numbered(text, 9)
    parsing.tasks(text, 9)
    parsing.pair(text)
    parsing.labelled(text)
    parsing.yes_or_no(text)
    parsing.one_instruction(text)
    parsing.plain(text)
    assert time.process_time() - start < 2
