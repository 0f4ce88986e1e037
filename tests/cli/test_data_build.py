"""`tunewise data build` and `tunewise data templates` through the real command."""

import json
import re
from pathlib import Path

import yaml

from tests.cli.command import tunewise
from tunewise.data.instruct.clusters import cluster_names, read_cluster

ROOT = Path(__file__).resolve().parents[2]


def test_a_task_is_built_and_told(tmp_path):
    found = tunewise("data", "build", "tiny:sentiment", "-t", "sentiment", "--limit", 20, "--out", tmp_path / "set")
    assert found.code == 0, found.err
    assert re.search(r"sentiment\s+sentiment\s+20\s+20\s+20", found.out)
    assert len((tmp_path / "set" / "train.jsonl").read_text("utf-8").splitlines()) == 20


def test_every_option_reaches_the_plan(tmp_path):
    found = tunewise(
        "data", "build", "tiny:headline", "--templates", "summarisation", "--per-row", "all", "--shots", "1",
        "--few-shot", "0.25", "--options", "never", "--inverted", "0.5",
        "--chain-of-thought", "0", "--held-out-templates", "2",
        "--limit", "7", "--messages", "--seed", "3", "data.seed=4", "name=news", "options_at_most=9",
        "--out", tmp_path / "a", "--json",
    )  # fmt: skip
    assert found.code == 0, found.err
    assert json.loads(found.out)["sets"][0]["task"] == "news"
    plan = yaml.safe_load((tmp_path / "a" / "sets.yaml").read_text("utf-8"))
    (source,) = plan.pop("tasks")
    assert (source["data"]["seed"], source["templates"], source["name"]) == (4, "summarisation", "news")
    assert plan == {
        "per_row": "all", "shots": 1, "few_shot": 0.25, "options": "never", "inverted": 0.5, "chain_of_thought": 0.0,
        "held_out_templates": 2, "limit": 7, "messages": True, "seed": 3, "options_at_most": 9, "hold_out": [],
    }  # fmt: skip


def test_a_file_of_tasks_and_words_over_it(tmp_path):
    plan = {"tasks": [{"data": "tiny:sentiment"}, {"data": "tiny:translation"}], "limit": 50}
    (tmp_path / "sets.yaml").write_text(yaml.safe_dump(plan), "utf-8")
    words = ("data", "build", tmp_path / "sets.yaml", "--limit", "5", "--hold-out", "sentiment")
    found = tunewise(*words, "--out", tmp_path / "sets", "--json")
    assert found.code == 0, found.err
    rows = {built["task"]: built["rows"] for built in json.loads(found.out)["sets"]}
    assert rows == {"sentiment": {"train": 0, "dev": 0, "test": 5}, "translation": {"train": 5, "dev": 5, "test": 5}}
    refused = tunewise(*words, "--templates", "topic")
    assert (refused.code, "says which templates ask each of its tasks" in refused.err) == (2, True)


def test_a_slot_that_is_the_same_in_every_row(tmp_path):
    slots = ("--slot", "source_language=Norwegian", "--slot", "target_language=Danish")
    words = ("data", "build", "tiny:headline", "-t", "translation", "--limit", "9", "--out", tmp_path / "a")
    assert tunewise(*words).code == 2
    found = tunewise(*words, *slots)
    assert found.code == 0, found.err
    assert "Danish" in (tmp_path / "a" / "train.jsonl").read_text("utf-8")


def test_what_is_wrong_is_told_without_a_traceback(tmp_path):
    for words, told in (
        ((), "nothing to build from"),
        (("tiny:sentiment", "-t", "sentimnt"), "did you mean 'sentiment'?"),
        (("tiny:sentiment", "--options", "sometimes"), "options"),
        (("tiny:sentiment", "--per-row", "some"), "per_row"),
        (("tiny:sentiment", "shot=2"), "no field named shot"),
        (("tiny:sentiment", "data.txt=a"), "no field named tasks.0.data.txt"),
        (("nowhere.csv",), "no such file: nowhere.csv"),
        (("tiny:instruction",), "cannot be told for certain"),
    ):
        found = tunewise("data", "build", *words, "--out", tmp_path / "x")
        assert found.code == 2, (words, found.out, found.err)
        assert told in found.err, (words, found.err)
        assert "Traceback" not in found.err
        assert not (tmp_path / "x").exists()


def test_templates_are_listed_and_printed():
    found = tunewise("data", "templates")
    assert found.code == 0
    assert all(name in found.out for name in cluster_names())
    one = tunewise("data", "templates", "entailment")
    for name, template in read_cluster("entailment").templates.items():
        assert name in one.out
        assert template.prompt in one.out
    assert json.loads(tunewise("data", "templates", "topic", "--json").out)["targets"] == ["label"]
    assert set(json.loads(tunewise("data", "templates", "--json").out)) == set(cluster_names())


def test_the_table_of_the_page_is_what_the_package_has():
    page = (ROOT / "docs" / "instruction-sets.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (\d+) \| (\d+) \|$", page, re.M)
    expected = []
    for name in cluster_names():
        cluster = read_cluster(name)
        n_inverted = sum(template.inverted for template in cluster.templates.values())
        expected.append((name, cluster.description, str(len(cluster.templates) - n_inverted), str(n_inverted)))
    assert rows == expected
