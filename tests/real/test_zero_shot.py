"""Public tests of language models, read as they lie there and asked of a really pre-trained model.

The model is a Llama of 260 thousand parameters that has read children's stories. Scores are held against transformers'
own model and tokenizer, one forward an option, in float64.
"""

import json
import math
import os
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tunewise.data.config import DataConfig
from tunewise.data.load import load_task
from tunewise.evaluation.evaluate import evaluate_task
from tunewise.evaluation.metrics import Answers, score
from tunewise.models.load import load_base

FOLDER = Path(os.environ.get("TUNEWISE_REAL_DATA", Path(__file__).parents[3] / "shared" / "data"))
STORIES = FOLDER / "model_stories260k" / "hf"
pytestmark = pytest.mark.skipif(
    not (FOLDER / "blimp").is_dir(), reason=f"no data sets in {FOLDER}; name their folder in TUNEWISE_REAL_DATA"
)


@pytest.fixture(scope="module")
def stories():
    return load_base(str(STORIES), "float32")


@pytest.fixture(scope="module")
def exact():
    """The same model and tokenizer as transformers has them, in float64."""
    model = AutoModelForCausalLM.from_pretrained(STORIES, dtype=torch.float64).eval()
    return model, AutoTokenizer.from_pretrained(STORIES)


@torch.no_grad()
def log_probability(exact, prompt, whole):
    """Of what `whole` has behind `prompt`, in one forward."""
    model, tokenizer = exact
    n_prompt = len(tokenizer(prompt)["input_ids"])
    ids = torch.tensor([tokenizer(whole)["input_ids"]])
    logits = model(ids, use_cache=False).logits[0, n_prompt - 1 : -1].log_softmax(-1)
    return logits.gather(1, ids[0, n_prompt:, None]).sum().item()


# paradigm -> in how many of 50 pairs the good sentence is the more probable one to this model
BLIMP = {
    "adjunct_island": 27,
    "anaphor_gender_agreement": 43,
    "anaphor_number_agreement": 31,
    "animate_subject_passive": 19,
}


@pytest.mark.parametrize("paradigm", BLIMP)
def test_minimal_pairs_of_blimp(paradigm, stories, exact):
    path = FOLDER / "blimp" / f"{paradigm}.jsonl"
    task = load_task(path)
    examples = sorted((*task.train, *task.dev, *task.test), key=lambda example: example.line)[::3]
    assert (task.kind, task.ledger.rows, len(examples)) == ("minimal_pairs", 150, 50)
    found = evaluate_task(stories, task, examples)
    by_line = {json.loads(line)["sentence_good"]: json.loads(line) for line in path.read_text("utf-8").splitlines()}
    n_right = 0
    for row in found.predictions:
        pair = by_line[row["prompt"]]
        good, bad = (log_probability(exact, "", pair[f"sentence_{side}"]) for side in ("good", "bad"))
        assert row["scores"] == pytest.approx({"good": good, "bad": bad}, abs=2e-3)
        n_right += good > bad
    assert n_right == BLIMP[paradigm]
    assert found.metrics["accuracy"] == pytest.approx(2 * n_right)


def test_choices_of_copa(stories, exact):
    task = load_task(FOLDER / "copa_en")
    assert (len(task.train), len(task.dev), len(task.test)) == (356, 100, 44)
    found = evaluate_task(stories, task, task.dev)
    rows = [json.loads(line) for line in (FOLDER / "copa_en" / "val.jsonl").read_text("utf-8").splitlines()]
    n_right, n_by_length, gaps, brier = 0, 0, [], 0.0
    for row, told in zip(rows, found.predictions, strict=True):
        prompt = f"{row['premise']}\n{row['question']}\nAnswer:"
        choices = [row["choice1"], row["choice2"]]
        values = [log_probability(exact, prompt, f"{prompt} {choice}") for choice in choices]
        assert list(told["scores"].values()) == pytest.approx(values, abs=2e-3)
        assert told["expected"] == "AB"[row["label"]]
        right = values[row["label"]] > values[1 - row["label"]]
        n_right += right
        per_character = [value / len(choice) for value, choice in zip(values, choices, strict=True)]
        n_by_length += per_character[row["label"]] > per_character[1 - row["label"]]
        wrong_one = 1 / (1 + math.exp(values[row["label"]] - values[1 - row["label"]]))
        brier += 2 * wrong_one**2 / len(rows)
        gaps.append((max(wrong_one, 1 - wrong_one), right))
    assert found.metrics["accuracy"] == pytest.approx(n_right)
    assert found.metrics["accuracy_norm"] == pytest.approx(n_by_length)
    assert found.metrics["brier"] == pytest.approx(brier, abs=1e-3)
    bins = [[pair for pair in gaps if math.ceil(pair[0] * 15) == number] for number in range(1, 16)]
    ece = sum(abs(sum(right for _, right in inside) - sum(sure for sure, _ in inside)) for inside in bins) / len(rows)
    assert found.metrics["ece"] == pytest.approx(ece, abs=1e-3)
    shown = evaluate_task(stories, task, task.dev[:10], shots=2, seed=1)
    assert shown.metrics.keys() == found.metrics.keys()
    assert [row["scores"] for row in shown.predictions] != [row["scores"] for row in found.predictions[:10]]


def test_every_subject_of_mmlu_is_read():
    n_files = 0
    for path in sorted((FOLDER / "mmlu" / "dev").glob("*.csv")):
        n_files += 1
        task = load_task(path)
        examples = (*task.train, *task.dev, *task.test)
        assert (task.kind, task.ledger.rows, task.ledger.rejected) == ("multiple_choice", 5, ()), path.name
        assert {len(example.choices) for example in examples} == {4}
    assert n_files == 57


def test_mmlu_by_letter_and_by_text(stories):
    path = str(FOLDER / "mmlu" / "dev" / "machine_learning.csv")
    by_text = load_task(path)
    by_letter = load_task(DataConfig(path=path, prompt="{column1}\n{choices}\nAnswer:", answer=" {letter}"))
    example = by_letter.train[0]
    assert example.prompt.endswith(f"\nD.{by_text.train[0].choices[3]}\nAnswer:")
    assert example.choices == (" A", " B", " C", " D")
    for task in (by_text, by_letter):
        found = evaluate_task(stories, task, task.train)
        assert all(list(row["scores"]) == ["A", "B", "C", "D"] for row in found.predictions)
        assert len(found.predictions) == 3


def test_answers_of_gsm8k_end_with_their_number():
    task = load_task(FOLDER / "gsm8k" / "train_300.jsonl")
    examples = (*task.train, *task.dev, *task.test)
    assert task.metrics[0] == "numeric_match"
    rows = (FOLDER / "gsm8k" / "train_300.jsonl").read_text("utf-8").splitlines()
    results = {row["question"]: row["answer"].rpartition("#### ")[2] for row in map(json.loads, rows)}
    told = [f"I think it is {results[example.texts[0]]}." for example in examples]
    assert len(results) == len(examples) == 300
    expected = [example.answer.strip() for example in examples]
    assert score(["numeric_match"], Answers(told, expected)) == {"numeric_match": 100.0}
    assert score(["numeric_match"], Answers(told, expected[1:] + expected[:1]))["numeric_match"] < 10


def test_questions_of_xquad(stories):
    task = load_task(FOLDER / "xquad" / "xquad.en.json")
    assert task.metrics == ("token_f1", "normalised_match")
    examples = task.test[:12]
    assert all(example.answer.strip() in example.texts[0] for example in examples)
    found = evaluate_task(stories, task, examples)
    assert found.metrics.keys() == {"token_f1", "normalised_match"}
    assert [row["accepted"] for row in found.predictions] == [list(example.accepted) for example in examples]
    right = Answers(
        [row["accepted"][-1].upper() + "!" for row in found.predictions], [row["expected"] for row in found.predictions]
    )
    assert score(["normalised_match"], right)["normalised_match"] == 100.0
