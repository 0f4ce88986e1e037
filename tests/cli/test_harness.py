"""`tunewise eval --harness` and benchmarks by name, from a shell's view."""

import json
from importlib.util import find_spec

import pytest

from tests.cli.command import tunewise
from tests.harness_tasks import write_tasks
from tunewise.files import read_jsonl

needs_harness = pytest.mark.skipif(not find_spec("lm_eval"), reason="lm_eval, of the extra `eval`, is not installed")


@needs_harness
@pytest.mark.parametrize("method", ["lora", "prompt_tuning"])
def test_a_run_its_adapter_and_its_base_are_asked(tmp_path, method):
    tasks = ("--harness", "boats, boats_written", "--harness-tasks", write_tasks(tmp_path / "tasks"))
    run = tmp_path / "run"
    quick = ("data.train=32", "train.steps=4", "train.learning_rate=1e-2")
    assert tunewise("train", "--data", "tiny:sentiment", "--method", method, *quick, "--out", run).code == 0
    of_run = tunewise("eval", run, *tasks, "--limit", "6", "--json", "--out", tmp_path / "out")
    assert of_run.code == 0
    summary = json.loads(of_run.out)
    assert summary == json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert (summary["adapter"], summary["limit"]) == (str(run / "adapter"), 6)
    assert [summary["tasks"][name]["n"] for name in ("boats", "boats_written")] == [6, 6]
    rows = list(read_jsonl(tmp_path / "out" / "predictions.jsonl"))
    assert [(row["task"], row["id"]) for row in rows] == [
        (task, i) for task in ("boats", "boats_written") for i in range(6)
    ]
    of_adapter = json.loads(tunewise("eval", run / "adapter", *tasks, "--limit", "6", "--json").out)
    assert of_adapter["tasks"] == summary["tasks"]
    of_base = tunewise("eval", "--model", "tiny", *tasks, "--limit", "6", "--out", tmp_path / "base")
    lines = [line.split()[:2] for line in of_base.out.splitlines()]
    assert lines == [["boats", "acc"], ["boats", "acc_norm"], ["boats_written", "exact_match"]]
    first = next(iter(read_jsonl(tmp_path / "base" / "predictions.jsonl")))
    assert first["answer"] != rows[0]["answer"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--harness", "boats", "--data", "tiny:sentiment"), "--data tiny:sentiment means nothing to the harness"),
        (("--harness", "boats", "--split", "dev"), "--split dev means nothing to the harness"),
        (("--harness", "boats", "--seed", "1"), "--seed 1 means nothing to the harness"),
        (("--harness-tasks", "tasks"), "no task for the harness"),
        (("--data", "glue:rto"), "no benchmark named 'glue:rto'"),
        (("--data", "super_glue:record"), "super_glue:record cannot be had by name"),
    ],
)
def test_what_cannot_be_asked_is_refused(words, told):
    outcome = tunewise("eval", "--model", "tiny", *words)
    assert outcome.code == 2
    assert outcome.err.startswith(f"error: {told}")


def test_a_benchmark_is_trained_on_and_a_changed_file_is_noticed(tmp_path, base):
    folder = tmp_path / "glue" / "mrpc"
    folder.mkdir(parents=True)
    for part, n in (("train", 40), ("validation", 8)):
        rows = [
            {"sentence1": f"the boat {part} {i}", "sentence2": f"a {'boat' if i % 2 else 'soup'}", "label": i % 2}
            for i in range(n)
        ]
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    command = (
        "train", "--model", base, "--data", "glue:mrpc", f"data.folder={tmp_path / 'glue'}", "train.steps=2",
        "--out", tmp_path / "run", "--json",
    )  # fmt: skip
    found = json.loads(tunewise(*command).out)
    assert list(found["test"]) == ["f1", "accuracy"]
    assert found["task"] == "glue:mrpc"
    assert json.loads(tunewise(*command).out) == found
    named = ("--data", "glue:mrpc", f"data.folder={tmp_path / 'glue'}")
    evaluated = json.loads(tunewise("eval", tmp_path / "run", *named, "--json").out)
    assert evaluated["metrics"] == found["test"]
    with (folder / "validation.jsonl").open("a", encoding="utf-8") as stream:
        stream.write(json.dumps({"sentence1": "a", "sentence2": "b", "label": 0}) + "\n")
    changed = tunewise(*command)
    assert changed.code == 2
    assert "glue:mrpc has changed since" in changed.err
