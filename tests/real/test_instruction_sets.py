"""Instruction sets built from public data sets, each by its cluster: how many rows, and one row of each as it is asked.

They lie in ../shared/data or in the folder that TUNEWISE_REAL_DATA names; a checkout without them skips these tests.
"""

import json
import os
from pathlib import Path

import pytest

from tunewise.data.instruct.clusters import read_cluster
from tunewise.data.instruct.sets import build_instructions
from tunewise.data.load import load_task

FOLDER = Path(os.environ.get("TUNEWISE_REAL_DATA", Path(__file__).parents[3] / "shared" / "data"))
pytestmark = pytest.mark.skipif(
    not (FOLDER / "sms_spam").is_dir(), reason=f"no data sets in {FOLDER}; name their folder in TUNEWISE_REAL_DATA"
)

LIMIT = 200

# folder; columns and words; templates as named; cluster; rows of train, dev, test; kind when it is read again
SETS = {
    "banking77": ({"path": "banking77"}, "intent", "intent", (1778, 222, 770), "multiple_choice"),
    "sms_spam": (
        {"path": "sms_spam/SMSSpamCollection.tsv", "words": {"ham": "no spam"}},
        "category",
        "category",
        (4475, 554, 545),
        "multiple_choice",
    ),
    "pawsx": ({"path": "pawsx/dev-en.tsv"}, "paraphrase", "paraphrase", (1600, 200, 200), "multiple_choice"),
    "copa_en": ({"path": "copa_en"}, "auto", "commonsense", (356, 100, 44), "multiple_choice"),
    "xquad": ({"path": "xquad/xquad.en.json"}, "auto", "extractive_qa", (949, 122, 119), "generation"),
    "gsm8k": ({"path": "gsm8k/train_300.jsonl"}, "auto", "arithmetic", (240, 30, 30), "generation"),
    "scitldr": (
        {"path": "scitldr/train_300.jsonl", "prompt": "source", "completion": "target"},
        "summarisation",
        "summarisation",
        (240, 30, 30),
        "generation",
    ),
    "ntrex": (
        {"path": "", "prompt": "english", "completion": "bokmål"},
        "auto",
        "translation",
        (399, 50, 51),
        "generation",
    ),
    "mmlu": (
        {"path": "mmlu/dev/anatomy.csv"},
        "multiple_choice_qa",
        "multiple_choice_qa",
        (3, 1, 1),
        "multiple_choice",
    ),
    "blimp": ({"path": "blimp/adjunct_island.jsonl"}, "auto", "grammaticality", (120, 15, 15), "multiple_choice"),
}

# folder -> (id, template, prompt, completion) of one test row
ROWS = {
    "banking77": (
        "test:150", "cue",
        "Message: I need to cancel a purchase I made.\n"
        "Intent:",
        "request refund",
    ),
    "sms_spam": (
        "SMSSpamCollection:3466", "kind-of-text",
        "What kind of text is this?\n"
        "\n"
        "\"My phone\"\n"
        "Options:\n"
        "no spam\n"
        "spam\n",
        "no spam",
    ),
    "pawsx": (
        "dev-en:392", "same-meaning",
        "Two were flown in 1934 , but there were no more produced .\n"
        "Two were produced in 1934 , but no more were flown .\n"
        "\n"
        "Do these two mean the same?\n"
        "Possible answers:\n"
        "no\n"
        "yes\n",
        "no",
    ),
    "copa_en": (
        "train:392", "best-link",
        "Event: The swimmer won the race.\n"
        "A. She received a gold medal.\n"
        "B. Her team lost the meet.\n"
        "Letter of its effect:",
        "A",
    ),
    "xquad": (
        "56f8ca289b226e1400dd1007", "question-first",
        "What was later discovered written by Luther?\n"
        "\n"
        "The answer is in this passage:\n"
        "A piece of paper was later found on which Luther had written his last statement. The statement "
        "was in Latin, apart from \"We are beggars,\" which was in German.\n",
        "his last statement",
    ),
    "gsm8k": (
        "train_300:56", "final-answer",
        "There are 25 roses in a garden. There are 40 tulips. There are 35 daisies. What percentage of "
        "flowers are not roses?\n"
        "\n"
        "Final answer:",
        "75",
    ),
    "scitldr": (
        "train_300:117", "few-words",
        "Text: This work introduces a simple network for producing character aware word embeddings. "
        "Position agnostic and position aware character embeddings are combined to produce an embedding "
        "vector for each word. The learned word representations are shown to be very sparse and "
        "facilitate improved results on language modeling tasks, despite using markedly fewer "
        "parameters, and without the need to apply dropout. A final experiment suggests that weight "
        "sharing contributes to sparsity, increases performance, and prevents overfitting.\n"
        "\n"
        "The same in few words:",
        "A fully connected architecture is used to produce word embeddings from character "
        "representations, outperforms traditional embeddings and provides insight into sparsity and "
        "dropout.",
    ),
    "ntrex": (
        "ntrex:424", "cue",
        "English: It Is Very Bad.\n"
        "Norwegian Bokmål:",
        "Det er helt grusomt.",
    ),
    "mmlu": (
        "anatomy:4", "student-asks",
        "A student cannot decide between these answers:\n"
        "A. excess overbite of the upper lateral incisors.\n"
        "B. negative overjet of the upper central incisors.\n"
        "C. excess overjet of the upper lateral incisors.\n"
        "D. excess overjet of the upper central incisors.\n"
        "\n"
        "The question was: In Angle's Class II Div 2 occlusion there is\n"
        "Name the letter of the right one.\n",
        "C",
    ),
    "blimp": (
        "adjunct_island:56", "well-formed",
        "\"Who had Susan insulted Heather without boring?\"\n"
        "\n"
        "Well formed or ill formed?\n",
        "ill formed",
    ),
}  # fmt: skip


def plan(name, folder):
    fields, templates, *_ = SETS[name]
    path = FOLDER / fields["path"] if name != "ntrex" else aligned(folder)
    source = {"data": {**fields, "path": str(path)}, "templates": templates, "name": name}
    return {"tasks": [source], "shots": 2, "limit": LIMIT}


def aligned(folder):
    """Lines of two languages side by side, their columns named by the languages."""
    sides = [(FOLDER / "ntrex" / file).read_text("utf-8").splitlines() for file in ("src.eng.txt", "ref.nob.txt")]
    rows = [{"english": one, "bokmål": other} for one, other in zip(*sides, strict=True)]
    (folder / "ntrex.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return folder / "ntrex.jsonl"


@pytest.mark.parametrize("name", SETS)
def test_a_public_set_becomes_instructions(name, tmp_path):
    _, _, cluster, whole, kind = SETS[name]
    sizes = tuple(min(size, LIMIT) for size in whole)
    (built,) = build_instructions(plan(name, tmp_path), tmp_path / "set")
    assert (built.cluster, not built.rejected) == (cluster, True)
    assert tuple(len(rows) for rows in built.parts.values()) == sizes
    used = {each.template for each in built.parts["train"]}
    fitting = len(read_cluster(cluster).templates)
    assert len(used) >= min(10, sizes[0]) or fitting < 10
    task = load_task(tmp_path / "set")
    assert task.kind == kind
    assert (len(task.train), len(task.dev), len(task.test)) == sizes
    identity, template, prompt, completion = ROWS[name]
    (row,) = [each for each in built.parts["test"] if each.record.id == identity]
    assert (row.template, row.instruction.completion) == (template, completion)
    assert row.instruction.prompt == prompt
