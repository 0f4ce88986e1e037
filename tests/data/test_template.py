"""Slots are filled once; braces in the data stay what they are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunewise.data.template import Template, fill
from tunewise.errors import UserError


@given(st.text(), st.text(min_size=1))
def test_values_are_never_read_as_templates(text, label):
    assert Template("Say {text}!", " {label}").render({"text": text, "label": label}) == (f"Say {text}!", f" {label}")


def test_braces_names_with_spaces_and_repeated_slots():
    assert fill("{{x}} {a b} {a b}", {"a b": "{{y}}"}) == "{x} {{y}} {{y}}"
    assert Template("{a}{{b}}{c}{a}", "{d}").fields() == ("a", "c", "d")


def test_a_line_of_one_empty_slot_disappears():
    template = "Human: {instruction}\n{input}\nAssistant:"
    assert fill(template, {"instruction": "go", "input": ""}) == "Human: go\nAssistant:"
    assert fill(template, {"instruction": "go", "input": "\n"}) == "Human: go\n\n\nAssistant:"
    assert fill("{a}", {"a": ""}) == ""


def test_an_unknown_slot_names_the_nearest():
    with pytest.raises(UserError) as error:
        fill("{txt}", {"text": "a", "label": "b"})
    assert (
        str(error.value) == "the template names {txt}, which is no column\ndid you mean {text}? known: {text}, {label}"
    )
