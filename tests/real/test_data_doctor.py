"""The doctor on five public data sets: every count against a plain computation that shares no code with it.

They lie in ../shared/data or in the folder that TUNEWISE_REAL_DATA names; a checkout without them skips these tests.
"""

import html
import os
import re
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path

import pytest

from tunewise.data.config import DataConfig
from tunewise.data.doctor import Examination, Rows, examine
from tunewise.data.load import load_task
from tunewise.run import examine_data

FOLDER = Path(os.environ.get("TUNEWISE_REAL_DATA", Path(__file__).parents[3] / "shared" / "data"))
pytestmark = pytest.mark.skipif(
    not (FOLDER / "sms_spam").is_dir(), reason=f"no data sets in {FOLDER}; name their folder in TUNEWISE_REAL_DATA"
)

SETS = {
    "sms": "sms_spam/SMSSpamCollection.tsv",
    "banking": "banking77",
    "paws": "pawsx/dev-en.tsv",
    "dolly": "dolly_151/dolly.jsonl",
    "chat": "llamafactory_demo/v1_sft_demo.jsonl",
}
# set -> code -> rows, as looked at by hand and counted below
EXPECTED = {
    "sms": {
        "shared-passages": 55, "leaked-nearly": 33, "duplicates": 415, "near-duplicates": 69, "label-imbalance": 4475,
        "misread-encoding": 35, "markup": 309,
    },
    "banking": {
        "leaked-rows": 1, "shared-passages": 7, "leaked-nearly": 8, "near-duplicates": 5, "label-imbalance": 1778,
    },
    "paws": {"shared-passages": 226, "leaked-nearly": 93, "duplicates": 2, "near-duplicates": 232},
    "dolly": {"unseen-characters": 1},
    "chat": {"duplicates": 1, "near-duplicates": 2, "several-answers": 2, "mixed-scripts": 34, "markup": 1},
}  # fmt: skip


@cache
def rows(name: str) -> Rows:
    return Rows(load_task(FOLDER / SETS[name]))


@cache
def found(name: str) -> Examination:
    return examine(rows(name))


def plain(name: str) -> list[tuple[str, str, str]]:
    """(part, what is asked, answer) of every row."""
    task = rows(name).task
    parts = {"train": task.train, "dev": task.dev, "test": task.test}
    return [
        (part, "\n".join(one.texts) or one.prompt, one.label if one.label is not None else one.answer.strip())
        for part, of in parts.items()
        for one in of
    ]


def squeezed(text: str) -> str:
    return " ".join(text.casefold().split())


def words(text: str) -> list[str]:
    return [word for word in (re.sub(r"[\W_]", "", word) for word in text.lower().split()) if word]


def triples(text: str) -> set[tuple[str, ...]]:
    of = words(text)
    return {tuple(of[k : k + 3]) for k in range(len(of) - 2)}


@pytest.mark.parametrize("name", SETS)
def test_what_is_found_and_in_how_many_rows(name):
    assert {finding.code: finding.n_rows for finding in found(name).findings} == EXPECTED[name]
    assert found(name).is_fit


@pytest.mark.parametrize("name", ["sms", "banking", "paws"])
def test_duplicates_and_leaks_by_a_dictionary(name):
    seen: dict[tuple[str, str], str] = {}
    again = 0
    for part, asked, answer in plain(name):
        again += seen.setdefault((part, squeezed(asked)), answer) == answer and (part, squeezed(asked)) in seen
    n_texts = len({(part, squeezed(asked)) for part, asked, _ in plain(name)})
    assert again - n_texts == EXPECTED[name].get("duplicates", 0)
    train = {squeezed(asked) for part, asked, _ in plain(name) if part == "train"}
    leaked = [asked for part, asked, _ in plain(name) if part != "train" and squeezed(asked) in train]
    assert len(leaked) == EXPECTED[name].get("leaked-rows", 0)


@pytest.mark.parametrize("name", ["sms", "banking", "paws"])
def test_near_duplicates_by_every_pair_that_shares_three_words(name):
    first: dict[str, int] = {}
    texts = [(part, asked) for part, asked, _ in plain(name)]
    kept = [k for k, (_, asked) in enumerate(texts) if first.setdefault(squeezed(asked), k) == k]
    sets = {k: triples(texts[k][1]) for k in kept}
    holders = defaultdict(list)
    for k in kept:
        for each in sets[k]:
            holders[each].append(k)
    shared = Counter((a, b) for of in holders.values() for i, a in enumerate(of) for b in of[i + 1 :])
    near = [(a, b) for (a, b), n in shared.items() if n >= 0.7 * len(sets[a] | sets[b]) - 1e-9]
    assert len({b for a, b in near if texts[a][0] == texts[b][0] == "train"}) == EXPECTED[name]["near-duplicates"]
    across = {b for a, b in near if texts[a][0] == "train" and texts[b][0] != "train"}
    assert len(across) == EXPECTED[name]["leaked-nearly"]


@pytest.mark.parametrize("name", ["sms", "banking", "paws"])
def test_shared_passages_by_sets_of_thirteen_words(name):
    n_rows: Counter = Counter()
    wholes, same = set(), set()
    for part, asked, _ in plain(name):
        of = words(asked)
        if part == "train":
            same.add(squeezed(asked))
            n_rows.update({tuple(of[k : k + 13]) for k in range(len(of) - 12)})
            if len(of) < 13:
                wholes.add(tuple(of))
    assert max(n_rows.values()) <= 10, "none of these sets has commonplaces"
    hit = 0
    for part, asked, _ in plain(name):
        of = words(asked)
        if part != "train" and squeezed(asked) not in same and of:
            long = any(tuple(of[k : k + 13]) in n_rows for k in range(len(of) - 12))
            hit += long if len(of) >= 13 else tuple(of) in wholes
    assert hit == EXPECTED[name]["shared-passages"]


def test_characters_by_looking_at_each():
    texts = [f"{asked} {answer}" for _, asked, answer in plain("sms")]
    assert sum(any("\x80" <= mark <= "\x9f" for mark in text) for text in texts) == EXPECTED["sms"]["misread-encoding"]
    unescaped = sum(html.unescape(text) != text for text in texts)
    assert unescaped >= EXPECTED["sms"]["markup"] >= unescaped - 5
    chats = plain("chat")
    han = [sum("\u4e00" <= mark <= "\u9fff" for mark in answer[:200]) for _, _, answer in chats]
    latin = [sum(mark.isascii() and mark.isalpha() for mark in answer[:200]) for _, _, answer in chats]
    assert sum(h > max(k, 7) for h, k in zip(han, latin, strict=True)) == EXPECTED["chat"]["mixed-scripts"]
    hidden = [sum("\u2060" in text for text in row[1:]) for row in plain("dolly")]
    assert sum(map(bool, hidden)) == EXPECTED["dolly"]["unseen-characters"]


@pytest.mark.parametrize(("name", "rejected"), [("sms", 0), ("dolly", 3), ("chat", 94)])
def test_the_rows_that_tiny_reads_add_up(name, rejected):
    read = examine_data(DataConfig(path=str(FOLDER / SETS[name])))
    assert read.account.proved
    assert len(read.account.rejected) == rejected
    task = rows(name).task
    assert read.account.used["train"] == len(task.train) - rejected
    assert read.lengths is not None
    assert read.lengths.at[-1].trained_share == 1.0
