"""QLoRA's claim, checked: `python -m bench.qlora_claim` writes results/qlora_claim.json and tables on docs/qlora.md.

The comparison of recipes/qlora.yaml on the tasks in the package, and on a file and a base of one's own where they are
given. Runs that are done are not carried out again.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.page import DOCS, put
from tunewise.comparison import build_comparison, carry_out_comparison
from tunewise.config import read_yaml
from tunewise.files import write_json
from tunewise.report import words
from tunewise.report.arms import comparison_of, read_arms
from tunewise.report.decision import decide
from tunewise.report.differences import differences_of
from tunewise.report.protocol import how_compared

ROOT = Path(__file__).parents[1]
RECIPE, RESULTS = ROOT / "recipes" / "qlora.yaml", ROOT / "bench" / "results" / "qlora_claim.json"
TASKS = ("sentiment", "entailment", "translation", "headline")


def measure(data: Mapping[str, Any], model: str, out: Path, train: Mapping[str, Any]) -> None:
    """One comparison, into `out`."""
    recipe = read_yaml(RECIPE)
    recipe |= {"data": data, "model": model, "train": {**recipe["train"], **train}}
    carry_out_comparison(build_comparison(recipe), out)


def told(out: Path) -> dict[str, Any]:
    """Of a comparison: scores as intervals, how the base is stored, and what is known of the differences."""
    arms, how, found = read_arms(out), how_compared(out), comparison_of(out)
    held = differences_of(decide(arms, how.rule).verdict, how, metric=arms[0].metric)
    return {
        "base": words.base_called(found["model"]),
        "metric": arms[0].metric,
        "learning_rate": arms[-1].runs[0].recipe["train"]["learning_rate"],
        "arms": {
            arm.label: {
                "score": words.quality(arm.metric, arm.quality),
                "format": arm.base_format,
                "base_bytes": arm.base_bytes,
                "scores": arm.scores,
            }
            for arm in arms
        },
        "differences": [asdict(each) for each in held],
        "pairs": [pair for pair in found["verdict"]["pairs"] if pair["first"] in how.against.values()],
        "failed_proofs": sorted({name for row in found["rows"] for name in row["failed_proofs"]}),
    }


def tables(results: Mapping[str, Any]) -> str:
    """The results as the markdown tables of docs/qlora.md."""
    arms = list(next(iter(results.values()))["arms"])
    lines = [f"| task | metric | {' | '.join(arms)} |", f"|---|---|{'--:|' * len(arms)}"]
    for task, found in results.items():
        scores = [found["arms"][label]["score"] for label in arms]
        lines.append(f"| {task} | {words.metric_name(found['metric'])} | {' | '.join(scores)} |")
    lines += ["", "| task | difference | with its 95 % interval | what is known |", "|---|---|---|---|"]
    for task, found in results.items():
        lines += [f"| {task} | {each['name']} | {each['told']} | {each['known']} |" for each in found["differences"]]
    formats = list(dict.fromkeys(arm["format"] for found in results.values() for arm in found["arms"].values()))
    lines += ["", f"| weights at rest | {' | '.join(formats)} |", f"|---|{'--:|' * len(formats)}"]
    lines += list(dict.fromkeys(_stored(found, formats) for found in results.values()))
    return "\n".join(lines) + "\n"


def _stored(found: Mapping[str, Any], formats: Sequence[str]) -> str:
    of_format = {arm["format"]: arm["base_bytes"] for arm in found["arms"].values()}
    largest = max(of_format.values())
    cells = [f"{words.size(of_format[name])} ({of_format[name] / largest:.2f})" for name in formats]
    return f"| {found['base']} | {' | '.join(cells)} |"


def _asked(arguments: argparse.Namespace) -> Iterator[tuple[str, Mapping[str, Any], str]]:
    """Name, data and base of each comparison."""
    for task in arguments.tasks:
        yield task, {"path": f"tiny:{task}"}, "tiny"
    if arguments.data:
        path = Path(arguments.data)
        yield path.parent.name, {"path": arguments.data, "train": arguments.train}, arguments.model


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="*", default=TASKS, choices=TASKS)
    parser.add_argument("--data", help="a file of yours, beside the tasks in the package")
    parser.add_argument("--model", default="tiny", help="the base for it")
    parser.add_argument("--train", type=int, help="so many of its training rows")
    parser.add_argument("--learning-rate", type=float, help="for it")
    parser.add_argument("--out", type=Path, default=Path("runs/qlora"))
    arguments = parser.parse_args()
    for name, data, model in _asked(arguments):
        own = {"learning_rate": arguments.learning_rate} if arguments.learning_rate and name not in TASKS else {}
        measure(data, model, arguments.out / name, own)
    folders = sorted(path.parent for path in arguments.out.glob("*/comparison.json"))
    names = [*(name for name in TASKS), *(folder.name for folder in folders if folder.name not in TASKS)]
    results = {name: told(arguments.out / name) for name in names if arguments.out / name in folders}
    write_json(RESULTS, results)
    put(DOCS / "qlora.md", "qlora", tables(results))


if __name__ == "__main__":
    main()
