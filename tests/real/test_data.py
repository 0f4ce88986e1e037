"""The data layer on public data sets, and on the tokenizer of a really pre-trained model.

They lie in ../shared/data or in the folder that TUNEWISE_REAL_DATA names; a checkout without them skips these tests.
"""

import os
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from tunewise.data.config import DataConfig
from tunewise.data.encode import MASKED, encode, encode_all, encode_answer, encode_prompt
from tunewise.data.load import load_task
from tunewise.data.readers import read_rows
from tunewise.data.splits import normalised
from tunewise.data.talk import Talk
from tunewise.data.task import Task

FOLDER = Path(os.environ.get("TUNEWISE_REAL_DATA", Path(__file__).parents[3] / "shared" / "data"))
pytestmark = pytest.mark.skipif(
    not (FOLDER / "sms_spam").is_dir(), reason=f"no data sets in {FOLDER}; name their folder in TUNEWISE_REAL_DATA"
)

# file or folder -> kind, shape in words, rows, rejected, labels
EXPECTED = {
    "sms_spam/SMSSpamCollection.tsv": ("classification", "text and label in columns column2 and column1", 5574, 0, 2),
    "banking77/train.csv": ("classification", "text and label in columns text and category", 2000, 0, 77),
    "banking77": ("classification", "text and label in columns text and category", 2770, 0, 77),
    "pawsx/dev-en.tsv": ("classification", "pair and label in columns column1 and column2 and column3", 2000, 0, 2),
    "dolly_151/dolly.jsonl": ("generation", "prompt and completion in columns prompt and answer", 151, 0, 0),
    "gpteacher_roleplay/roleplay.json": ("generation", "instruction and response", 300, 0, 0),
    "llamafactory_demo/identity.json": ("generation", "instruction and response", 91, 0, 0),
    "llamafactory_demo/v1_sft_demo.jsonl": ("generation", "chat messages in column messages", 500, 0, 0),
    "llamafactory_demo/glaive_toolcall_en_demo.json": (
        "generation",
        "chat messages in column conversations; tools in tools",
        300,
        0,
        0,
    ),
    "gsm8k/train_300.jsonl": ("generation", "prompt and completion in columns question and answer", 300, 0, 0),
    "scitldr/train_300.jsonl": ("generation", "prompt and completion in columns source and target", 300, 0, 0),
    "xquad/xquad.en.json": (
        "generation",
        "context and question in columns context and question and answers",
        1190,
        0,
        0,
    ),
    "mmlu/dev/machine_learning.csv": ("multiple_choice", "the right one by letter in column6", 5, 0, 0),
    "copa_en": ("multiple_choice", "premise and question with the choices in choice1, choice2", 500, 0, 0),
    "bbh/causal_judgement.json": ("classification", "text and label in columns input and target", 187, 0, 2),
    "bbh/web_of_lies.json": ("classification", "text and label in columns input and target", 250, 0, 2),
    "self_instruct/seed_tasks.jsonl": (
        "generation",
        "instruction and response in columns instruction and input and output",
        175,
        0,
        0,
    ),
    "blimp/adjunct_island.jsonl": (
        "minimal_pairs",
        "minimal pairs in columns sentence_good and sentence_bad",
        150,
        0,
        0,
    ),
    "mmlu/dev/us_foreign_policy.csv": ("multiple_choice", "the right one by letter in column6", 5, 0, 0),
    "tinyshakespeare/input.txt": (
        "language_modelling",
        "its paragraphs are the rows, data.rows=lines takes lines",
        7222,
        0,
        0,
    ),
    "gutenberg/alice.txt": (
        "language_modelling",
        "its paragraphs are the rows, data.rows=lines takes lines",
        820,
        0,
        0,
    ),
    "ntrex/src.eng.txt": (
        "language_modelling",
        "its lines are the rows, data.rows=paragraphs takes paragraphs",
        500,
        0,
        0,
    ),
}


@pytest.fixture(scope="module")
def stories():
    return AutoTokenizer.from_pretrained(FOLDER / "model_stories260k" / "hf")


def parts(task: Task):
    return {"train": task.train, "dev": task.dev, "test": task.test}


@pytest.mark.parametrize("name", EXPECTED)
def test_what_is_recognised(name):
    kind, shape, n_rows, n_rejected, n_labels = EXPECTED[name]
    task = load_task(FOLDER / name)
    assert (task.kind, len(task.labels)) == (kind, n_labels)
    assert shape in task.ledger.detected
    assert (task.ledger.rows, len(task.ledger.rejected)) == (n_rows, n_rejected)
    assert task.ledger.trained == sum(map(len, parts(task).values())) == n_rows - n_rejected
    assert all(parts(task).values())
    texts = {
        part: {normalised(example.prompt or example.text) for example in rows} for part, rows in parts(task).items()
    }
    assert texts["train"].isdisjoint(texts["dev"])
    if name == "banking77":  # one question of the published test file stands in the train file as well
        assert [(note.line, note.reason) for note in task.ledger.leaks] == [
            (759, "this row of test is also in train, line 324")
        ]
    else:
        assert task.ledger.leaks == ()
        assert texts["train"].isdisjoint(texts["test"])
    assert load_task(FOLDER / name) == task


def test_aligned_texts_are_a_translation():
    place = FOLDER / "ntrex"
    task = load_task(f"{place / 'src.eng.txt'},{place / 'ref.nob.txt'}")
    assert "prompt and completion in columns src.eng and ref.nob" in task.ledger.detected
    assert (task.ledger.rows, task.ledger.trained) == (500, 500)
    assert all("\r" not in example.text for example in task.train)


def test_calls_of_tools_are_calls_and_not_text(stories):
    """Of a file in which most assistants call a tool, by ShareGPT's roles and a column of tools."""
    rows = read_rows(FOLDER / "llamafactory_demo" / "glaive_toolcall_en_demo.json")
    talk = Talk(("conversations",), tools="tools")
    found = [talk.of(row) for row in rows]
    calls = [message for each in found for message in each.messages if message.tool_calls]
    answers = [message for each in found for message in each.messages if message.role == "tool"]
    assert len(calls) == sum(str(row.value).count("'from': 'function_call'") for row in rows) > 150
    assert len(answers) == sum(str(row.value).count("'from': 'observation'") for row in rows) > 150
    assert all(
        message.trained and isinstance(message.tool_calls[0]["function"]["arguments"], dict) for message in calls
    )
    assert sum(bool(each.tools) for each in found) == sum(row.fields["tools"] not in ("", "[]") for row in rows)
    assert all(tool["function"]["name"] for each in found for tool in each.tools)


def test_spam_is_split_with_its_shares():
    task = load_task(FOLDER / "sms_spam" / "SMSSpamCollection.tsv")
    for rows in parts(task).values():
        share = sum(example.label == "spam" for example in rows) / len(rows)
        assert share == pytest.approx(747 / 5574, abs=0.03)
    by_line = {example.line: example for rows in parts(task).values() for example in rows}
    assert by_line[2].prompt == "Ok lar... Joking wif u oni...\nLabel:"
    assert by_line[2].answer == " ham"


def test_lines_are_the_files_own():
    task = load_task(FOLDER / "gpteacher_roleplay" / "roleplay.json")
    lines = (FOLDER / "gpteacher_roleplay" / "roleplay.json").read_text(encoding="utf-8").split("\n")
    assert all(lines[example.line - 1].startswith("{") for example in task.train)


def test_a_choice_of_columns_that_cannot_be_recognised():
    config = DataConfig(
        path=str(FOLDER / "copa_en" / "train.jsonl"),
        label="label",
        prompt="{premise} The {question}: 0) {choice1} 1) {choice2}\nAnswer:",
    )
    task = load_task(config)
    assert task.labels == ("0", "1")
    assert task.train[0].prompt.endswith("\nAnswer:")


@pytest.mark.parametrize("name", ["sms_spam/SMSSpamCollection.tsv", "llamafactory_demo/v1_sft_demo.jsonl"])
def test_ids_say_the_text_and_agree_between_training_and_evaluation(stories, name):
    task = load_task(FOLDER / name, stories)
    for example in task.train[:150]:
        encoded = encode(example, stories, 100_000)
        n = encoded.prompt_length
        assert list(encoded.ids[:n]) == encode_prompt(example.prompt, stories)
        assert list(encoded.ids[n:-1]) == encode_answer(example.prompt, example.answer, stories)
        assert encoded.labels[:n] == (MASKED,) * n
        assert encoded.ids[0] == stories.bos_token_id
        assert encoded.ids[-1] == encoded.labels[-1] == stories.eos_token_id
        assert stories.decode(encoded.ids, skip_special_tokens=True) == example.text


def test_the_ledger_of_a_real_file_adds_up(stories):
    task = load_task(FOLDER / "llamafactory_demo" / "v1_sft_demo.jsonl", stories)
    encoded, ledger = encode_all(task.train, stories, 512)
    assert ledger.rows == len(task.train) == len(encoded) + len(ledger.rejected)
    assert len(ledger.rejected) > 100
    assert len(ledger.truncated) > 0
    assert max(len(one.ids) for one in encoded) <= 512
