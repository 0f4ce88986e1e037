"""The data doctor beside reading: `python -m bench.data_doctor`, results in bench/results/data_doctor.json.

100,000 short rows of words with the frequencies of a language, some of them twice, nearly twice, or on both sides of
the split. Reading is `load_task`; tokenising is what a run does in any case, and is told by itself. Processor time,
each the least of the rounds; the target is that the doctor takes no more than three times as long as reading.
"""

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from bench.kept import keep
from tunewise.data.doctor import Reading, Rows, examine
from tunewise.data.encode import encode_all
from tunewise.data.load import load_task
from tunewise.data.task import Task
from tunewise.models.load import load_tokenizer


def write_rows(path: Path, n: int, kind: str) -> None:
    """So many rows of 8 to 30 words; one in twenty repeats an earlier text, one in fifty with a word changed."""
    draw = random.Random(0)
    words = ["".join(draw.choices("aeiostnrdlmkvb", k=draw.randrange(2, 9))) for _ in range(30_000)]
    weights = list(accumulate(1 / (rank + 3) for rank in range(len(words))))
    texts: list[str] = []
    for number in range(n):
        own = draw.choices(words, cum_weights=weights, k=draw.randrange(8, 31))
        if number > 100 and number % 20 == 0:
            own = draw.choice(texts).split()
        if number > 100 and number % 50 == 0:
            own[draw.randrange(len(own))] = draw.choice(words)
        texts.append(" ".join(own))
    answers = ["yes", "no", "maybe"] if kind == "labelled" else texts[1:] + texts[:1]
    names = ("text", "label") if kind == "labelled" else ("prompt", "completion")
    rows = (dict(zip(names, (text, answers[k % len(answers)]))) for k, text in enumerate(texts))
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")


def least(rounds: int, work: Callable[[], Any]) -> tuple[float, Any]:
    """(processor seconds of the fastest round, what came of it)."""
    taken, found = [], None
    for _ in range(rounds):
        start = time.process_time()
        found = work()
        taken.append(time.process_time() - start)
    return min(taken), found


def measure(n: int, kind: str, rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        write_rows(path, n, kind)
        n_bytes = path.stat().st_size
        reading, task = least(rounds, lambda: load_task(path))
    assert isinstance(task, Task)
    doctor, found = least(rounds, lambda: examine(Rows(task)))
    tokenizer = load_tokenizer("tiny")
    base = Reading("tiny", tokenizer, "one sequence", 512, 512)
    encode = lambda examples, longest: encode_all(examples, tokenizer, longest)
    tokenising, read = least(1, lambda: base.of(task, encode))
    whole, _ = least(rounds, lambda: examine(replace(Rows(task), reading=replace(read))))
    assert found.account.proved, found.account
    return {
        "kind": kind,
        "rows": n,
        "megabytes": round(n_bytes / 1e6, 1),
        "reading": round(reading, 3),
        "doctor": round(doctor, 3),
        "tokenising": round(tokenising, 3),
        "doctor_with_tokens": round(whole, 3),
        "ratio": round(whole / reading, 3),
        "findings": {each.code: each.n_rows for each in found.findings},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    found = [measure(options.rows, kind, options.rounds) for kind in ("labelled", "answered")]
    keep("data_doctor", found)
    for each in found:
        print(json.dumps(each))
        assert each["ratio"] <= 3, each


if __name__ == "__main__":
    main()
