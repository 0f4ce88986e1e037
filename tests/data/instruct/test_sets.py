"""Which templates ask which rows, what is written, and how it is read again."""

import json
import re
from collections import Counter
from importlib import resources

import pytest
import yaml
from transformers import AutoTokenizer

from tests.data.instruct.samples import SAMPLES, sample_tasks, write_rows
from tunewise.data import big
from tunewise.data.instruct.clusters import cluster_names, read_cluster
from tunewise.data.instruct.drawing import held_out
from tunewise.data.instruct.recognition import recognised
from tunewise.data.instruct.sets import build_instructions
from tunewise.data.load import load_task
from tunewise.data.splits import normalised
from tunewise.errors import UserError
from tunewise.files import write_jsonl
from tunewise.models.tiny import FOLDER

SENTIMENT = {"data": "tiny:sentiment", "templates": "sentiment"}


def one(source=SENTIMENT, out=None, **fields):
    (found,) = build_instructions({"tasks": [source], **fields}, out)
    return found


def rows_of(folder, part):
    return [json.loads(line) for line in (folder / f"{part}.jsonl").read_text("utf-8").splitlines()]


def test_each_row_is_asked_once_by_some_template_and_the_same_on_every_machine():
    found, again, other = one(), one(), one(seed=1)
    assert {part: len(rows) for part, rows in found.parts.items()} == {"train": 500, "dev": 200, "test": 500}
    assert found == again
    assert found.parts["train"] != other.parts["train"]
    task = load_task("tiny:sentiment")
    for part, examples in (("train", task.train), ("dev", task.dev), ("test", task.test)):
        assert [each.record.id for each in found.parts[part]] == [example.id for example in examples]
    used = Counter(each.template for each in found.parts["train"])
    assert set(used) == set(read_cluster("sentiment").templates)
    # of 500 rows about 75 are inverted, by three templates, and the others shared out among twelve
    assert 45 <= sum("inverted" in each.form for each in found.parts["train"]) <= 105
    assert max(used.values()) < 3 * min(used.values())
    # chosen as a row is written, whatever came before it: here by the hash of seed, id and part
    drawn = [(each.template, each.instruction.completion) for each in found.parts["train"][:4]]
    assert drawn == [
        ("what-sentiment", "positive"),
        ("tone", "negative"),
        ("how-does-it-come-across", "positive"),
        ("write-one", "The driver was never lazy and the stay was wonderful."),
    ]


def test_templates_of_ones_own_are_held_out_by_their_file_and_by_the_name_of_their_cluster(tmp_path):
    own = tmp_path / "moods.yaml"
    own.write_text(resources.files("tunewise.data.instruct").joinpath("clusters/sentiment.yaml").read_text("utf-8"))
    tasks = [{"data": "tiny:sentiment", "templates": str(own)}, {"data": "tiny:translation"}]
    for hold_out in (str(own), "moods"):
        found, _ = build_instructions({"tasks": tasks, "hold_out": [hold_out], "limit": 4})
        assert (found.cluster, found.held_out) == ("moods", "cluster")
        assert not found.parts["train"]
    with pytest.raises(UserError, match=r"elsewhere/moods\.yaml"):
        build_instructions({"tasks": tasks, "hold_out": ["elsewhere/moods.yaml"], "limit": 4})


def test_held_out_rows_are_asked_forwards_without_demonstrations_and_with_a_choice():
    found = one(shots=3, few_shot=1.0, inverted=0.5)
    for part in ("dev", "test"):
        for each in found.parts[part]:
            assert "inverted" not in each.form
            assert "few_shot" not in each.form
            assert each.instruction.completion in each.instruction.options
    assert all("few_shot" in each.form for each in found.parts["train"])


@pytest.mark.parametrize("name", cluster_names())
def test_held_out_templates_never_ask_a_training_row(name, tmp_path):
    unseen = held_out(read_cluster(name), 3, 0)
    assert len(unseen) == 3
    assert unseen != held_out(read_cluster(name), 3, 5)
    sample_tasks(name, tmp_path)
    _, fields = SAMPLES[name][0]
    source = {"data": {"path": str(tmp_path / f"{name}0.jsonl"), **fields}, "templates": name}
    found = one(source, held_out_templates=3, per_row="all", inverted=1.0)
    train = {each.template for each in found.parts["train"]}
    later = {each.template for part in ("dev", "test") for each in found.parts[part]}
    assert train
    assert later
    assert not train & unseen
    assert later <= unseen
    assert any("inverted" in each.form for each in found.parts["train"])
    assert len(train & {n for n, each in read_cluster(name).templates.items() if not each.inverted}) >= 4


def test_demonstrations_are_other_training_rows():
    found = one(shots=3, few_shot=1.0, inverted=0.0)
    task = load_task("tiny:sentiment")
    texts = {example.id: example.texts[0] for part in (task.train, task.dev, task.test) for example in part}
    held = {texts[example.id] for part in (task.dev, task.test) for example in part}
    held -= {example.texts[0] for example in task.train}
    assert len(held) > 500
    for each in found.parts["train"]:
        own, prompt = texts[each.record.id], each.instruction.prompt
        assert prompt.count(own) == 1
        assert not any(text in prompt for text in held if len(text) > 40)
        shown = [text for text in {example.texts[0] for example in task.train} if text in prompt]
        assert len(shown) >= 4  # a short text can stand inside a longer one


def test_a_demonstration_is_never_a_copy_of_the_row(tmp_path):
    rows = [{"text": ["the same again", "The  same AGAIN", "another"][n % 3], "label": "ab"[n % 2]} for n in range(30)]
    for part in ("train", "dev", "test"):
        write_rows(tmp_path / f"{part}.jsonl", rows)
    found = one(
        {"data": {"path": str(tmp_path), "label": "label"}, "templates": "topic"}, shots=2, few_shot=1.0, inverted=0.0
    )
    for each in found.parts["train"]:
        assert normalised(each.instruction.prompt).count("the same again") <= 1
        assert each.instruction.prompt.count("another") <= 1


@pytest.mark.parametrize(("options", "least", "most"), [("always", 500, 500), ("never", 0, 0), ("mixed", 200, 300)])
def test_possible_answers_are_listed_as_wished(options, least, most):
    found = one(options=options, inverted=0.0)
    listed = [each for each in found.parts["train"] if "options" in each.form]
    assert least <= len(listed) <= most
    for each in found.parts["train"]:
        lines = [line.removeprefix("- ") for line in each.instruction.prompt.split("\n")]
        assert set(each.instruction.options).issubset(lines) == (each in listed)


def test_an_answer_stands_in_the_list_as_the_tokens_that_it_is_answered_with():
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)  # byte-level: a space belongs to the token behind it

    def tokens(text, start, answer):
        told = tokenizer(text, return_offsets_mapping=True)
        pairs = zip(told["input_ids"], told["offset_mapping"], strict=True)
        return [number for number, (first, last) in pairs if first < start + len(answer) and last > start]

    n_cued = 0
    for each in one(options="always", inverted=0.0, shots=1, limit=200).parts["train"]:
        prompt, answer = each.instruction.prompt, each.instruction.completion
        n_cued += not prompt[-1].isspace()
        before = prompt if prompt[-1].isspace() else f"{prompt} "
        listed = next(found.start(1) for found in re.finditer(r"\n(?:- )?(.+)", prompt) if found[1] == answer)
        text = f"{before}{answer}"
        assert tokens(text, listed, answer) == tokens(text, len(before), answer), prompt
    assert 40 < n_cued < 160


def test_rows_of_one_line_are_drawn_for_apart(tmp_path):
    rows = [{"text": f"It was {n}.", "label": "ab"[n % 2]} for n in range(40)]
    (tmp_path / "one-line.json").write_text(json.dumps(rows), "utf-8")
    found = one({"data": str(tmp_path / "one-line.json"), "templates": "topic"}, tmp_path / "set")
    assert len({each.template for each in found.parts["train"]}) > 8
    ids = [row["id"] for row in rows_of(tmp_path / "set", "train")]
    assert len(set(ids)) == len(ids) == 32


def test_all_templates_of_a_row(tmp_path):
    found = one(per_row="all", limit=5)
    names = set(read_cluster("sentiment").templates)
    assert len(found.parts["train"]) == 5 * len(names)
    assert len(found.parts["dev"]) == len(found.parts["test"]) == 5
    three = one(per_row=3, limit=40)
    by_row = Counter(each.record.id for each in three.parts["train"])
    assert set(by_row.values()) == {3}
    assert len({(each.record.id, each.template) for each in three.parts["train"]}) == 120


def test_a_big_file_is_limited_to_the_same_rows(tmp_path, monkeypatch):
    rows = ({"text": f"the day {n}", "label": ("good", "bad")[n % 2]} for n in range(90))
    write_jsonl(tmp_path / "mood.jsonl", rows)
    source = {"data": str(tmp_path / "mood.jsonl"), "templates": "sentiment"}
    whole = one(source, limit=20).parts
    monkeypatch.setenv("TUNEWISE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(big, "BIG", 1)
    assert len(whole["train"]) == 20
    assert one(source, limit=20).parts == whole


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_reasons_come_before_the_answer_where_they_are_wanted(tmp_path, share):
    (task,) = sample_tasks("arithmetic", tmp_path)
    source = {"data": task.source, "templates": "auto"}
    found = one(source, chain_of_thought=share, inverted=0.0, per_row=2)
    assert found.cluster == "arithmetic"
    for part, rows in found.parts.items():
        assert rows, part
        for each in rows:
            assert ("chain_of_thought" in each.form) == bool(share)
            assert "<<" not in each.instruction.completion
            assert "####" not in each.instruction.completion
            record = each.record.fields
            assert each.instruction.completion.startswith(record["rationale"] if share else record["answer"])


def test_what_is_written_is_a_task_again(tmp_path):
    found = one(out=tmp_path / "set", inverted=0.3)
    assert sorted(path.name for path in (tmp_path / "set").iterdir()) == [
        "dev.jsonl", "manifest.json", "sets.json", "sets.yaml", "test.jsonl", "train.jsonl",
    ]  # fmt: skip
    task = load_task(tmp_path / "set")
    assert (task.kind, task.metrics[0]) == ("multiple_choice", "accuracy")
    assert "among its options" in task.ledger.detected
    for part, examples in (("train", task.train), ("dev", task.dev), ("test", task.test)):
        assert len(examples) == len(found.parts[part])
        for example, each in zip(examples, found.parts[part], strict=True):
            wanted = each.instruction
            assert (example.prompt, example.answer.strip()) == (wanted.prompt, wanted.completion)
            assert tuple(choice.strip() for choice in example.choices) == wanted.options
            if wanted.options:
                assert task.options(example)[task.option_names(example).index(example.label)] == example.answer
    assert sum(not example.choices for example in task.train) > 100
    row = rows_of(tmp_path / "set", "train")[1]
    assert row["id"] == "sentiment-train-001/" + row["template"]
    assert (row["task"], row["cluster"], row["line"]) == ("sentiment", "sentiment", 2)
    again = build_instructions(yaml.safe_load((tmp_path / "set" / "sets.yaml").read_text("utf-8")))
    assert again == [found]


def test_a_generation_is_read_as_one_and_keeps_its_accepted_answers(tmp_path):
    rows = [
        {"context": f"It lay {n} days at the old quay.", "question": f"Where, of {n}?",
         "answers": [{"text": "the old quay"}, {"text": "quay"}]} for n in range(20)
    ]  # fmt: skip
    path = write_rows(tmp_path / "questions.jsonl", rows)
    one({"data": str(path), "templates": "auto"}, tmp_path / "set")
    task = load_task(tmp_path / "set")
    assert not all(each.accepted for each in task.train), "some rows of train were to be inverted"
    assert (task.kind, task.metrics) == ("generation", ("token_f1", "normalised_match"))
    one({"data": str(path), "templates": "extractive_qa"}, tmp_path / "forwards", inverted=0.0)
    task = load_task(tmp_path / "forwards")
    assert (task.kind, task.metrics) == ("generation", ("token_f1", "normalised_match"))
    assert task.test[0].accepted == ("the old quay", "quay")


def test_messages(tmp_path):
    found = one(out=tmp_path / "set", messages=True, limit=6)
    row = rows_of(tmp_path / "set", "train")[0]
    first = found.parts["train"][0].instruction
    assert row["messages"] == [
        {"role": "user", "content": first.prompt.rstrip()}, {"role": "assistant", "content": first.completion},
    ]  # fmt: skip
    assert "chat messages" in load_task(tmp_path / "set").ledger.detected


def test_several_tasks_and_a_cluster_that_is_held_out(tmp_path):
    plan = {
        "tasks": [
            SENTIMENT,
            {"data": "tiny:translation"},
            {"data": "tiny:headline", "templates": "summarisation", "name": "news", "limit": 12},
            {"data": "tiny:entailment", "templates": "entailment"},
        ],
        "hold_out": ["entailment"],
        "limit": 30,
    }
    found = build_instructions(plan, tmp_path / "flan")
    assert [built.name for built in found] == ["sentiment", "translation", "news", "entailment"]
    assert [built.is_held_out for built in found] == [False, False, False, True]
    assert found[1].cluster == "translation"
    files = {path.relative_to(tmp_path / "flan").as_posix() for path in (tmp_path / "flan").rglob("t*.jsonl")}
    trained = {f"{name}/{part}.jsonl" for name in ("sentiment", "translation", "news") for part in ("train", "test")}
    assert files == trained | {"entailment/test.jsonl"}
    assert len(rows_of(tmp_path / "flan" / "entailment", "test")) == 30
    assert load_task(tmp_path / "flan" / "entailment" / "test.jsonl").kind == "multiple_choice"
    mixture = yaml.safe_load((tmp_path / "flan" / "mixture.yaml").read_text("utf-8"))
    assert mixture == {"sources": {name: name for name in ("sentiment", "translation", "news")}}
    summary = json.loads((tmp_path / "flan" / "sets.json").read_text("utf-8"))
    assert [each["rows"]["train"] for each in summary] == [30, 30, 12, 0]


def test_a_task_is_held_out_beside_others_of_its_cluster(tmp_path):
    tasks = [
        {**SENTIMENT, "weight": 3},
        {"data": "tiny:entailment", "templates": "entailment", "weight": 0.5},
        {"data": "tiny:entailment", "templates": "entailment", "name": "twin"},
        {"data": "tiny:entailment_ood", "templates": "entailment"},  # which has test rows alone
        {"data": "tiny:translation"},
    ]
    found = build_instructions({"tasks": tasks, "hold_out": ["twin", "translation"], "limit": 10}, tmp_path / "sets")
    distances = ["", "", "task", "task", "cluster"]
    assert [built.held_out for built in found] == distances
    assert [[len(rows) for rows in built.parts.values()] for built in found[2:]] == [[0, 0, 10]] * 3
    mixture = yaml.safe_load((tmp_path / "sets" / "mixture.yaml").read_text("utf-8"))
    sources = {"sentiment": {"path": "sentiment", "weight": 3.0}, "entailment": {"path": "entailment", "weight": 0.5}}
    assert mixture == {"sources": sources, "mixing": "weights"}
    assert list(load_task(tmp_path / "sets" / "mixture.yaml").each) == ["sentiment", "entailment"]
    summary = json.loads((tmp_path / "sets" / "sets.json").read_text("utf-8"))
    assert [each["held_out"] for each in summary] == distances
    with pytest.raises(UserError, match="translation has no weight, and others have"):
        build_instructions({"tasks": tasks, "hold_out": ["twin"], "limit": 10}, tmp_path / "refused")


def test_a_file_that_is_held_out_gives_all_of_its_rows(tmp_path):
    rows = [{"text": f"It was {n}.", "label": ("good", "bad")[n % 2]} for n in range(20)]
    mood = {"data": str(write_rows(tmp_path / "mood.jsonl", rows)), "templates": "sentiment"}
    tasks = [{"data": "tiny:translation", "limit": 5}, mood]
    for hold_out in ("mood", "sentiment"):  # the task, its cluster
        _, found = build_instructions({"tasks": tasks, "hold_out": [hold_out]})
        assert [len(part) for part in found.parts.values()] == [0, 0, 20]
        assert found.held_out == "cluster"
    divided = {**mood, "data": {"path": mood["data"], "split": (0.5, 0.25, 0.25)}}
    _, found = build_instructions({"tasks": [tasks[0], divided], "hold_out": ["mood"]})
    assert len(found.parts["test"]) == 5


def test_labels_are_taken_for_the_classes_they_are(tmp_path):
    rows = [{"text": f"It was {n}.", "label": "013"[n % 3]} for n in range(30)]
    path = write_rows(tmp_path / "stars.jsonl", rows)
    words = {"0": "bad", "1": "neutral", "3": "good"}
    found = one({"data": {"path": str(path), "words": words}, "templates": "sentiment"}, options="always", inverted=0.0)
    by_label = {each.record.line % 3: each.record.label for each in found.parts["train"]}
    assert by_label == {1: "negative", 2: "neutral", 0: "positive"}
    assert not {"thumbs", "would-recommend"} & {each.template for each in found.parts["train"]}  # two classes only
    plain = one({"data": str(path), "templates": "sentiment"}, inverted=0.0)
    assert {each.record.label for each in plain.parts["train"]} == {"negative", "positive", "3"}
    assert not [each for each in plain.parts["train"] if read_cluster("sentiment").templates[each.template].words]


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (("true", "false"), ("entailment", "not_entailment")),
        (("yes", "no", "maybe"), ("entailment", "contradiction", "neutral")),
        (("entails", "neutral", "contradicts"), ("entailment", "neutral", "contradiction")),
        (("Entailment", "non-entailment"), ("entailment", "not_entailment")),
    ],
)
def test_a_spelling_is_told_by_the_others_beside_it(tmp_path, labels, classes):
    rows = [{"premise": f"a {n}", "hypothesis": f"b {n}", "label": labels[n % len(labels)]} for n in range(30)]
    path = write_rows(tmp_path / "pairs.jsonl", rows)
    found = one({"data": str(path), "templates": "entailment"})
    assert {each.record.label for part in found.parts.values() for each in part} == set(classes)
    at_line = {each.record.line: each.record.label for part in found.parts.values() for each in part}
    assert [at_line[line] for line in range(1, len(labels) + 1)] == list(classes)


@pytest.mark.parametrize(
    ("cluster", "expected"),
    [("sentiment", "sentiment"), ("entailment", "entailment"), ("extractive_qa", "extractive_qa"),
     ("multiple_choice_qa", "multiple_choice_qa"), ("commonsense", "commonsense"), ("translation", "translation"),
     ("tagging", "tagging"), ("grammaticality", "grammaticality"), ("arithmetic", "arithmetic"),
     ("topic", ""), ("category", ""), ("paraphrase", ""), ("summarisation", ""), ("closed_book_qa", ""),
     ("data_to_text", "")],
)  # fmt: skip
def test_only_what_is_certain_is_recognised(tmp_path, cluster, expected):
    task = sample_tasks(cluster, tmp_path)[0]
    if expected:
        assert recognised(task, {}) == expected
    else:
        with pytest.raises(UserError, match="cannot be told for certain") as found:
            recognised(task, {})
        assert cluster in found.value.hint


@pytest.mark.parametrize(
    ("plan", "told"),
    [
        ({"tasks": [{**SENTIMENT, "templates": "translation"}]}, "is classification, and translation is for"),
        ({"tasks": [{"data": "tiny:entailment", "templates": "sentiment"}]}, "no slot for the column hypo"),
        ({"tasks": [{**SENTIMENT, "templates": "entailment"}]}, r"has no column for the slot \{hypothesis\}"),
        ({"tasks": [{"data": "tiny:entailment", "templates": "paraphrase"}]}, "'true' of tiny:entailment is no class"),
        ({"tasks": [{"data": "tiny:headline", "templates": "translation"}]}, "source language of tiny:headline"),
        ({"tasks": [{**SENTIMENT, "slots": {"tone": "x"}}]}, r"\{tone\} is no slot of sentiment"),
        ({"tasks": [{"data": {"mixture": {"sources": {"a": "tiny:sentiment"}}}}]}, "mixture is a mixture"),
        ({"tasks": [{**SENTIMENT, "data": {"path": "tiny:sentiment", "few_shot": 4}}]}, "few_shot changes nothing"),
        ({"tasks": [SENTIMENT, SENTIMENT]}, "two of the tasks are called sentiment"),
        ({"tasks": [SENTIMENT], "hold_out": ["topic"]}, "hold_out names 'topic'"),
        ({"tasks": [{"data": "tiny:translation"}], "hold_out": ["topic"]}, "hold_out names 'topic'"),
        ({"tasks": [SENTIMENT], "hold_out": ["sentiment"]}, "every task is held out"),
        ({"tasks": [SENTIMENT], "held_out_templates": 12}, "held_out_templates=12 is more than half"),
        ({"tasks": [SENTIMENT], "per_row": 0}, "per_row"),
        ({"tasks": [SENTIMENT], "option": "always"}, "no field named option"),
        ({"tasks": []}, "tasks"),
        ({"tasks": [{"data": "tiny:retention"}]}, "which cluster tiny:retention is of cannot be told"),
        ({"tasks": [{**SENTIMENT, "name": "../x"}]}, "name"),
    ],
)  # fmt: skip
def test_what_cannot_be_built_is_told(plan, told):
    with pytest.raises(UserError, match=told):
        build_instructions(plan)


def test_a_template_file_of_ones_own(tmp_path):
    (tmp_path / "own.yaml").write_text(
        "description: reviews\nkinds: [classification]\nslots: {review: [text]}\ntargets: [label]\n"
        "templates:\n  stars:\n    prompt: 'How many stars? {review}'\n    words: {positive: five, negative: one}\n"
    )
    found = one({"data": "tiny:sentiment", "templates": str(tmp_path / "own.yaml")}, limit=9)
    assert found.cluster == "own"
    assert {each.instruction.completion for each in found.parts["train"]} == {"five", "one"}
    assert found.parts["test"][0].instruction.prompt.startswith("How many stars? ")


def test_a_benchmark_is_a_task_as_any_other(tmp_path):
    rows = [{"sentence1": f"It was {n}.", "sentence2": f"It is {n}.", "label": n % 2} for n in range(40)]
    for part in ("train", "validation"):
        write_rows(tmp_path / "rte" / f"{part}.jsonl", rows)
    found = one({"data": {"path": "glue:rte", "folder": str(tmp_path)}, "templates": "entailment"}, limit=20)
    assert found.name == "glue-rte"
    by_line = {each.record.line % 2: each.record.label for each in found.parts["train"]}
    assert by_line == {1: "entailment", 0: "not_entailment"}  # 0 and 1 of the file
    assert {each.record.fields["premise"] for each in found.parts["test"]} <= {row["sentence1"] for row in rows}
