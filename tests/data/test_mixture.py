"""Several sources as one task: what a recipe or a file may say of them, and what they come to."""

import json

import pytest

from tunewise.config import dump_yaml, parse
from tunewise.data.config import DataConfig
from tunewise.data.load import load_task
from tunewise.data.mixture import MACRO_AVERAGE, few_of_each
from tunewise.data.out_of_domain import OutOfDomainConfig, load_out_of_domain
from tunewise.data.splits import few_shot
from tunewise.errors import UserError
from tunewise.files import write_jsonl

SOURCES = {"mood": "tiny:sentiment", "twin": {"path": "tiny:entailment", "train": 30}, "news": "tiny:headline"}


def mixture(**fields):
    return DataConfig.model_validate({"path": "three", "mixture": {"sources": SOURCES, **fields}})


def counts(path, start, n=20):
    write_jsonl(path, ({"prompt": f"count {i}:", "completion": f" the {i}"} for i in range(start, start + n)))
    return str(path)


def test_a_mixture_has_the_rows_of_its_sources_and_each_stays_its_own_task():
    task = load_task(mixture())
    alone = {name: load_task(path if isinstance(path, str) else DataConfig(**path)) for name, path in SOURCES.items()}
    assert (task.name, task.kind, task.metrics) == ("three", "mixture", (MACRO_AVERAGE,))
    for part in ("train", "dev", "test"):
        rows = [(name, one.id) for name, each in alone.items() for one in getattr(each, part)]
        assert [(one.source, one.id) for one in getattr(task, part)] == rows
    assert {name: each.kind for name, each in task.each.items()} == {n: each.kind for n, each in alone.items()}
    assert {name: each.template for name, each in task.each.items()} == {n: each.template for n, each in alone.items()}
    assert task.ledger.rows == sum(each.ledger.rows for each in alone.values())
    assert len(task.each["twin"].train) == 30
    assert [one.source for one in task.train[498:502]] == ["mood", "mood", "twin", "twin"]
    assert task.train[-1].id == alone["news"].train[-1].id
    assert task.each["mood"].train == alone["mood"].train
    with pytest.raises(IndexError):
        task.train[len(task.train)]
    assert alone["mood"].each == {"": alone["mood"]}


def test_a_yaml_file_is_a_mixture_and_what_is_said_beside_it_counts_more(tmp_path):
    (tmp_path / "flan.yaml").write_text(dump_yaml({"sources": SOURCES, "cap": 100, "temperature": 2}))
    found = parse(DataConfig, {"path": str(tmp_path / "flan.yaml")})
    assert found == parse(DataConfig, {"path": "flan", "mixture": {"sources": SOURCES, "cap": 100, "temperature": 2}})
    beside = {"cap": 7, "sources": {"mood": {"train": 5}, "texts": "tiny:retention"}}
    over = parse(DataConfig, {"path": str(tmp_path / "flan.yaml"), "mixture": beside}).mixture
    assert (over.cap, over.temperature, list(over.sources)) == (7, 2, ["mood", "twin", "news", "texts"])
    assert (over.sources["mood"].path, over.sources["mood"].train) == ("tiny:sentiment", 5)
    assert load_task(str(tmp_path / "flan.yaml")).name == "flan"


def test_a_recipe_that_was_written_out_is_the_same_again():
    asked = mixture(mixing="proportional", cap=9)
    written = asked.model_dump(mode="json")
    assert written["mixture"]["sources"]["mood"] == {"path": "tiny:sentiment"}
    assert DataConfig.model_validate(written) == asked


def test_splits_seed_and_few_shot_are_those_of_all_sources(tmp_path):
    path = counts(tmp_path / "counts.jsonl", 0, 50)
    config = {"seed": 3, "split": [0.6, 0.2, 0.2], "mixture": {"sources": {"a": path, "mood": "tiny:sentiment"}}}
    task, alone = load_task(DataConfig(**config)), load_task(DataConfig(path=path, seed=3, split=(0.6, 0.2, 0.2)))
    assert [one.id for one in task.each["a"].test] == [one.id for one in alone.test]
    few = few_of_each(task, 4, seed=1)
    assert len(few.train) == 8
    drawn = [one.id for one in few_shot(load_task("tiny:sentiment").train, 4, 1)]
    assert [one.id for one in few.each["mood"].train] == drawn == [one.id for one in few.train if one.source == "mood"]


def test_rates_and_draws_are_counted_over_the_rows_that_there_are():
    sizes = {"mood": 500, "twin": 30, "news": 500}
    assert mixture(cap=100).mixture.draws(sizes) == 230
    assert mixture(cap=100).mixture.rates(sizes) == pytest.approx([100 / 230, 30 / 230, 100 / 230])
    assert mixture(mixing="equal").mixture.rates(sizes) == pytest.approx([1 / 3] * 3)
    weighed = {name: {"path": "tiny:sentiment", "weight": w} for name, w in (("mood", 3), ("twin", 1), ("news", 4))}
    found = parse(DataConfig, {"mixture": {"sources": weighed, "mixing": "weights"}}).mixture
    assert found.rates(sizes) == pytest.approx([3 / 8, 1 / 8, 4 / 8])


def test_a_test_row_of_one_source_in_train_of_another_is_a_leak(tmp_path):
    one, other = counts(tmp_path / "one.jsonl", 0), counts(tmp_path / "other.jsonl", 100)
    texts = tmp_path / "texts.jsonl"
    write_jsonl(texts, ({"text": f"water {i}"} for i in range(30)))
    apart = load_task(parse(DataConfig, {"mixture": {"sources": {"a": one, "b": other, "t": str(texts)}}}))
    assert apart.ledger.leaks == ()
    same = load_task(parse(DataConfig, {"mixture": {"sources": {"a": one, "b": counts(tmp_path / "b.jsonl", 0)}}}))
    # both are split alike, by their texts: what is in test of one is in test of the other
    assert same.ledger.leaks == ()
    held, own = load_task(one).test[0], load_task(other)
    folder = tmp_path / "folder"
    folder.mkdir()
    rows = [*own.train, held]
    for part, of_part in (("train", rows), ("dev", own.dev), ("test", own.test)):
        write_jsonl(folder / f"{part}.jsonl", ({"prompt": row.prompt, "completion": row.answer} for row in of_part))
    (leak,) = load_task(parse(DataConfig, {"mixture": {"sources": {"a": one, "b": str(folder)}}})).ledger.leaks
    assert (leak.line, leak.reason) == (held.line, f"this row of test of a is also in train of b, line {len(rows)}")


def test_replayed_rows_are_a_share_of_what_an_epoch_draws():
    data = {"mixture": {"sources": SOURCES, "cap": 100}, "replay": {"path": "tiny:retention", "share": 0.1}}
    (found,) = load_task(parse(DataConfig, data)).replayed
    assert len(found.examples) == round(230 * 0.1 / 0.9)


def test_what_decides_is_a_mean_of_scores_or_one_metric_that_all_have(tmp_path):
    texts = {name: {"path": "tiny:retention"} for name in ("a", "b")}
    assert load_task(parse(DataConfig, {"mixture": {"sources": texts}})).metrics == ("loss",)
    assert load_task(parse(DataConfig, {"mixture": {"sources": texts | SOURCES}})).metrics == (MACRO_AVERAGE,)
    unlike = {"a": "tiny:retention", "b": {"path": "tiny:retention", "metrics": ["perplexity"]}}
    with pytest.raises(UserError, match="loss of a, perplexity of b have no mean"):
        load_task(parse(DataConfig, {"mixture": {"sources": unlike}}))


def test_a_set_beside_a_mixture_is_a_held_out_task_of_its_own(tmp_path):
    task = load_task(mixture())
    path = counts(tmp_path / "counts.jsonl", 0)
    whole = load_out_of_domain("count", OutOfDomainConfig(path=path), task)
    assert (len(whole.task.test), whole.task.train, whole.task.kind) == (20, (), "generation")
    folder = load_out_of_domain("other", OutOfDomainConfig(path="tiny:translation"), task)
    assert folder.task.test == load_task("tiny:translation").test
    assert (folder.expected, folder.counts_as, folder.ledger.leaks) == ((), {}, ())
    seen = tmp_path / "seen.jsonl"
    write_jsonl(seen, [{"prompt": one.prompt, "completion": one.answer} for one in task.each["news"].train[:4]])
    for name in ("seen", "news"):  # which a source is called too
        leaks = load_out_of_domain(name, OutOfDomainConfig(path=str(seen)), task).ledger.leaks
        assert [leak.reason for leak in leaks] == [
            f"this row of {name} is also in train of news, line {one.line}" for one in task.each["news"].train[:4]
        ]
    (tmp_path / "held-out").mkdir()
    counts(tmp_path / "held-out" / "test.jsonl", 0)
    alone = load_out_of_domain("alone", OutOfDomainConfig(path=str(tmp_path / "held-out")), task)
    assert [one.prompt for one in alone.task.test] == [one.prompt for one in whole.task.test]
    with pytest.raises(UserError, match="with its own labels"):
        load_out_of_domain("x", OutOfDomainConfig(path=path, labels={"a": ("b",)}), task)
    with pytest.raises(UserError, match="name each of its sources"):
        load_out_of_domain("x", OutOfDomainConfig(path="m", mixture=mixture().mixture), task)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"sources": {}}, "no source"),
        ({"sources": {"a": "nowhere.csv"}}, "source a: no such file"),
        ({"sources": {"a": "tiny:entailment_ood", "b": "tiny:headline"}}, "the source a has no training rows"),
        ({"sources": {"a": "tiny:headline", "b": {"path": "tiny:headline", "weight": 2}}}, "write mixing: weights"),
        ({"sources": {"a": "tiny:headline", "b": {"path": "x", "weight": 2}}, "mixing": "weights"}, "a has no weight"),
        ({"sources": {"a": {"path": "x", "weight": -1}}, "mixing": "weights"}, "greater than 0"),
        ({"sources": {"a": {"path": "x", "weight": 0}}, "mixing": "weights"}, "greater than 0"),
        ({"sources": {"a": "x"}, "mixing": "equal", "temperature": 2}, "temperature has no effect"),
        ({"sources": {"a": "x"}, "temperature": 0.5}, "greater than or equal to 1"),
        ({"sources": {"a": "x"}, "mixing": "random"}, "mixing"),
        ({"sources": {"a b": "x"}}, "letters, digits"),
        ({"sources": {"a": {"path": "x", "seed": 3}}}, "the same for all sources"),
        ({"sources": {"a": {"path": "x", "few_shot": 3}}}, "the same for all sources"),
        ({"sources": {"a": {"path": "x", "mixture": {"sources": {"b": "y"}}}}}, "cannot be a mixture itself"),
        ({"sources": {"a": {"path": "x", "txet": "y"}}}, "did you mean|no field"),
    ],
)
def test_what_is_wrong_with_a_mixture_is_told(said, told):
    with pytest.raises(UserError, match=told):
        load_task(parse(DataConfig, {"mixture": said}))


@pytest.mark.parametrize("field", [{"text": "review"}, {"pattern": "verbose"}, {"metrics": ["accuracy"]}])
def test_what_is_of_one_source_is_not_said_of_all(field):
    with pytest.raises(UserError, match=r"is of one source; write mixture\.sources\.NAME\."):
        parse(DataConfig, {"mixture": {"sources": SOURCES}, **field})


def test_a_source_named_twice_is_refused(tmp_path):
    (tmp_path / "twice.yaml").write_text("sources:\n  a: tiny:headline\n  a: tiny:sentiment\n")
    with pytest.raises(UserError, match="'a' is there twice"):
        parse(DataConfig, {"path": str(tmp_path / "twice.yaml")})


def test_a_file_that_is_none_says_what_is_missing(tmp_path):
    (tmp_path / "task.yaml").write_text(json.dumps({"name": "x"}))
    with pytest.raises(UserError, match=r"task\.yaml is no mixture"):
        parse(DataConfig, {"path": str(tmp_path / "task.yaml")})


def test_paths_in_a_yaml_file_count_from_its_folder_or_else_from_here(tmp_path, monkeypatch):
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there / "sets"):
        folder.mkdir(parents=True)
    counts(here / "both.jsonl", 0)
    beside = counts(there / "both.jsonl", 50)
    counts(here / "here.jsonl", 100)
    counts(there / "sets" / "deep.jsonl", 200)
    for name in ("a.en", "a.nb"):
        (there / name).write_text("x\ny\nz\nv\nw\n")
    file = there / "mix.yaml"
    lines = ["b: both.jsonl", "h: {path: here.jsonl}", "d: sets/deep.jsonl", "t: tiny:sentiment", 'p: "a.en, a.nb"']
    file.write_text("sources:\n" + "".join(f"  {line}\n" for line in lines))
    monkeypatch.chdir(here)
    found = {name: one.path for name, one in DataConfig(path="../there/mix.yaml").mixture.sources.items()}
    assert found == {
        "b": "../there/both.jsonl", "h": "here.jsonl", "d": "../there/sets/deep.jsonl", "t": "tiny:sentiment",
        "p": "../there/a.en,../there/a.nb",
    }  # fmt: skip
    assert load_task(DataConfig(path=str(file))).each["b"].train == load_task(beside).train
    given = DataConfig(path=str(file), mixture={"sources": {"h": {"path": "both.jsonl"}}})
    assert given.mixture.sources["h"].path == "both.jsonl", "what is said beside the file is no part of it"
    file.write_text("sources: {b: botth.jsonl}")
    with pytest.raises(UserError) as error:
        DataConfig(path=str(file))
    assert f"botth.jsonl is neither in {there} nor in {here}" in error.value.message
    assert error.value.hint == "did you mean both.jsonl?"


@pytest.mark.parametrize("n", [1, 2])
def test_a_held_out_file_of_a_row_or_two_is_asked(n, tmp_path):
    path = counts(tmp_path / "few.jsonl", 0, n)
    found = load_out_of_domain("few", OutOfDomainConfig(path=path), load_task(mixture()))
    assert [one.prompt for one in found.task.test] == [f"count {i}:" for i in range(n)]
    assert f"0 train, 0 dev, {n} test; {n} rows, asked out of domain as few" in found.ledger.detected


def test_rows_are_the_same_where_what_fills_unlike_templates_is(tmp_path):
    firsts = {"a": (0, 20, 60), "b": (0, 40, 0)}
    for name, of_parts in firsts.items():
        (tmp_path / name).mkdir()
        text = "the boat" if name == "a" else "The  Boat"
        for part, first in zip(("train", "dev", "test"), of_parts, strict=True):
            rows = ({"text": f"{text} {i}", "label": str(i % 2)} for i in range(first, first + 6))
            write_jsonl(tmp_path / name / f"{part}.jsonl", rows)
    sources = {
        name: {"path": str(tmp_path / name), "prompt": f"{name} says {{text}}", "answer": " {label}"} for name in firsts
    }
    leaks = load_task(parse(DataConfig, {"mixture": {"sources": sources}})).ledger.leaks
    # b's own, and the same rows in train of the other source, which asks them in other words
    own = [f"b: this row of test is also in train, line {n}" for n in range(1, 7)]
    assert [leak.reason for leak in leaks] == own + [
        f"this row of test of b is also in train of a, line {n}" for n in range(1, 7)
    ]
