"""One table of scripts, for the doctor's rows and for what a teacher answers."""

import pytest

from tunewise.data.scripts import script_of, script_of_letter
from tunewise.teacher.scripts import foreign, scripts_of

LETTERS = {
    "Latin": "aÉßｚ", "Cyrillic": "жІ", "Greek": "λ", "Han": "猫々ㄅ", "Hiragana": "ね", "Katakana": "ネﾈ",
    "Hangul": "한", "Arabic": "ق", "": "1.ªʰ 🙂",
}  # fmt: skip


def test_letters_are_of_the_script_that_unicode_names():
    assert {mark: script_of_letter(mark) for marks in LETTERS.values() for mark in marks} == {
        mark: script for script, marks in LETTERS.items() for mark in marks
    }


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("the cat sat", "Latin"), ("猫が好きです、とても", "Han"), ("кошка сидела on a mat", "Cyrillic"),
        ("12.5 %", ""), ("ж", ""), ("", ""), ("12345678901", ""),
    ],
)  # fmt: skip
def test_a_text_is_of_the_script_of_most_of_its_letters(text, script):
    assert script_of(text) == script


def test_a_teacher_is_held_to_the_scripts_of_the_seeds_by_the_same_table():
    assert scripts_of(["the cat", "ａｂｃ ｄｅｆ"]) == {"Latin"}
    assert scripts_of(["猫が好き"]) == {"Han", "Hiragana", "Katakana"}
    assert foreign("猫", scripts_of(["ネコ"])) == ""
    assert foreign("ねこが", scripts_of(["猫"])) == "hiragana"
    assert foreign("кошка", frozenset({"Latin"})) == "cyrillic"
    assert foreign("12 ª", frozenset({"Latin"})) == ""
