"""Every template on rows of its cluster, in every form; what the answers are, and that no prompt gives them away."""

import re
from dataclasses import replace
from random import Random

import pytest

from tests.data.instruct.samples import sample_tasks
from tunewise.data.instruct.clusters import CHOICES, OPTIONS, InstructionTemplate, cluster_names, read_cluster
from tunewise.data.instruct.forms import FRAMES, Form, Instruction, asked, fits, with_demonstrations
from tunewise.data.instruct.records import reading_of


def records_of(name, folder):
    for task in sample_tasks(name, folder):
        reading = reading_of(task, read_cluster(name), {}, name)
        for example in (*task.train, *task.dev, *task.test):
            yield reading.record(example)


@pytest.mark.parametrize("name", cluster_names())
def test_every_template_renders_in_every_form(name, tmp_path):
    records = list(records_of(name, tmp_path))
    for key, template in read_cluster(name).templates.items():
        fitting = [record for record in records if fits(template, record)]
        assert fitting, f"{key} fits no row"
        for record in fitting[:4]:
            for listed in (True, False):
                one = asked(template, record, Form(listed), Random(1))
                assert one == asked(template, record, Form(listed), Random(1))
                assert one.completion == one.completion.strip() != ""
                assert "{" not in one.prompt + one.completion
                assert one.prompt.endswith(("\n", ":")) or one.prompt[-1].isalnum()
                assert "\n\n\n" not in one.prompt
                shows = CHOICES in template.asked or (listed and OPTIONS in template.asked)
                if one.options:
                    assert one.completion in one.options
                    assert len(set(one.options)) == len(one.options)
                    letters = one.options[0] == "A"
                    assert not shows or letters or all(option.split(". ")[-1] in one.prompt for option in one.options)
                else:
                    assert template.inverted or not template.chooses or not (record.labels or record.choices)
                for frame in FRAMES:
                    shot = with_demonstrations([one, one], one, frame)
                    assert shot.prompt.count(one.prompt.rstrip()) == 3
                    assert shot.prompt.count(one.completion) >= 2
                    assert (shot.completion, shot.options) == (one.completion, one.options)
                    assert not shot.prompt.endswith(" ")


def marked(record, template):
    """The record with its slots' names for texts, so that nothing stands in two of them."""
    kept = {*template.when, *template.phrases, CHOICES, OPTIONS}
    fields = {slot: text if slot in kept or not text else f"<{slot}>" for slot, text in record.fields.items()}
    choices = tuple(f"<choice {n}>" for n in range(len(record.choices)))
    if choices:
        fields["answer"] = choices[record.right]
    return replace(record, fields=fields, choices=choices)


@pytest.mark.parametrize("name", cluster_names())
def test_no_prompt_gives_its_answer_away(name, tmp_path):
    cluster = read_cluster(name)
    seen = set()
    for record in records_of(name, tmp_path):
        for key, template in cluster.templates.items():
            if not fits(template, record):
                continue
            one = asked(template, marked(record, template), Form(listed=False), Random(0))
            seen.add(key)
            marks = re.findall("<.+?>", one.completion)
            if CHOICES not in template.asked:
                assert not any(mark in one.prompt for mark in marks), key
            telling = [f"<{slot}>" for slot in (*cluster.telling, "label")]
            if not template.inverted:
                assert not any(mark in one.prompt for mark in telling), key
                assert set(marks) <= {*telling, *record.choices, "<choice 0>", "<choice 1>", "<choice 2>"}, key
    assert seen == set(cluster.templates)


@pytest.mark.parametrize("name", cluster_names())
def test_inverted_templates_turn_the_task_round(name, tmp_path):
    """What forward templates ask about is what inverted ones write, and they are told what those ask for."""
    cluster = read_cluster(name)
    seen = set()
    for record in records_of(name, tmp_path):
        for key, template in cluster.templates.items():
            if not template.inverted or not fits(template, record):
                continue
            one = asked(template, marked(record, template), Form(), Random(0))
            (slot,) = template.told
            assert slot not in cluster.telling
            assert (one.completion, one.options) == (f"<{slot}>", ())
            assert any(slot in each.asked for each in cluster.templates.values() if not each.inverted) or slot == "bad"
            told = [slot for slot in template.asked if slot in cluster.telling]
            assert told or "label" in template.when
            texts = {"label": template.words.get(record.label, record.label.replace("_", " ")),
                     "answer": marked(record, template).fields.get("answer", "")}  # fmt: skip
            assert all(texts.get(slot, f"<{slot}>") in one.prompt for slot in told), key
            seen.add(key)
    assert seen == {key for key, template in cluster.templates.items() if template.inverted}
    assert len(seen) >= 2


def test_the_answer_has_a_line_of_its_own_unless_the_words_run_on(tmp_path):
    record = next(records_of("sentiment", tmp_path))
    templates = read_cluster("sentiment").templates
    told = {key: asked(templates[key], record, Form(False), Random(0)).prompt for key in templates}
    assert told["what-sentiment"].endswith("What is the sentiment of this text?\n")
    assert told["cue"].endswith("\nSentiment:")
    assert told["statement-continues"].endswith("The sentiment expressed above is")
    assert told["tone"].endswith(f"\n\n{record.fields['text']}\n")
    plausible = next(each for each in records_of("commonsense", tmp_path) if each.fields["question"] == "cause")
    cue = read_cluster("commonsense").templates["because-so"]
    assert asked(cue, plausible, Form(False), Random(0)).prompt.endswith("shut. That is because:")


def test_a_template_needs_a_word_of_its_own_for_each_class(tmp_path):
    record = next(each for each in records_of("sentiment", tmp_path) if len(each.labels) == 2)
    asks = {"prompt": "{text}", "answer": "{label}"}
    for words, fitting in (
        ({}, True),
        ({"positive": "yes", "negative": "no"}, True),
        ({"positive": "yes", "negative": "yes"}, False),
        ({"positive": "yes"}, False),
    ):
        assert fits(InstructionTemplate(**asks, words=words), record) is fitting


def test_demonstrations_are_framed_by_questions_and_answers():
    one, two = Instruction("Is it wet?\n", "yes"), Instruction("Is it dry?\n", "no")
    assert (
        with_demonstrations([one], two, ("Q: ", "\nA:", "\n\n")).prompt == "Q: Is it wet?\nA: yes\n\nQ: Is it dry?\nA:"
    )
    assert with_demonstrations([one], two, ("", "", "\n\n###\n\n")).prompt == "Is it wet?\nyes\n\n###\n\nIs it dry?\n"
    cue = Instruction("Wet? Answer:", "yes")
    assert with_demonstrations([cue], cue, ("Q: ", "\nA:", "\n\n")).prompt == "Wet? Answer: yes\n\nWet? Answer:"


def test_more_classes_than_are_listed_leave_the_right_one_in(tmp_path):
    record = next(records_of("topic", tmp_path))
    many = type(record)(record.id, 1, record.fields, "topic 7", tuple(f"topic {n}" for n in range(77)))
    template = read_cluster("topic").templates["what-about"]
    places = set()
    for seed in range(40):
        one = asked(template, many, Form(most=5), Random(seed))
        assert len(one.options) == len(set(one.options)) == 5
        assert one.completion == "topic 7"
        places.add(one.options.index("topic 7"))
    assert places == set(range(5))
