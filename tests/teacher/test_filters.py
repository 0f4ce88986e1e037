"""What is kept of instructions and examples, and the reason for what is not."""

import pytest

from tunewise.teacher import filters
from tunewise.teacher.novelty import Kept
from tunewise.teacher.scripts import foreign, scripts_of

LATIN = frozenset({"Latin"})


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("Write a poem about the sea.", ""),
        ("¿Qué hora es en Oslo ahora?", ""),
        ("“Carpe diem”: explain the saying.", ""),
        ("", "empty instruction"),
        ("!!!", "empty instruction"),
        (". Write a poem", "instruction begins with a sign"),
        ("(Write a poem about it)", "instruction begins with a sign"),
        ("Write one.", "instruction under 3 words"),
        ("word " * 151, "instruction over 150 words"),
        ("Describe this image to me.", "instruction asks for more than text"),
        ("Draw a house with two doors.", "instruction asks for more than text"),
        ("Describe your profile and imagery.", ""),
        ("Напиши короткое стихотворение", "instruction in another script"),
        ("Translate Мир and дом to English", ""),
    ],
)
def test_instructions(text: str, why: str) -> None:
    assert filters.why_no_instruction(text, scripts=LATIN) == why


def test_keywords_are_chosen() -> None:
    assert filters.why_no_instruction("Draw a house with words.", keywords=()) == ""
    assert filters.why_no_instruction("Tell a joke now.", keywords=("joke",)) == "instruction asks for more than text"


def test_what_is_like_a_kept_one_names_it() -> None:
    kept = Kept(0.7)
    kept.add("Write a poem about the sea.")
    assert filters.why_not_new("Count all the boats.", kept, ["a"]) == ("", "")
    why, detail = filters.why_not_new("Write a poem about the lake.", kept, ["seed 7"])
    assert (why, detail) == ("instruction like another", "ROUGE-L 0.83 with seed 7")


@pytest.mark.parametrize(
    ("given", "output", "why"),
    [
        ("a boat", "it floats", ""),
        ("", "it floats", ""),
        ("a boat", "  ", "empty output"),
        ("a boat", "A  Boat", "output repeats the input"),
        ("", "say WHAT it does.", "output repeats the instruction"),
        ("a boat", "I'm sorry, but I can't do that.", "the teacher declines"),
        ("a boat", "As an AI language model, I float.", "the teacher declines"),
        ("a boat", "I can swim.", ""),
        ("a boat", "Here it is:", "input or output ends with a colon"),
        ("a boat:", "it floats", "input or output ends with a colon"),
        ("a boat", "it floats\nTask: next", "labels left over in it"),
        ("a boat", " ".join("abcdefghijk"), ""),
    ],
)
def test_examples(given: str, output: str, why: str) -> None:
    assert filters.why_no_example("Say what it does.", given, output) == why


def test_a_label_is_short() -> None:
    assert filters.why_no_example("Sort it.", "x", " ".join("abcdefghijk"), is_label=True) == "label over 10 words"


def test_an_answer_to_a_prompt_that_was_there_may_hold_labels() -> None:
    assert filters.why_no_output("Explain.", "", "Use these:\nInput: x\nand so on:") == ""
    assert filters.why_no_output("Explain.", "", "") == "empty output"


def test_examples_that_contradict_each_other() -> None:
    pairs = [("a", "1"), ("b", "2"), ("a", "3"), ("b", "2"), ("c", "4")]
    other, again = "same input, other output", "the same example twice"
    assert filters.contradicted(pairs) == [other, "", other, again, ""]


def test_scripts() -> None:
    assert scripts_of(["Write a poem about α", "Name a town in the north"]) == LATIN
    assert scripts_of(["写一首诗", "Write a poem"]) == {"Latin", "Han"}
    japanese = scripts_of(["詩を書いてください"])
    assert {"Hiragana", "Katakana", "Han"} <= japanese
    assert foreign("カタカナ", japanese) == ""
    assert foreign("Привет, world", LATIN) == "cyrillic"
    assert foreign("12 + 3?", LATIN) == ""
