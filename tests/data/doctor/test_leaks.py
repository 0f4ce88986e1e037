"""Leaks in instruction sets: the words of templates stand on both sides of every split, and are none."""

import json
import random
from itertools import count

import pytest

from tests.data.doctor.sick_rows import codes, of_folder, only, sentence
from tunewise.data.config import DataConfig
from tunewise.data.doctor import Rows, examine
from tunewise.data.load import load_task

TEMPLATES = {
    name: f"{sentence(number, 9)} {{text}} {sentence(number + 50, 6)} choose from: {{options}}"
    for number, name in enumerate(("one", "two", "three"), start=900)
}
OPTIONS = ("a good one", "a bad one", "neither", "both of them")
NUMBERS = count(1_000)


def asked(name: str, text: str = "", provenance: bool = True) -> dict:
    number = next(NUMBERS)
    text = text or sentence(number, 8)
    options = random.Random(number).sample(OPTIONS, 4)
    prompt = TEMPLATES[name].format(text=text, options=" or ".join(options))
    row = {"prompt": prompt, "completion": OPTIONS[number % 4], "options": list(options)}
    return row | ({"cluster": "opinion", "template": name, "form": "zero-shot options"} if provenance else {})


def built(tmp_path, provenance: bool = True, leak: str = ""):
    parts = [[asked(name, provenance=provenance) for _ in range(n) for name in TEMPLATES] for n in (4, 4, 9)]
    if leak:
        parts[0].append(asked("one", leak))
        parts[2].append(asked("two", leak))
    return of_folder(tmp_path / "set", *parts)


def test_words_of_templates_are_no_shared_passage(tmp_path):
    assert "shared-passages" in codes(built(tmp_path, provenance=False)), "the templates were to be long"
    found = codes(built(tmp_path))
    assert not {"shared-passages", "leaked-nearly", "near-duplicates"} & found.keys()


@pytest.mark.parametrize("n_words", [16, 30])
def test_a_passage_that_two_templates_ask_about_is_one(n_words, tmp_path):
    found = only(examine(built(tmp_path, leak=sentence(7, n_words))), "shared-passages")
    assert found.n_rows == 1
    assert found.rows[0].part == "test"
    assert " ".join(sentence(7, n_words).split()[:8]) in found.message


def test_questions_about_one_passage_are_to_be_kept_together(tmp_path):
    rows = [{"context": sentence(k // 2, 30), "question": sentence(k + 99, 4), "answer": "so"} for k in range(60)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = examine(Rows(load_task(DataConfig(path=str(path)))))
    for code in ("shared-passages", "leaked-nearly"):
        assert only(found, code).remedy.endswith("data.group=context keeps them in one")
    kept = examine(Rows(load_task(DataConfig(path=str(path), group="context"))))
    assert not {"shared-passages", "leaked-nearly"} & {finding.code for finding in kept.findings}
