"""All methods on three tasks: `python -m bench.methods_table --out FOLDER` writes results/methods_table.json.

Each method gets three learning rates, its own and ten and a hundred times that, one seed each, and the best on dev is
taken. These runs are given folders without the test rows. Then come the seeds, on the real test rows, once. A command
that was stopped goes on from its run folders. The tables of docs/methods-table.md are written from the results.
"""

import argparse
import json
import math
import os
import platform
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from bench.page import DOCS, put
from tunewise.comparison import compare
from tunewise.config import dump_yaml
from tunewise.data.config import DataConfig
from tunewise.data.examples import Example
from tunewise.data.load import load_task
from tunewise.data.task import Task
from tunewise.errors import UserError
from tunewise.files import read_json, write_json, write_text
from tunewise.methods import METHODS, parse_method
from tunewise.methods.attach import count
from tunewise.models.load import Base, load_base
from tunewise.run import build_recipe, run
from tunewise.stats import mean_interval
from tunewise.training.progress import Silent

RESULTS = Path(__file__).parent / "results" / "methods_table.json"
PUBLIC_DATA = Path(os.environ.get("TUNEWISE_REAL_DATA", Path(__file__).parents[2] / "shared" / "data"))

BASELINES: dict[str, dict[str, Any]] = {"zero-shot": {"shots": 0}, "8-shot": {"shots": 8}}
FIELDS: dict[str, dict[str, Any]] = {  # where a method's own defaults cannot act on these bases, or compare badly
    "bitfit": {"add": True},
    "multitask_prompt": {"virtual_tokens": 20},
}
MULTIPLES = (1.0, 10.0, 100.0)
HIGHEST_RATE = 3.0
HIGHEST_RATES = {"intrinsic": 0.1}  # every one of its numbers moves every weight
N_STAND_INS = 10  # rows of dev in the place of test, which a run has to have, while the rate is chosen or time taken
FIRST_TIMED, LAST_TIMED = 3, 13  # steps of which the processor time is taken
TRAIN = {"batch_size": 8, "evaluate_every": None}
COMMON = {"dtype": "float32", "retention": None}


@dataclass(frozen=True)
class Work:
    """One task on one base: where its data and the base are, how many rows are trained for how long."""

    task: str
    base: str
    rows: int
    epochs: float
    classes: int | None = None
    """Only the classes with the most rows of the training file (of equals the first by name); None takes all."""

    @property
    def model(self) -> str:
        return "tiny" if self.base == "tiny" else str(PUBLIC_DATA / "model_stories260k" / "hf")


WORKS = {
    "sentiment": Work("tiny:sentiment", "tiny", rows=240, epochs=3),
    "entailment": Work("tiny:entailment", "tiny", rows=400, epochs=2),
    "banking77": Work("banking77", "stories260k", rows=240, epochs=4, classes=10),
}


def rates(method: str) -> tuple[float, ...]:
    """The candidates for a method: its own learning rate times the multiples, by tens down to below the highest."""
    own, highest = METHODS[method].learning_rate, HIGHEST_RATES.get(method, HIGHEST_RATE)
    steps_down = max(0, math.ceil(math.log10(own * MULTIPLES[-1] / highest)))
    return tuple(float(f"{own * multiple / 10**steps_down:.6g}") for multiple in MULTIPLES)


def restricted(task: Task, classes: int | None) -> dict[str, list[Example]]:
    """train, dev and test with the largest classes only."""
    frequency = Counter(example.label for example in task.train)
    kept = sorted(frequency, key=lambda label: (-frequency[label], label))[:classes]
    parts = {"train": task.train, "dev": task.dev, "test": task.test}
    return {part: [example for example in rows if example.label in kept] for part, rows in parts.items()}


def write_task(folder: Path, answer: str, parts: Mapping[str, Iterable[Example]]) -> str:
    """A task folder with these rows, `answer` its template of a label; its path."""
    asked = {"name": folder.name, "kind": "classification", "prompt": "{prompt}", "answer": answer}
    write_text(folder / "task.yaml", dump_yaml(asked))
    for part, examples in parts.items():
        rows = [{"id": each.id, "prompt": each.prompt, "label": each.label} for each in examples]
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_text(folder / f"{part}.jsonl", lines)
    return str(folder)


def write_tasks(name: str, work: Work, out: Path) -> tuple[str, str, str]:
    """The folders of one task: to choose the rate, without test rows; the table's own, without dev; for the clock."""
    path = work.task if work.task.startswith("tiny:") else str(PUBLIC_DATA / work.task)
    task = load_task(DataConfig(path=path, split=(0.6, 0.2, 0.2)))  # without a dev file, a quarter of train is dev
    found, answer = restricted(task, work.classes), task.template.answer
    dev = found.pop("dev")
    blind = {**found, "dev": dev[:-N_STAND_INS], "test": dev[-N_STAND_INS:]}
    timed = {"train": found["train"], "test": blind["test"]}
    folders = {"choosing": blind, "tasks": found, "timing": timed}
    choosing, own, timing = (write_task(out / room / name, answer, parts) for room, parts in folders.items())
    return choosing, own, timing


def arm(method: str, work: Work, rate: float | None = None) -> dict[str, Any]:
    """The recipe fields of one method."""
    train = TRAIN | {"epochs": work.epochs} | ({} if rate is None else {"learning_rate": rate})
    return {**COMMON, "method": {"name": method, **FIELDS.get(method, {})}, "train": train}


class StepClock(Silent):
    """The processor time of a training step: unlike that on the wall, it leaves out other work on the machine."""

    def __init__(self) -> None:
        self._at: dict[int, float] = {}

    def stepped(self, step: int, loss: float, n_tokens: int) -> None:
        self._at[step] = time.process_time()

    def milliseconds(self) -> float:
        """Mean over the timed steps."""
        return 1000 * (self._at[LAST_TIMED] - self._at[FIRST_TIMED]) / (LAST_TIMED - FIRST_TIMED)


def step_milliseconds(method: str, work: Work, base: Base, data: Mapping[str, Any]) -> float:
    """Processor time of one step, on the same batches for every method, at one thread."""
    clock, fields = StepClock(), arm(method, work)
    recipe = build_recipe({**fields, "model": work.model, "data": data}, {"train.steps": LAST_TIMED})
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        run(recipe, folder, base=base, progress=clock, prove=False)
    torch.set_num_threads(threads)
    return clock.milliseconds()


def refusals(methods: Sequence[str], base: Base) -> dict[str, str]:
    """The methods that cannot act on this base, and why."""
    found = {}
    for method in methods:
        try:
            count(base.model, parse_method({"name": method, **FIELDS.get(method, {})}))
        except UserError as error:
            found[method] = error.message
    return found


def carried_out(
    data: Mapping[str, Any], arms: Mapping[str, Any], **rest: Any
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Each arm's row and its runs, and the reasons of those that stopped: a rate may be so large that a loss is NaN."""
    try:
        found, stopped = [compare(data, methods=arms, **rest)], {}
    except UserError:  # find out whose it was; the others' folders are there, or are made now
        found, stopped = [], {}
        for label, fields in arms.items():
            try:
                found.append(compare(data, methods={label: fields}, **rest))
            except UserError as error:
                stopped[label] = error.message
    rows: dict[str, dict[str, Any]] = {}
    for each in found:
        for row, of_arm in zip(each["rows"], each["arms"], strict=True):
            folders = [Path(rest["out"]) / of_arm["folder"] / f"seed{seed}" for seed in of_arm["seeds"]]
            rows[row["arm"]] = {**row, "runs": [read_json(folder / "metrics.json") for folder in folders]}
    return rows, stopped


def choose(data: Mapping[str, Any], work: Work, methods: Sequence[str], out: Path, workers: int) -> dict[str, Any]:
    """method -> {"tried": rate -> accuracy on dev, None where it stopped; "rate": the best, of equals the lowest}."""
    if not methods:
        return {}
    tried = {method: rates(method) for method in methods}
    labels = {(method, rate): f"{method} {rate:g}" for method in methods for rate in tried[method]}
    arms = {label: arm(method, work, rate) for (method, rate), label in labels.items()}
    rows, _ = carried_out(data, arms, model=work.model, seeds=(0,), out=out, workers=workers)
    chosen = {}
    for method in methods:
        on_dev = {}
        for rate in tried[method]:
            row = rows.get(labels[method, rate])
            on_dev[rate] = None if row is None else row["runs"][0]["dev"]["accuracy"]
        best = max(on_dev, key=lambda rate: (-math.inf if on_dev[rate] is None else on_dev[rate], -rate))
        chosen[method] = {"tried": {f"{rate:g}": value for rate, value in on_dev.items()}, "rate": best}
    return chosen


def measure(name: str, methods: Sequence[str], seeds: Sequence[int], out: Path, workers: int) -> dict[str, Any]:
    """One task: sizes, and for each method the rate, the intervals on test and the costs, or why there is nothing."""
    work = WORKS[name]
    choosing, data, timing = ({"path": path, "train": work.rows} for path in write_tasks(name, work, out))
    base = load_base(work.model, COMMON["dtype"])
    trained = [method for method in methods if method != "frozen"]
    refused = refusals(trained, base)
    acting = [method for method in trained if method not in refused]
    chosen = choose(choosing, work, acting, out / "choosing-runs", workers)
    arms = {label: {**COMMON, "method": {"name": "frozen", **fields}} for label, fields in BASELINES.items()}
    arms = arms if "frozen" in methods else {}
    arms |= {method: arm(method, work, found["rate"]) for method, found in chosen.items()}
    rows, stopped = carried_out(data, arms, model=work.model, seeds=seeds, out=out / "runs", workers=workers)
    cells = {label: _cell(row) | chosen.get(label, {}) for label, row in rows.items()}
    for method in chosen.keys() & rows.keys():
        cells[method]["step_milliseconds"] = round(step_milliseconds(method, work, base, timing), 1)
    task, n_dev = load_task(DataConfig(**data)), len(load_task(DataConfig(**choosing)).dev)
    return {
        "base": work.base,
        "epochs": work.epochs,
        "rows": {"train": len(task.train), "dev": n_dev, "test": len(task.test)},
        "labels": list(task.labels),
        "methods": cells,
        "refused": refused | stopped,
    }


def _is_left(label: str, found: Mapping[str, Any]) -> bool:
    return label not in found["methods"] and label not in found["refused"]


def _cell(row: Mapping[str, Any]) -> dict[str, Any]:
    values = [run["test"]["accuracy"] for run in row["runs"]]
    interval = mean_interval(values)
    kept = ("train_seconds", "seconds", "failed_proofs")
    return {
        "accuracy": {"mean": interval.mean, "half_width": interval.half_width if len(values) > 1 else None},
        "values": values,
        **{key: round(row[key]) for key in ("n_trainable", "adapter_bytes")},
        **{key: row[key] for key in kept},
    }


def tables(results: Mapping[str, Any]) -> str:
    """The results as markdown: accuracies of all tasks side by side, then each task with its costs."""
    tasks = results["tasks"]
    known = dict.fromkeys(label for found in tasks.values() for label in (*found["methods"], *found["refused"]))
    order = [label for label in (*BASELINES, *METHODS) if label in known]
    lines = [f"| method | {' | '.join(tasks)} |", f"|---|{'--:|' * len(tasks)}"]
    for label in order:
        cells = [_accuracy(found["methods"].get(label)) for found in tasks.values()]
        lines.append(f"| `{label}` | {' | '.join(cells)} |")
    for name, found in tasks.items():
        sizes, ways = found["rows"], len(found["labels"])
        lines += [
            f"\n### {name}\n",
            f"Base `{found['base']}`; {sizes['train']} training rows for {found['epochs']:g} epochs, {sizes['dev']} of "
            f"dev, {sizes['test']} of test; {ways} classes, so chance is {100 / ways:.0f}.\n",
            "| method | learning rate | accuracy on test | trained parameters | adapter, kB | a step, ms |",
            "|---|--:|--:|--:|--:|--:|",
            *(_line(label, found) for label in order),
        ]
    return "\n".join(lines) + "\n"


def _line(label: str, found: Mapping[str, Any]) -> str:
    cell = found["methods"].get(label)
    if cell is None:
        return f"| `{label}` | – | {found['refused'].get(label, 'not run')} | – | – | – |"
    if not cell["n_trainable"]:
        return f"| `{label}` | – | {_accuracy(cell)} | 0 | 0 | – |"
    edge = " ↑" if f"{cell['rate']:g}" == list(cell["tried"])[-1] else ""
    return (
        f"| `{label}` | {cell['rate']:g}{edge} | {_accuracy(cell)} | {cell['n_trainable']:,} | "
        f"{cell['adapter_bytes'] / 1000:,.0f} | {cell['step_milliseconds']:.0f} |"
    )


def _accuracy(cell: Mapping[str, Any] | None) -> str:
    if cell is None:
        return "–"
    half_width = cell["accuracy"]["half_width"]
    return f"{cell['accuracy']['mean']:.1f}" + ("" if half_width is None else f" ± {half_width:.1f}")


def environment(workers: int) -> dict[str, Any]:
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "workers": workers,
        "dtype": COMMON["dtype"],
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/methods-table"))
    parser.add_argument("--tasks", nargs="*", default=list(WORKS), choices=WORKS)
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=METHODS)
    parser.add_argument("--seeds", default="0,1,2", help="with commas")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--page-only", action="store_true", help="write the tables from the results that are there")
    arguments = parser.parse_args()
    if not arguments.page_only:
        seeds = [int(seed) for seed in arguments.seeds.split(",")]
        content: dict[str, Any] = {
            "environment": environment(arguments.workers),
            "seeds": seeds,
            "train": TRAIN,
            "fields": FIELDS,
            "tasks": {},
        }
        known = read_json(arguments.results)["tasks"] if arguments.results.is_file() else {}
        content["tasks"] = known
        for name in arguments.tasks:
            found = measure(name, arguments.methods, seeds, arguments.out, arguments.workers)
            print(tables({"tasks": {name: found}}), flush=True)
            for part in ("methods", "refused"):  # the rows of methods that were left out stay as they are
                left = {
                    label: row for label, row in known.get(name, {}).get(part, {}).items() if _is_left(label, found)
                }
                found[part] = left | found[part]
            content["tasks"][name] = found
            write_json(arguments.results, content)
    results = read_json(arguments.results)
    assert isinstance(results, dict)
    if arguments.results == RESULTS:
        put(DOCS / "methods-table.md", "tables", tables(results))


if __name__ == "__main__":
    main()
