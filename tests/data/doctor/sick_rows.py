"""Rows for the doctor: a set with nothing wrong, and folders of train, dev and test files that are made of it."""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from tunewise.data.config import DataConfig
from tunewise.data.doctor import Examination, Reading, Rows, examine
from tunewise.data.doctor.reading import Encoder, Way
from tunewise.data.encode import Account, Told, encode_all
from tunewise.data.load import load_task

Row = dict[str, Any]
WORDS = [
    a + b for a in ("ba", "ke", "lo", "mi", "nu", "so", "ta", "vi", "ra", "pe") for b in ("den", "rik", "fal", "mos")
]


def sentence(seed: int, n: int = 12) -> str:
    """So many words, unlike for each seed."""
    draw = random.Random(seed)
    return " ".join(draw.choice(WORDS) for _ in range(n))


def labelled(n: int = 40, first: int = 0, labels: Sequence[str] = ("yes", "no")) -> list[Row]:
    """Unlike texts, labels in turn."""
    return [{"text": sentence(first + k), "label": labels[k % len(labels)]} for k in range(n)]


def answered(n: int = 40, first: int = 0) -> list[Row]:
    """Unlike prompts with unlike answers."""
    return [{"prompt": sentence(first + k), "completion": sentence(10_000 + first + k, 5)} for k in range(n)]


def but(rows: Sequence[Row], **changes: dict[int, Any]) -> list[Row]:
    """The rows with some of their fields changed: text={3: "..."} changes the text of row 3."""
    changed = [dict(row) for row in rows]
    for name, values in changes.items():
        for number, value in values.items():
            changed[number][name] = value
    return changed


def of_folder(path: Path, train: Sequence[Row], dev: Sequence[Row] = (), test: Sequence[Row] = (), **data: Any) -> Rows:
    """The rows of a folder with these files; of labelled rows there are others in dev and test where none are given."""
    make = labelled if "label" in train[0] else answered
    parts = {"train": train, "dev": dev or make(10, 500), "test": test or make(10, 600)}
    path.mkdir(exist_ok=True)
    for part, rows in parts.items():
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        (path / f"{part}.jsonl").write_text("".join(f"{line}\n" for line in lines), "utf-8")
    return Rows(load_task(DataConfig(path=str(path), **data)))


def read_by(
    rows: Rows, tokenizer: PreTrainedTokenizerBase, max_length: int = 512, context: int | None = None,
    way: Way = "one sequence", encode: Callable[..., Any] = encode_all,
) -> Rows:  # fmt: skip
    """The same rows, as this tokenizer reads them."""
    own: Encoder = lambda examples, length: encode(examples, tokenizer, length)
    return replace(rows, reading=Reading("base", tokenizer, way, max_length, context).of(rows.task, own))


def codes(rows: Rows) -> dict[str, str]:
    """Code -> severity of what is found."""
    return {finding.code: finding.severity for finding in reversed(examine(rows).findings)}


def only(found: Examination, code: str):
    """The one finding of this code."""
    (finding,) = [each for each in found.findings if each.code == code]
    return finding


def whole(each: Callable[..., Any], told: Told) -> Callable[..., Any]:
    """All rows of an encoder that gives one after the other, and the account of them."""

    def encode(*given: Any) -> Any:
        account = Account(told)
        return list(account.kept(each(*given))), account.ledger()

    return encode
