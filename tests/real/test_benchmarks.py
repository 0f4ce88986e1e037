"""Public benchmarks, as their files are: COPA by name, MMLU and BIG-bench Hard through lm-evaluation-harness."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.real.test_data import FOLDER
from tunewise.data.config import DataConfig
from tunewise.data.load import load_task
from tunewise.evaluation.harness import harness_scores
from tunewise.models.load import load_base

needs_harness = pytest.mark.skipif(not find_spec("lm_eval"), reason="lm_eval, of the extra `eval`, is not installed")
TASK = """\
task: {name}
dataset_path: {kind}
dataset_kwargs: {kwargs}
test_split: test
output_type: {output}
doc_to_text: "{text}"
{rest}
"""
MEAN = "aggregation: mean, higher_is_better: true"
LETTERS = f"doc_to_choice: [A, B, C, D]\ndoc_to_target: answer\nmetric_list: [{{metric: acc, {MEAN}}}]"
WRITTEN = (
    'doc_to_target: target\ngeneration_kwargs: {until: ["\\n"], max_gen_toks: 8}\n'
    f"metric_list: [{{metric: exact_match, {MEAN}}}]"
)
GROUP = """\
group: mmlu_here
task: [mmlu_anatomy_here, mmlu_virology_here]
aggregate_metric_list: [{metric: acc, weight_by_size: true}]
"""


def test_copa_is_had_by_name():
    folder = FOLDER / "copa_en"
    if not folder.is_dir():
        pytest.skip(f"no copa_en in {FOLDER}")
    task = load_task(DataConfig(path="super_glue:copa", folder=str(folder)))
    assert (task.kind, len(task.train) + len(task.dev), len(task.test)) == ("multiple_choice", 400, 100)
    assert task.ledger.rejected == ()
    rows = [json.loads(line) for line in (folder / "val.jsonl").read_text("utf-8").splitlines()]
    assert [example.label for example in task.test] == ["AB"[row["label"]] for row in rows]
    assert all(example.prompt.endswith((" because", " so")) for example in task.test)


def write_tasks(folder: Path) -> Path:
    folder.mkdir()
    question = "{{question}}\\nA. {{A}}\\nB. {{B}}\\nC. {{C}}\\nD. {{D}}\\nAnswer:"
    for subject in ("anatomy", "virology"):
        kwargs = {
            "data_files": {"test": str(FOLDER / "mmlu" / "dev" / f"{subject}.csv")},
            "column_names": ["question", "A", "B", "C", "D", "answer"],
        }
        name = f"mmlu_{subject}_here"
        text = TASK.format(
            name=name, kind="csv", kwargs=json.dumps(kwargs), output="multiple_choice", text=question, rest=LETTERS
        )
        (folder / f"{name}.yaml").write_text(text, "utf-8")
    (folder / "group.yaml").write_text(GROUP, "utf-8")
    kwargs = {"data_files": {"test": str(FOLDER / "bbh" / "web_of_lies.json")}, "field": "examples"}
    text = TASK.format(
        name="web_of_lies_here", kind="json", kwargs=json.dumps(kwargs), output="generate_until",
        text="{{input}}\\nA:", rest=WRITTEN,
    )  # fmt: skip
    (folder / "bbh.yaml").write_text(text, "utf-8")
    return folder


@needs_harness
def test_mmlu_and_bbh_are_asked_offline(tmp_path):
    if not (FOLDER / "mmlu").is_dir():
        pytest.skip(f"no mmlu in {FOLDER}")
    base = load_base("tiny", "float32")
    tasks = ["mmlu_here", "web_of_lies_here"]
    found = harness_scores(base, tasks, include_path=write_tasks(tmp_path / "tasks"), limit=20)
    subjects = [found[f"mmlu_{subject}_here"] for subject in ("anatomy", "virology")]
    assert [one["n"] for one in subjects] == [5, 5]
    assert found["mmlu_here"]["acc"] == pytest.approx(sum(one["acc"] for one in subjects) / 2)
    assert "items" not in found["mmlu_here"]
    items = found["web_of_lies_here"]["items"]
    assert len(items) == 20
    assert {item["target"] for item in items} == {"Yes", "No"}
