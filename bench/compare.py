"""A whole comparison beside the same loop over peft + Trainer: `python -m bench.compare`, bench/results/compare.json.

Seven ways of training a MiniLM-shaped classifier (c), and eight of training a small Llama that answers in label words
(a) beside eight demonstrations, each with several seeds. Ours is `tunewise.compare` as a user calls it, on a folder of
weights and one of rows, and the page of its report: everything from loading the base to the last proof, two runs at
once where it takes two processes of one thread by itself. The peer is `bench.peer_script`, in float32, as Trainer is by
default, on two threads. Both take the same rows in the same batches with the same
learning rates from the same weights, keep the last state, and answer the same dev and test rows. Ours does more: it
proves each run (the longest batch fits, a save succeeds, what is off is the base, what is folded is the same, what is
reloaded in a fresh process is the same), saves it, and on (a) measures what it forgot of 16 texts; the time without
these is told as well, as the runs' records have it. The sides take turns, round by round, the peer in a process of its
own; the figure is the median of the rounds' ratios of wall time.

Every loss of every step must agree with the peer's, and every log-probability of a label for a test row at the end, or
the benchmark fails: all methods take the same start, which the peer reads from what ours saves.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

import tunewise
from bench import peer_script
from bench.beside import SERVE, Side, serve
from bench.kept import keep_again
from bench.on_disk import write_base, write_documents, write_rows
from bench.peer_script import Found, Start, prompt, start_of
from bench.shapes import CLASSES, SHAPES
from tunewise.data.load import load_task
from tunewise.data.splits import few_shot
from tunewise.data.task import Task
from tunewise.engine.backend import backend
from tunewise.methods import parse_method
from tunewise.models.heads import TaskHead
from tunewise.models.load import load_base
from tunewise.models.precision import choose_dtype
from tunewise.report.folders import Run, read_run
from tunewise.report.page import write_page
from tunewise.training.config import TrainConfig

FULL_RATE, RATE = 1e-4, 1e-3
SAME = {"float32": (1e-3, 1e-2), "bfloat16": (1e-1, 5e-1)}  # a loss, a log-probability
N_DOCUMENTS = 16
ARMS: dict[str, dict[str, dict[str, Any]]] = {
    "c": {
        "head": {"name": "head"},
        "top 2 layers": {"name": "top_layers", "layers": 2},
        "BitFit": {"name": "bitfit"},
        "LoRA": {"name": "lora", "rank": 8},
        "bottleneck": {"name": "bottleneck"},
        "IA3": {"name": "ia3"},
        "full": {"name": "full"},
    },
    "a": {
        "top 2 layers": {"name": "top_layers", "layers": 2},
        "BitFit": {"name": "bitfit", "add": True},
        "LoRA": {"name": "lora", "rank": 8},
        "bottleneck": {"name": "bottleneck"},
        "IA3": {"name": "ia3"},
        "prompt tuning": {"name": "prompt_tuning", "virtual_tokens": 20},
        "prefix tuning": {"name": "prefix_tuning", "virtual_tokens": 20},
        "full": {"name": "full"},
        "8 demonstrations": {"name": "frozen", "shots": 8},
    },
}
ROWS = {"c": 256, "a": 64}  # 16 steps a run
BEYOND = ("retention", "proofs", "reload", "page")  # what the peer does nothing of
TOLD_APART = ("loss", "score", "other", "workers")
Runs = dict[tuple[str, int], Found]


@dataclass(frozen=True)
class Work:
    """One comparison, and where its base and rows lie."""

    shape: str
    place: Path
    n_rows: int
    n_seeds: int
    epochs: int

    @property
    def is_classifier(self) -> bool:
        return SHAPES[self.shape].kind == "classifier"

    @property
    def methods(self) -> dict[str, dict[str, Any]]:
        return ARMS[self.shape]

    def config(self, arm: str) -> TrainConfig:
        size = SHAPES[self.shape].batch_size
        assert self.n_rows % size == 0, f"--rows should be a multiple of {size}, that both sides have the same batches"
        rate = FULL_RATE if self.methods[arm]["name"] in ("full", "top_layers") else RATE
        return TrainConfig(
            steps=self.epochs * self.n_rows // size, batch_size=size, learning_rate=rate, schedule="constant",
            warmup=0.0, evaluate_every=None,
        )  # fmt: skip

    def part(self, name: str) -> list[dict[str, str]]:
        return [json.loads(line) for line in (self.place / "task" / f"{name}.jsonl").read_text().splitlines()]


def prepare(work: Work) -> None:
    """Write the base and the rows."""
    write_base(work.shape, work.place / "base")
    write_rows(work.shape, work.place / "task", (work.n_rows, work.n_rows // 4, work.n_rows))
    if not work.is_classifier:
        write_documents(work.shape, work.place / "documents", N_DOCUMENTS)


def starts_of(work: Work) -> dict[tuple[str, int], Start]:
    """How each run begins."""
    head = TaskHead("classes", CLASSES) if work.is_classifier else None
    base, task = load_base(str(work.place / "base"), "float32", head=head), task_of(work)
    starts = {}
    for seed in range(work.n_seeds):
        for arm, method in work.methods.items():
            parsed = parse_method(method)
            if method["name"] == "frozen":
                shown = few_shot(task.train, method["shots"], seed)
                starts[arm, seed] = Start(shown="".join(f"{one.prompt}{one.answer}\n\n" for one in shown))
            else:
                starts[arm, seed] = start_of(base, parsed, seed, work.place / "starts" / arm / str(seed))
    return starts


def task_of(work: Work) -> Task:
    """The rows as ours reads them; what a prompt is must be the same on both sides."""
    task = load_task(work.place / "task")
    assert work.is_classifier or [one.prompt for one in task.test] == [prompt(row) for row in work.part("test")]
    return task


def ours(work: Work, dtype: str, out: Path) -> dict[str, list[Path]]:
    """The comparison by `tunewise.compare`: the run folders of each arm, below out/runs."""
    arms = {
        arm: {"method": method, "train": work.config(arm).model_dump(mode="json")}
        for arm, method in work.methods.items()
    }
    overrides = {"dtype": dtype} | ({} if work.is_classifier else {"retention": str(work.place / "documents")})
    folder, seeds = out / "runs", list(range(work.n_seeds))
    found = tunewise.compare(
        str(work.place / "task"), model=str(work.place / "base"), methods=arms, seeds=seeds, out=folder,
        overrides=overrides,
    )  # fmt: skip
    return {arm["label"]: [folder / arm["folder"] / f"seed{seed}" for seed in seeds] for arm in found["arms"]}


def theirs(work: Work, starts: dict[tuple[str, int], Start]) -> Runs:
    """The comparison by peft + Trainer."""
    return peer_script.compare(
        work.place / "base", {part: work.part(part) for part in ("train", "dev", "test")}, CLASSES, starts,
        {arm: work.config(arm) for arm in work.methods}, is_classifier=work.is_classifier,
    )  # fmt: skip


def answer(question: dict[str, Any]) -> list[Any]:
    """What the peer's process is asked: the seconds of the whole comparison, and (arm, seed, found) of each run."""
    work = Work(**{**question, "place": Path(question["place"])})
    starts = starts_of(work)
    start = time.perf_counter()
    runs = theirs(work, starts)
    return [time.perf_counter() - start, [[*run, vars(found)] for run, found in runs.items()]]


def read_runs(folders: dict[str, list[Path]]) -> tuple[Runs, list[Run]]:
    """What our runs gave, and the runs."""
    found, runs = {}, []
    for arm, of_arm in folders.items():
        for seed, folder in enumerate(of_arm):
            run = read_run(folder)
            failed = [name for name, proof in run.metrics["proofs"].items() if not proof["passed"]]
            assert not failed, f"{arm}, seed {seed}: {failed}"
            scores = [[row["scores"][label] for label in CLASSES] for row in run.predictions()]
            found[arm, seed] = Found([step["loss"] for step in run.log], scores, run.metrics["train_seconds"])
            runs.append(run)
    return found, runs


def differences(ours: Runs, theirs: Runs) -> tuple[float, float, int]:
    """The largest of a step's losses and of a label's log-probabilities, and how many rows are answered otherwise."""
    assert ours.keys() == theirs.keys(), (ours.keys(), theirs.keys())
    losses, scores, n_other = [0.0], [0.0], 0
    for run, own in ours.items():
        peer = theirs[run]
        losses += [abs(a - b) for a, b in zip(own.losses, peer.losses, strict=True)]
        for one, other in zip(own.scores, peer.scores, strict=True):
            scores += [abs(a - b) for a, b in zip(one, other, strict=True)]
            n_other += one.index(max(one)) != other.index(max(other))
    return max(losses), max(scores), n_other


def measure(work: Work, dtypes: Sequence[str], n_rounds: int) -> list[dict[str, Any]]:
    """One result a dtype of ours."""
    prepare(work)
    clock = time.perf_counter
    rounds: dict[str, list[dict[str, Any]]] = {dtype: [] for dtype in dtypes}
    for _ in range(n_rounds):
        with Side("bench.compare") as them:
            peer_seconds, told_runs = them.ask({**vars(work), "place": str(work.place)})
        peer_runs = {(arm, seed): Found(**found) for arm, seed, found in told_runs}
        for dtype in dtypes:
            with tempfile.TemporaryDirectory() as out:
                start = clock()
                folders = ours(work, dtype, Path(out))
                compared = clock()
                write_page(Path(out) / "runs", Path(out) / "report.html")
                seconds, page_seconds = clock() - start, clock() - compared
                found, runs = read_runs(folders)
            loss, score, n_other = differences(found, peer_runs)
            assert loss < SAME[dtype][0], f"{work.shape}, {dtype}: losses differ by {loss}"
            assert score < SAME[dtype][1], f"{work.shape}, {dtype}: log-probabilities differ by {score}"
            told = {
                "peer": peer_seconds,
                "ours": seconds,
                "peer_training": sum(run.seconds for run in peer_runs.values()),
            }
            # how many runs went at once: each had its share of the threads
            n_at_once = torch.get_num_threads() // runs[0].environment["threads"]
            told |= parts_of([run.metrics for run in runs], n_at_once) | {"page": page_seconds}
            rounds[dtype].append(told | {"loss": loss, "score": score, "other": n_other, "workers": n_at_once})
    return [summary(work, dtype, found) for dtype, found in rounds.items()]


def parts_of(records: Sequence[dict[str, Any]], n_at_once: int) -> dict[str, float]:
    """Where our wall time went, as the runs' records have it; what is left is files, reading, loading and starting.

    What `n_at_once` runs took side by side is told as their share of the time; the reload is one process behind all.
    """
    spent = {part: sum(run["spent"].get(part, 0.0) for run in records) for part in ("evaluation", *BEYOND[:-1])}
    spent["training"] = sum(run["train_seconds"] for run in records)
    return {part: seconds if part == "reload" else seconds / n_at_once for part, seconds in spent.items()}


def summary(work: Work, dtype: str, rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What is kept of the rounds of one dtype."""

    def middle(name: str) -> float:
        return round(statistics.median(one[name] for one in rounds), 2)

    ratios = [one["peer"] / one["ours"] for one in rounds]
    alike = [one["peer"] / (one["ours"] - sum(one[part] for part in BEYOND)) for one in rounds]
    return {
        "shape": work.shape, "dtype": dtype, "methods": list(work.methods), "seeds": work.n_seeds, "rows": work.n_rows,
        "epochs": work.epochs, "steps": work.config(next(iter(work.methods))).steps, "workers": rounds[0]["workers"],
        "ratio": round(statistics.median(ratios), 2), "ratios": [round(ratio, 2) for ratio in ratios],
        "ratio_without_what_is_beyond": round(statistics.median(alike), 2),
        "seconds": {name: middle(name) for name in rounds[0] if name not in TOLD_APART},
        "largest_loss_difference": max(one["loss"] for one in rounds),
        "largest_score_difference": max(one["score"] for one in rounds),
        "answered_otherwise": max(one["other"] for one in rounds),
        "answers": work.n_rows * len(work.methods) * work.n_seeds,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="*", default=list(ARMS))
    parser.add_argument("--dtypes", nargs="*", default=list(SAME))
    parser.add_argument("--rows", type=int, help="for training and for the test; instead of those of each shape")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--dry", action="store_true", help="print and do not keep")
    parser.add_argument(SERVE, action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if options.serve:
        serve(answer)
        return
    backend()  # the machine is measured, and kernels are built, before anything is timed
    native = choose_dtype("auto", torch.device("cpu")) is torch.bfloat16
    dtypes = [dtype for dtype in options.dtypes if dtype != "bfloat16" or native]
    if dtypes != options.dtypes:
        print("bfloat16: left out, this machine multiplies it slower than float32")
    for shape in options.shapes:
        with tempfile.TemporaryDirectory() as place:
            work = Work(shape, Path(place), options.rows or ROWS[shape], options.seeds, options.epochs)
            new = measure(work, dtypes, options.rounds)
        for one in new:
            print(json.dumps(one), flush=True)
            if not options.dry:
                keep_again("compare", {"shape": shape, "dtype": one["dtype"], "rows": one["rows"]}, one)


if __name__ == "__main__":
    main()
