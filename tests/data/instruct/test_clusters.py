"""The templates that come with the package, and what is said about faulty ones."""

import re
from itertools import combinations

import pytest
import yaml

from tests.data.instruct.samples import SAMPLES
from tunewise.config import parse
from tunewise.data.instruct.clusters import Cluster, cluster_names, read_cluster
from tunewise.errors import UserError

ASKED_FOR = (
    "sentiment topic intent entailment paraphrase extractive_qa closed_book_qa multiple_choice_qa commonsense "
    "summarisation translation tagging grammaticality data_to_text arithmetic question_generation"
).split()


def words_of(template):
    """A template's own words and slots, without case and punctuation."""
    phrases = [phrase for values in template.phrases.values() for phrase in values.values()]
    return set(re.findall(r"\{\w+\}|\w+", " ".join([template.prompt, *phrases]).casefold()))


def test_every_cluster_is_there_and_has_its_rows_in_these_tests():
    assert set(ASKED_FOR) <= set(cluster_names())
    assert set(SAMPLES) == set(cluster_names())


@pytest.mark.parametrize("name", cluster_names())
def test_a_cluster_has_ten_ways_to_ask_and_some_to_turn_round(name):
    templates = read_cluster(name).templates.values()
    forwards = [each for each in templates if not each.inverted]
    assert len(forwards) >= 10
    assert len(templates) - len(forwards) >= 2
    assert sum(each.prompt.rstrip().endswith(":") for each in forwards) < len(forwards) / 2


@pytest.mark.parametrize("name", cluster_names())
def test_templates_differ_in_their_words(name):
    """No two have more than three quarters of their words in common: case, punctuation and order do not count."""
    templates = read_cluster(name).templates
    n_compared = 0
    for (one, first), (two, second) in combinations(templates.items(), 2):
        if first.when != second.when or first.inverted != second.inverted:
            continue
        ours, theirs = (words_of(each) for each in (first, second))
        n_compared += 1
        assert len(ours & theirs) / len(ours | theirs) < 0.75, (one, two)
    assert n_compared >= 10


def test_templates_are_clean():
    n_templates = 0
    for name in cluster_names():
        for key, each in read_cluster(name).templates.items():
            n_templates += 1
            assert re.fullmatch(r"[a-z]+(-[a-z]+)*", key), (name, key)
            assert "  " not in each.prompt, (name, key)
            assert "\t" not in each.prompt
            assert "\n\n\n" not in each.prompt, (name, key)
            assert each.prompt == each.prompt.strip(), (name, key)
            # where the answers may be left out, the line with them must disappear without a trace
            for line in each.prompt.split("\n"):
                assert "{options}" not in line or line == "{options}", (name, key)
            assert "\n\n{options}\n\n" not in each.prompt, (name, key)
    assert n_templates >= 240


PLAIN = {
    "description": "colours",
    "kinds": ["classification"],
    "slots": {"text": ["sentence"]},
    "targets": ["label"],
    "templates": {"ask": "{text}\nWhich colour?\n{options}"},
}


def changed(**fields):
    return {**PLAIN, **fields}


def template(**fields):
    return changed(templates={"ask": {"prompt": "{text}\nWhich?", **fields}})


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (changed(templates={"ask": "{txt} is?"}), r"template ask: \{txt\} is no slot; did you mean \{text\}\?"),
        (changed(templates={"ask": "{text} {label}"}), r"the prompt contains its own answer, \{label\}"),
        (changed(templates={"a": "{text}: which?", "b": "{text}, WHICH"}), "a and b are the same but for case"),
        (template(answer="{text}"), r"the prompt contains its own answer, \{text\}"),
        (template(answer="a colour"), "tells none of label; say inverted: true"),
        (template(answer="{letter}"), r"answered by a letter, and its prompt shows no \{choices\}"),
        (template(inverted=True), "answer is missing"),
        (changed(templates={"a": {"prompt": "A text?", "answer": "{text}", "inverted": True}}), "prompt tells none"),
        (changed(templates={"a": {"prompt": "{label}?", "answer": "yes", "inverted": True}}), "not what belongs"),
        (template(when={"colour": ["red"]}), r"\{colour\} is no slot"),
        (template(phrases={"colour": {"red": "r"}}), r"\{colour\} is no slot"),
        (changed(classes={"red": []}, templates={"a": {"prompt": "{text}?", "words": {"rde": "r"}}}), "is no class"),
        (changed(leave_out="<<["), "leave_out = '<<\\[': no regular expression"),
        (changed(optional=["colour"]), "optional 'colour' is no slot"),
        (changed(together=[["red"]]), "together names 'red', which is no class"),
        (changed(kinds=["regression"]), "kind regression has no templates"),
        (changed(templates={}), "templates = {}"),
        (changed(template={}), "no field named template"),
        (changed(targets=[]), "targets"),
        (template(inverts=True), "no field named templates.ask.inverts"),
    ],
)  # fmt: skip
def test_a_faulty_file_is_told(tmp_path, data, told):
    assert parse(Cluster, PLAIN).templates["ask"].answer == "{label}"
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(data), "utf-8")
    with pytest.raises(UserError, match=told) as found:
        read_cluster(tmp_path / "own.yaml")
    assert "own.yaml" in found.value.message


def test_an_unknown_cluster_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'summarisation'"):
        read_cluster("summarization")
    with pytest.raises(UserError, match="no such file"):
        read_cluster("nowhere.yaml")
