"""Is a kind of task that was never trained on answered? `python -m bench.instruction_kinds --data FOLDER`.

FLAN's question (Wei et al. 2022, arXiv:2109.01652) on `tiny`: a mixture of sixteen public sets alone, and no row of
sentiment or entailment among them, which are asked zero-shot before and after LoRA. What counts is what the model
writes, as it does for who talks to it; beside it stands which of the answers it finds most probable, which is how FLAN
counted. Weights, rank and steps were chosen on dev rows with one seed. FOLDER holds the sets as their authors wrote
them.
"""

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.instruction_sets import of, plan, public, row
from bench.kept import keep
from bench.page import DOCS, put
from tunewise.comparison.grid import compare
from tunewise.data.instruct.sets import build_instructions
from tunewise.files import read_jsonl, read_text, write_text
from tunewise.report.arms import diverged_of, read_arms
from tunewise.report.page import write_page
from tunewise.report.protocol import how_compared
from tunewise.report.table import print_comparison
from tunewise.run.record import predictions_of

HELD_OUT = ("sentiment", "entailment")
WEIGHTS = {
    "banking77": 1.5, "copa": 0.7, "mmlu": 0.7, "pawsx": 0.4, "sms_spam": 0.4, "web_of_lies": 0.3, "anaphor": 0.2,
    "gender": 0.2, "island": 0.2, "passive": 0.2, "causal": 0.1, "gsm8k": 0.1, "xquad": 0.1, "dolly": 0.02,
    "ntrex": 0.02, "scitldr": 0.02,
}  # fmt: skip
"""Most of what lists answers of many kinds, where it is learnt to write one of them; little of what is long."""
STEPS, LEARNING_RATE, RANK, BATCH = 1500, 2e-3, 16, 16


def tasks(folder: Path, own: Path) -> list[dict[str, Any]]:
    """Sixteen of FOLDER that are trained on, and two that are not."""
    blimp = folder / "blimp"
    trained = [
        *public(folder),
        of(folder / "bbh/causal_judgement.json", "causal", "category"),
        of(blimp / "anaphor_gender_agreement.jsonl", "gender", "grammaticality"),
        of(blimp / "adjunct_island.jsonl", "island", "grammaticality"),
        of(blimp / "animate_subject_passive.jsonl", "passive", "grammaticality"),
        of(own / "mmlu.csv", "mmlu", "multiple_choice_qa"),
        of(folder / "scitldr/train_300.jsonl", "scitldr", "summarisation"),
        of(folder / "dolly_151/dolly.jsonl", "dolly", "closed_book_qa"),
    ]
    held_out = [{"name": name, "data": f"tiny:{name}", "templates": name} for name in HELD_OUT]
    return [*({**each, "weight": WEIGHTS[each["name"]]} for each in trained), *held_out]


def offered(run: Path, name: str) -> float:
    """Of all rows the share, in percent, in which one of the answers that the question lists was written."""
    rows: list[Any] = read_jsonl(run / predictions_of(name))
    lines = [{line.removeprefix("- ") for line in each["prompt"].split("\n")} for each in rows]
    return 100 * sum(each["predicted"].strip() in of_row for each, of_row in zip(rows, lines, strict=True)) / len(rows)


def table(rows: list[dict[str, Any]]) -> str:
    """The markdown table of docs/instruction-sets.md."""
    lines = [
        "| held out | one of the answers offered: base | LoRA | the right one: base | LoRA | difference over seeds "
        "| over test rows | most probable: base | LoRA |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for each in rows:
        lora, gap, items, rank = each["lora"], each["gap"], each["items"], each["chosen"]
        lines.append(
            f"| {each['held_out']} | {each['offered']['base']:.1f} | {each['offered']['lora']:.1f} "
            f"| {each['base']:.1f} | {lora['mean']:.1f} ± {lora['half_width']:.1f} "
            f"| {gap['mean']:+.1f} ± {gap['half_width']:.1f} (p = {each['p']:.2g}) "
            f"| {items['low']:+.1f} to {items['high']:+.1f} | {rank['base']:.1f} "
            f"| {rank['lora']['mean']:.1f} ± {rank['lora']['half_width']:.1f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the folder of public sets")
    parser.add_argument("--out", type=Path, default=Path("runs/kinds"))
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    folder, sets = given.data.resolve(), given.out / "sets"
    subjects = sorted((folder / "mmlu/dev").glob("*.csv"))
    write_text(given.out / "mmlu.csv", "".join(f"{read_text(path).rstrip()}\n" for path in subjects))
    build_instructions(plan(tasks(folder, given.out), HELD_OUT), sets)
    asked = {name: str(sets / name / "test.jsonl") for name in HELD_OUT}
    compared = compare(
        str(sets / "mixture.yaml"),
        methods={
            "base": {"method": "frozen"},
            "lora": {"method": {"name": "lora", "roles": ["all"], "rank": RANK}},
        },
        seeds=range(given.seeds),
        overrides={
            "out_of_domain": {
                **{name: {"path": path, "answered": "written"} for name, path in asked.items()},
                **{f"{name}_chosen": {"path": path} for name, path in asked.items()},
            },
            "retention": None,
            "data.dev": 20,
            "data.test": 40,
            "train.steps": given.steps,
            "train.batch_size": BATCH,
            "train.learning_rate": LEARNING_RATE,
            "train.evaluate_every": None,
            "against": "base",
        },
        out=given.out,
    )
    print_comparison(Console(), read_arms(given.out), diverged_of(given.out), how_compared(given.out))
    print(write_page(given.out, given.out / "report.html"))
    runs = {
        arm["label"]: [given.out / arm["folder"] / f"seed{seed}" for seed in arm["seeds"]] for arm in compared["arms"]
    }
    rows = [
        {
            "held_out": name,
            **row(name, compared, "normalised_match"),
            "offered": {
                label: sum(offered(run, name) for run in of_arm) / len(of_arm) for label, of_arm in runs.items()
            },
            "chosen": row(f"{name}_chosen", compared),
        }
        for name in HELD_OUT
    ]
    keep("instruction_kinds", rows)
    put(DOCS / "instruction-sets.md", "held-out kinds", table(rows))


if __name__ == "__main__":
    main()
