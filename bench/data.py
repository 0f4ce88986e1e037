"""Rows to packed batches, beside `datasets.map` and trl: `python -m bench.data`, results in bench/results/data.json.

Each side is in a process of its own and is asked round after round, one after the other; a ratio is the median of the
rounds' ratios. All read the same short rows (a prompt and an answer, words of tiny:sentiment) with the
tokenizer of `tiny`, on one thread, and none may take what an earlier round has left.

    tokenizer  tokenizer([prompt + answer, ...]), one call: what the others are measured by
    ours       encode_rows, with nothing kept, and a packed batch of every 32 rows
    again      the same once the token store holds the rows
    map        a batched datasets.map that cuts prompts, and prompts with answers, then trl's pack_dataset
    trl        SFTTrainer's own preparation of prompts and completions with packing=True, as it comes

The last two need trl and datasets, and are left out without them. The ids, and what is trained of them, must be the
same in ours, again, map and trl, row by row, or the benchmark fails.
"""

import argparse
import hashlib
import json
import logging
import os
import random
import statistics
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import cache
from importlib.util import find_spec
from typing import Any

from bench.beside import SERVE, Side, serve
from bench.kept import keep, version_of
from tunewise.data.examples import Example, Part
from tunewise.data.load import load_task
from tunewise.engine.objectives import encode_rows
from tunewise.engine.packing import pack
from tunewise.models.load import load_base

SIDES = ("tokenizer", "ours", "again", "map", "trl")
BATCH, PACKED = 32, 1024
CLOCK = time.process_time if os.environ.get("BENCH_CLOCK") == "processor" else time.perf_counter
Row = tuple[Sequence[int], Sequence[bool]]
"""The ids of a row, and which of them are trained."""


@cache
def rows(n: int) -> list[tuple[str, str]]:
    """Prompts of 5 to 20 words, each with an answer of one."""
    rng = random.Random(0)
    examples = load_task("tiny:sentiment").train
    words = [word for example in examples for word in " ".join(example.texts).split()]
    answers = sorted({example.answer for example in examples})
    texts = (" ".join(rng.choices(words, k=rng.randint(5, 20))) for _ in range(n))
    return [(f"{text}\nLabel:", rng.choice(answers)) for text in texts]


@cache
def base() -> Any:
    return load_base("tiny")


def tokenizer(n: int) -> tuple[float, list[Row]]:
    """The floor."""
    told = [prompt + answer for prompt, answer in rows(n)]
    start = CLOCK()
    base().tokenizer(told, add_special_tokens=False)
    return CLOCK() - start, []


def ours(n: int) -> tuple[float, list[Row]]:
    """Examples -> rows -> packed batches."""
    task = load_task("tiny:sentiment")
    examples = [
        Example(f"row:{line}", (Part(prompt, False), Part(answer, True)), line=line)
        for line, (prompt, answer) in enumerate(rows(n), start=1)
    ]
    start = CLOCK()
    found, _ = encode_rows(base(), task, examples, PACKED)
    for first in range(0, len(found), BATCH):
        pack(found[first : first + BATCH], 0)
    return CLOCK() - start, [(row.ids, [label != -100 for label in row.labels]) for row in found]


def mapped(n: int) -> tuple[float, list[Row]]:
    """What a careful script does."""
    from datasets import Dataset, disable_caching
    from trl import pack_dataset

    disable_caching()
    tokenizer = base().tokenizer
    columns = {"prompt": [prompt for prompt, _ in rows(n)], "completion": [answer for _, answer in rows(n)]}

    def cut(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        wholes = [a + b + tokenizer.eos_token for a, b in zip(batch["prompt"], batch["completion"], strict=True)]
        prompts = tokenizer(batch["prompt"], add_special_tokens=False)["input_ids"]
        ids = tokenizer(wholes, add_special_tokens=False)["input_ids"]
        masks = [[0] * len(a) + [1] * (len(b) - len(a)) for a, b in zip(prompts, ids, strict=True)]
        return {"input_ids": ids, "completion_mask": masks}

    dataset = Dataset.from_dict(columns)
    start = CLOCK()
    made = dataset.map(cut, batched=True, remove_columns=["prompt", "completion"])
    packed = pack_dataset(made, PACKED)
    seconds = CLOCK() - start
    assert sum(map(len, packed["input_ids"])) == sum(map(len, made["input_ids"]))
    return seconds, list(zip(made["input_ids"], made["completion_mask"], strict=True))


def trl(n: int) -> tuple[float, list[Row]]:
    """What SFTTrainer does before its first step."""
    from datasets import Dataset, disable_caching
    from trl import SFTConfig, SFTTrainer

    disable_caching()
    columns = {"prompt": [prompt for prompt, _ in rows(n)], "completion": [answer for _, answer in rows(n)]}
    with tempfile.TemporaryDirectory() as folder:
        arguments = SFTConfig(
            output_dir=folder, packing=True, max_length=PACKED, completion_only_loss=True, report_to=[], use_cpu=True,
            bf16=False, gradient_checkpointing=False,
        )  # fmt: skip
        start = CLOCK()
        trainer = SFTTrainer(
            base().model, arguments, train_dataset=Dataset.from_dict(columns), processing_class=base().tokenizer
        )
        seconds = CLOCK() - start
    made: list[Row] = []
    for one in trainer.train_dataset:
        stop = 0
        for length in one["seq_lengths"]:
            start, stop = stop, stop + length
            made.append((one["input_ids"][start:stop], [label != -100 for label in one["labels"][start:stop]]))
    return seconds, made


WAYS: dict[str, Callable[[int], tuple[float, list[Row]]]] = {
    "tokenizer": tokenizer, "ours": ours, "again": ours, "map": mapped, "trl": trl,
}  # fmt: skip


def digest_of(made: Iterable[Row]) -> str:
    """Of all rows, in whichever order; what is behind a prompt is trained."""
    found = sorted(array("i", ids).tobytes() + bytes(map(bool, is_trained)) for ids, is_trained in made)
    return hashlib.sha256(b"\0".join(found)).hexdigest()


def answer(question: dict[str, Any]) -> dict[str, Any]:
    side = question["side"]
    seconds, made = WAYS[side](question["n"])
    return {"seconds": seconds, "rows": len(made), "digest": digest_of(made) if made else ""}


def measure(n: int, rounds: int, names: Sequence[str], clock: str) -> dict[str, Any]:
    """Each side `rounds` times in turn, after a smaller round that warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in names}
    with ExitStack() as stack, tempfile.TemporaryDirectory() as cache_folder:
        os.environ |= {
            "BENCH_CLOCK": clock,
            "TOKENIZERS_PARALLELISM": "false",
            "RAYON_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
        }
        sides = {}
        for name in names:
            kept = {"TUNEWISE_CACHE": cache_folder} if name == "again" else {"TUNEWISE_TOKENS_GB": "0"}
            before = dict(os.environ)
            os.environ |= kept
            sides[name] = stack.enter_context(Side("bench.data"))
            os.environ.clear()
            os.environ |= before
        for size in [max(1, n // 20), *(["again"] if "again" in names else []), *[n] * rounds]:
            if size == "again":
                sides["again"].ask({"side": "again", "n": n})  # which fills the store
                continue
            told = {name: side.ask({"side": name, "n": size}) for name, side in sides.items()}
            same = {(one["rows"], one["digest"]) for one in told.values() if one["digest"]}
            assert len(same) == 1, f"not the same ids: {told}"
            for name, one in told.items():
                seconds[name] += [one["seconds"]] if size == n else []
            print(json.dumps({name: round(one["seconds"], 2) for name, one in told.items()}), flush=True)
    of_tokenizer = {name: [a / b for a, b in zip(seconds[name], seconds["tokenizer"])] for name in names}
    of_ours = {name: [a / b for a, b in zip(seconds[name], seconds["ours"])] for name in names}
    return {
        "rows": n,
        "rounds": rounds,
        "clock": clock,
        "seconds": {name: round(statistics.median(found), 2) for name, found in seconds.items()},
        "times_the_tokenizer": {name: round(statistics.median(found), 2) for name, found in of_tokenizer.items()},
        "times_ours": {name: round(statistics.median(found), 2) for name, found in of_ours.items()},
        "packages": {name: version_of(name) for name in ("tokenizers", "datasets", "trl")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    there = SIDES if find_spec("trl") else SIDES[:3]
    parser.add_argument("--sides", nargs="*", default=there, choices=SIDES, help="tokenizer and ours, and others")
    parser.add_argument("--processor", action="store_true", help="compare processor time instead of wall time")
    parser.add_argument("--dry", action="store_true", help="print and do not keep")
    options = parser.parse_args()
    found = measure(options.rows, options.rounds, options.sides, "processor" if options.processor else "wall")
    print(json.dumps(found, indent=2))
    if not options.dry:
        keep("data", [found])


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    if SERVE in sys.argv:
        serve(answer)
    else:
        main()
