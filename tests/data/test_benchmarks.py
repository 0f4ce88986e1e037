"""GLUE and SuperGLUE by name, from small files with the columns and class ids of the hub's data sets."""

import builtins
import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from tunewise.data import hub
from tunewise.data.benchmarks import BENCHMARKS, LEFT_OUT, is_benchmark
from tunewise.data.config import DataConfig
from tunewise.data.found import find
from tunewise.data.load import load_task
from tunewise.data.readers import Row
from tunewise.errors import UserError
from tunewise.evaluation.metrics import METRICS

WIC = {"word": "place", "sentence1": "A place {}.", "sentence2": "Her place {}.", "start1": 2, "end1": 7, "start2": 4}
WSC = {
    "text": "Mark {} told Pete about himself and the boat .", "span1_index": 3, "span1_text": "Pete", "span2_index": 5,
    "span2_text": "himself",
}  # fmt: skip
COPA = {
    "premise": "The boat {} sank.", "choice1": "The rock tore it.", "choice2": "I saw it.", "question": "cause",
}  # fmt: skip
FOLLOWS = "a 3\nQuestion: does it follow that b\n"
# task -> one row without its label, the words of the labels 0, 1, ..., the metrics (table 1 of each paper), and what is
# asked of row 3
LAYOUT = {
    "glue:cola": ({"sentence": "Boat {}."}, "no yes", "mcc", "Boat 3.\n"),
    "glue:sst2": ({"sentence": "boat {} "}, "negative positive", "accuracy", "Review: boat 3 \n"),
    "glue:mrpc": ({"sentence1": "a {}", "sentence2": "b"}, "no yes", "f1 accuracy", "a 3\nb\n"),
    "glue:qqp": ({"question1": "a {}", "question2": "b"}, "no yes", "f1 accuracy", "a 3\nb\n"),
    "glue:stsb": ({"sentence1": "a {}", "sentence2": "b"}, "", "pearson spearman", "a 3\nb\n"),
    "glue:mnli": ({"premise": "a {}", "hypothesis": "b"}, "true unclear false", "accuracy", "a 3\nb\n"),
    "glue:mnli_mismatched": ({"premise": "a {}", "hypothesis": "b"}, "true unclear false", "accuracy", "a 3\nb\n"),
    "glue:qnli": ({"question": "q?", "sentence": "s {}"}, "yes no", "accuracy", "s 3\nQuestion: q?\n"),
    "glue:rte": ({"sentence1": "a {}", "sentence2": "b"}, "yes no", "accuracy", FOLLOWS),
    "glue:wnli": ({"sentence1": "a {}", "sentence2": "b"}, "no yes", "accuracy", FOLLOWS),
    "super_glue:boolq": ({"question": "q", "passage": "p {}"}, "no yes", "accuracy", "p 3\nQuestion: q, yes or no?\n"),
    "super_glue:cb": ({"premise": "a {}", "hypothesis": "b"}, "true false unclear", "accuracy macro_f1", "a 3\nb\n"),
    "super_glue:copa": (COPA, "0 1", "accuracy", "The boat 3 sank because"),
    "super_glue:rte": ({"premise": "a {}", "hypothesis": "b"}, "yes no", "accuracy", FOLLOWS),
    "super_glue:wic": (WIC, "no yes", "accuracy", "place: A place 3.\nplace: Her place 3.\n"),
    "super_glue:wsc": (WSC, "no yes", "accuracy", "Mark 3 told Pete about *himself* and the boat .\n"),
}  # fmt: skip


def rows_of(name: str, n: int = 24) -> list[dict]:
    row, words, *_ = LAYOUT[name]
    n_classes = len(words.split())
    return [
        {key: value.replace("{}", str(i)) if isinstance(value, str) else value for key, value in row.items()}
        | {"idx": i, "label": i % n_classes if n_classes else i % 6 - 0.5 * (i % 6 > 0)}
        for i in range(n)
    ]


def write(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def written(folder: Path, name: str) -> DataConfig:
    """A folder with the files of this task, and no others."""
    for part, n in (("train", 24), (BENCHMARKS[name].test, 9)):
        write(folder / f"{part}.jsonl", [row | {"idx": row["idx"] + 100} for row in rows_of(name, n)])
    return DataConfig(path=name, folder=str(folder))


def refusal(config: DataConfig) -> UserError:
    with pytest.raises(UserError) as error:
        load_task(config)
    return error.value


def test_every_task_has_a_layout_here_and_known_metrics():
    assert LAYOUT.keys() == BENCHMARKS.keys()
    assert {metric for benchmark in BENCHMARKS.values() for metric in benchmark.metrics} <= METRICS.keys()
    assert all(len(one.words) == len(one.classes) for one in BENCHMARKS.values())
    assert all(("f1" in one.metrics) == (one.positive in one.words) for one in BENCHMARKS.values())


@pytest.mark.parametrize("name", LAYOUT)
def test_rows_become_a_task(name, tmp_path):
    _, words, metrics, beginning = LAYOUT[name]
    task = load_task(written(tmp_path, name))
    labels = () if name == "super_glue:copa" else tuple(words.split())
    assert (task.name, task.labels, task.metrics) == (name, labels, tuple(metrics.split()))
    assert task.kind == ("classification" if labels else "multiple_choice" if words else "regression")
    assert [len(part) for part in (task.train, task.dev, task.test)] == [21, 3, 9]
    assert task.ledger.rows == task.ledger.trained == 33
    assert f"{BENCHMARKS[name].test} serves as test" in task.ledger.detected
    third = task.test[3]
    assert third.prompt.startswith(beginning)
    if name == "super_glue:copa":
        assert (third.prompt, third.label, third.answer) == (beginning, "B", " I saw it.")
        assert task.options(third) == (" the rock tore it.", " I saw it.")
        return
    assert third.prompt.endswith(":")
    assert third.label == (task.labels[3 % len(task.labels)] if words else "2.5")
    assert third.answer == f" {third.label}"
    assert len(third.texts) == (1 if name in ("glue:cola", "glue:sst2") else 2)


def test_a_classifier_is_told_which_word_is_meant(tmp_path):
    (wic, wsc) = (load_task(written(tmp_path / name[-3:], name)) for name in ("super_glue:wic", "super_glue:wsc"))
    assert wic.test[3].texts == ("place: A place 3.", "place: Her place 3.")
    assert wsc.test[3].texts == ("Mark 3 told Pete about *himself* and the boat .", "Pete")


def test_dev_is_a_part_of_train_that_does_not_grow_beyond_a_thousand_rows(tmp_path):
    config = written(tmp_path, "glue:cola")
    write(tmp_path / "train.jsonl", rows_of("glue:cola", 12_000))
    task = load_task(config)
    assert (len(task.train), len(task.dev), len(task.test)) == (11_000, 1_000, 9)
    assert not {example.prompt for example in task.dev} & {example.prompt for example in task.train}
    few = load_task(config.model_copy(update={"train": 10}))
    assert (len(few.train), len(few.dev)) == (10, 1_000)


def test_a_clone_of_the_whole_data_set_serves_every_task(tmp_path):
    for name in ("glue:rte", "glue:mnli", "glue:mnli_mismatched"):
        folder = tmp_path / (BENCHMARKS[name].config or name.partition(":")[2])
        written(folder, name)
    assert [
        load_task(DataConfig(path=name, folder=str(tmp_path))).name for name in ("glue:rte", "glue:mnli_mismatched")
    ] == ["glue:rte", "glue:mnli_mismatched"]
    write(tmp_path / "mnli" / "validation_mismatched.jsonl", rows_of("glue:mnli", 5))
    sizes = [
        len(load_task(DataConfig(path=f"glue:{name}", folder=str(tmp_path))).test)
        for name in ("mnli", "mnli_mismatched")
    ]
    assert sizes == [9, 5]


def test_classes_may_be_named_and_rows_without_a_label_are_rejected(tmp_path):
    config = written(tmp_path, "super_glue:boolq")
    rows = rows_of("super_glue:boolq", 4)
    for row, label in zip(rows, (False, "True", 1, -1), strict=True):
        row["label"] = label
    write(tmp_path / "validation.jsonl", rows)
    task = load_task(config)
    assert [example.label for example in task.test] == ["no", "yes", "yes"]
    assert [(note.line, note.reason) for note in task.ledger.rejected] == [(4, "test: it has no label")]


def test_other_kinds_of_file_are_read(tmp_path):
    lines = [f'a {i}\tsays "b\ttrue {i % 2}\t{i % 2}' for i in range(12)]
    (tmp_path / "train.tsv").write_text("sentence1\tsentence2\tidx\tlabel\n" + "\n".join(lines) + "\n", "utf-8")
    (tmp_path / "dev.tsv").write_text("sentence1\tsentence2\tidx\tlabel\n" + "\n".join(lines[:3]) + "\n", "utf-8")
    task = load_task(DataConfig(path="glue:rte", folder=str(tmp_path)))
    assert task.test[1].prompt.startswith('a 1\nQuestion: does it follow that says "b\n')
    assert [example.label for example in task.test] == ["yes", "no", "yes"]


def test_what_is_missing_or_wrong_is_told(tmp_path, monkeypatch):
    assert "no such file" in refusal(DataConfig(path="glue:rte", folder=str(tmp_path / "nowhere"))).message
    nothing = refusal(DataConfig(path="glue:rte", folder=str(tmp_path)))
    assert (nothing.message, nothing.hint) == (
        f"{tmp_path} has no train rows of glue:rte",
        "put train.jsonl there (or .json, .csv, .tsv, .parquet), with the columns of nyu-mll/glue",
    )
    config = written(tmp_path, "super_glue:rte")
    other = refusal(config.model_copy(update={"path": "glue:rte"}))
    assert other.message == f"{tmp_path / 'train.jsonl'} has no column 'sentence1'"
    assert "glue:rte has the columns sentence1, sentence2, label; there are premise, hypothesis" in other.hint
    write(tmp_path / "train.jsonl", [row | {"label": 2} for row in rows_of("super_glue:rte", 3)])
    wrong = refusal(config)
    assert wrong.message == f"{tmp_path / 'train.jsonl'}, line 1: the label '2' is no class of the task"
    assert wrong.hint == "its classes are 0 (entailment), 1 (not_entailment)"
    other = DataConfig(path="super_glue:rte", folder=str(tmp_path), metrics=("f1",))
    write(tmp_path / "train.jsonl", rows_of("super_glue:rte"))
    counted = refusal(other)
    assert counted.message == "super_glue:rte: the metric f1 counts one label, and positive is ''"
    assert counted.hint == "take macro_f1, or a task.yaml with positive: yes or no"
    assert load_task(other.model_copy(update={"metrics": ("mcc", "accuracy")})).metrics == ("mcc", "accuracy")
    named = refusal(config.model_copy(update={"text": "premise"}))
    assert "super_glue:rte is a benchmark, which says what its columns mean; data.text cannot" in named.message
    assert "data.folder changes nothing" in refusal(DataConfig(path="tiny:sentiment", folder=str(tmp_path))).message


@pytest.mark.parametrize("name", [*LEFT_OUT, "glue:rto", "super_glue:"])
def test_names_that_are_no_task_are_refused_with_the_reason(name):
    assert is_benchmark(name)
    with pytest.raises(UserError) as error:
        find(name)
    assert error.value.message == refusal(DataConfig(path=name)).message
    assert error.value.hint
    if name == "glue:rto":
        assert "did you mean 'glue:rte'?" in error.value.hint


def test_patterns_and_words_ask_a_benchmark_as_any_task(tmp_path):
    config = written(tmp_path, "glue:rte")
    plain = load_task(config)
    words = {"yes": "true", "no": "false"}
    asked = load_task(config.model_copy(update={"pattern": "question", "words": words}))
    assert [one.id for one in asked.train] == [one.id for one in plain.train]
    assert {one.answer for one in asked.test} == {" true", " false"}
    assert asked.test[3].prompt == "a 3\nQuestion: b true or false?\nAnswer:"
    assert asked.labels == plain.labels
    assert "as the benchmark says, asked as '{sentence1}" in asked.ledger.detected
    values = written(tmp_path / "values", "glue:stsb").model_copy(update={"words": words})
    assert "data.words are for the labels" in refusal(values).message


def test_without_a_folder_rows_come_from_the_hub(monkeypatch):
    asked = []

    def of_hub(repository: str, config: str, split: str) -> list[Row]:
        asked.append((repository, config, split))
        return [Row(i + 1, {key: str(value) for key, value in row.items()}) for i, row in enumerate(rows_of(name))]

    monkeypatch.setattr("tunewise.data.benchmarks.hub_rows", of_hub)
    for name in ("glue:mnli_mismatched", "super_glue:wsc"):
        assert len(load_task(name).test) == 24
    assert asked == [
        ("nyu-mll/glue", "mnli", "train"), ("nyu-mll/glue", "mnli", "validation_mismatched"),
        ("aps/super_glue", "wsc.fixed", "train"), ("aps/super_glue", "wsc.fixed", "validation"),
    ]  # fmt: skip


def test_without_the_extra_the_hint_names_it(tmp_path, monkeypatch):
    plain = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] in ("datasets", "pyarrow"):
            raise ImportError(name)
        return plain(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    error = refusal(DataConfig(path="glue:rte"))
    assert error.message == "rte of nyu-mll/glue is read by the package datasets, which is not installed"
    assert error.hint == "pip install 'tunewise[data]', or name a folder with its files: data.folder=FOLDER"
    with pytest.raises(UserError, match="pyarrow"):
        hub.parquet_rows(tmp_path / "a.parquet")


@pytest.mark.skipif(not find_spec("datasets"), reason="datasets, of the extra `data`, is not installed")
def test_parquet_shards_are_read_and_a_missing_network_is_told(tmp_path):
    from datasets import Dataset

    for part, halves in (("train", (0, 12)), ("validation", (0,))):
        for number, start in enumerate(halves):
            rows = rows_of("glue:stsb")[start : start + 12]
            path = tmp_path / "stsb" / f"{part}-{number:05}-of-{len(halves):05}.parquet"
            path.parent.mkdir(exist_ok=True)
            Dataset.from_list(rows).to_parquet(path)
    task = load_task(DataConfig(path="glue:stsb", folder=str(tmp_path)))
    assert (len(task.train) + len(task.dev), len(task.test), task.test[3].label) == (24, 12, "2.5")
    (tmp_path / "stsb" / "train-00000-of-00002.parquet").write_text("nothing")
    assert "cannot read" in refusal(DataConfig(path="glue:stsb", folder=str(tmp_path))).message
    assert "cannot fetch train of rte of nyu-mll/glue" in refusal(DataConfig(path="glue:rte")).message
