"""What the embedded base can do on its tasks: `python -m bench.tiny_quality` writes results/tiny_quality.json.

Zero-shot, 8-shot and LoRA on 500 examples, over seeds that draw the demonstrations, the initialisation and the order
of the rows. The table of docs/tiny.md is written from the results.
"""

import argparse
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from bench.page import DOCS, put
from tunewise.comparison import compare
from tunewise.files import read_json, write_json
from tunewise.run import evaluate
from tunewise.stats import mean_interval

RESULTS = Path(__file__).parent / "results" / "tiny_quality.json"

TASKS = ("sentiment", "entailment", "translation", "headline", "instruction")
OUT_OF_DOMAIN = "entailment_ood"
CHANCE = {"sentiment": 50.0, "entailment": 50.0, OUT_OF_DOMAIN: 50.0}
TRAIN = {"epochs": 6.0, "batch_size": 16, "learning_rate": 2e-3, "evaluate_every": None}
ZERO, FEW, TUNED = "zero-shot", "8-shot", "LoRA"
WAYS: dict[str, dict[str, Any]] = {
    ZERO: {"method": {"name": "frozen"}},
    FEW: {"method": {"name": "frozen", "shots": 8}},
    TUNED: {"method": {"name": "lora", "rank": 8, "roles": ["all"]}, "train": TRAIN},
}

Cell = dict[str, Any]  # mean, half_width (None for a single value), n


def measure(task: str, model: str, seeds: Sequence[int], out: Path) -> dict[str, Any]:
    """The main metric of one task under every way, as intervals over the seeds, and what LoRA forgot."""
    zero = {ZERO: WAYS[ZERO]}  # no seed changes it
    rest = {way: fields for way, fields in WAYS.items() if way != ZERO}
    rows = [
        *compare(f"tiny:{task}", model=model, methods=zero, seeds=seeds[:1], out=out / "zero")["rows"],
        *compare(f"tiny:{task}", model=model, methods=rest, seeds=seeds, out=out)["rows"],
    ]
    metric = next(iter(rows[0]["test"]))
    return {
        "metric": metric,
        "chance": CHANCE.get(task),
        **{row["arm"]: row["test"][metric] for row in rows},
        "forgetting": rows[-1]["forgetting"],
        "train_seconds": rows[-1]["train_seconds"],
        "failed_proofs": sorted({name for row in rows for name in row["failed_proofs"]}),
    }


def measure_out_of_domain(model: str, out: Path) -> dict[str, Any]:
    """The entailment adapters where word overlap misleads; there are no demonstrations of its own."""
    data = f"tiny:{OUT_OF_DOMAIN}"
    adapters = sorted((out / "tiny-entailment").glob("lora-*/seed*"))
    found = [evaluate(folder, model=model, data=data)["metrics"]["accuracy"] for folder in adapters]
    bare = evaluate(model=model, data=data)["metrics"]["accuracy"]
    return {"metric": "accuracy", "chance": CHANCE[OUT_OF_DOMAIN], ZERO: _cell([bare]), TUNED: _cell(found)}


def _cell(values: Sequence[float]) -> Cell:
    found = mean_interval(values)
    return {"mean": found.mean, "half_width": found.half_width if found.n > 1 else None, "n": found.n}


def _written(cell: Cell | None, digits: int = 1) -> str:
    if cell is None:
        return "–"
    half_width = "" if cell["half_width"] is None else f" ± {cell['half_width']:.{digits}f}"
    return f"{cell['mean']:.{digits}f}{half_width}"


def table(results: dict[str, Any]) -> str:
    """The results as the markdown table of docs/tiny.md."""
    lines = [
        f"| task | metric | chance | {ZERO} | {FEW} | {TUNED}, 500 examples | retention: nats per token |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for task, found in results["tasks"].items():
        chance = "–" if found["chance"] is None else f"{found['chance']:.0f}"
        cells = [_written(found.get(way)) for way in WAYS]
        change = found.get("forgetting")
        forgetting = "–" if change is None else f"+{_written(change, 3)}"
        lines.append(f"| {' | '.join((task, found['metric'], chance, *cells, forgetting))} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tasks", nargs="*", default=TASKS, choices=TASKS)
    parser.add_argument("--out", type=Path, default=Path("runs/tiny-quality"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--page-only", action="store_true", help="write the table from the results that are there")
    arguments = parser.parse_args()
    if not arguments.page_only:
        begun, seeds = time.perf_counter(), range(arguments.seeds)
        tasks: dict[str, Any] = {}
        for task in arguments.tasks:
            tasks[task] = measure(task, arguments.model, seeds, arguments.out)
            if task == "entailment":
                tasks[OUT_OF_DOMAIN] = measure_out_of_domain(arguments.model, arguments.out)
            print(table({"tasks": {task: tasks[task]}}).splitlines()[-1], flush=True)
        environment = {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
            "threads": torch.get_num_threads(),
            "seconds": round(time.perf_counter() - begun),
        }
        write_json(arguments.results, {"tasks": tasks, "seeds": arguments.seeds, "ways": WAYS, "machine": environment})
    if arguments.results == RESULTS:
        put(DOCS / "tiny.md", "quality", table(read_json(RESULTS)))


if __name__ == "__main__":
    main()
