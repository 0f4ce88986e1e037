"""A base that learns to follow instructions from other kinds of task: `python -m bench.instruction_sets --data FOLDER`.

FLAN's question (Wei et al. 2022, arXiv:2109.01652) on `tiny`: twelve sets of eight clusters are one mixture, and four
clusters that none of them belongs to are asked zero-shot, before and after LoRA, by what the model writes. Weights,
steps and learning rate were chosen on dev of the mixture's own sets. FOLDER holds public sets as their authors wrote
them.
"""

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console

from tunewise.comparison.grid import compare
from tunewise.data.instruct.sets import InstructionSet, build_instructions
from tunewise.report.arms import diverged_of, read_arms
from tunewise.report.page import write_page
from tunewise.report.protocol import how_compared
from tunewise.report.table import print_comparison

HELD_OUT = ("sentiment", "entailment", "paraphrase", "grammaticality")
GRAMMAR = ("adjunct_island", "anaphor_gender_agreement", "anaphor_number_agreement", "animate_subject_passive")
UNSEEN = {"split": (0.1, 0.1, 0.8)}
"""Of a set that is held out as a whole: nearly all of its rows are asked."""
WEIGHTS = {
    "banking77": 3.0, "sms_spam": 2.0, "web_of_lies": 2.0, "copa": 2.0, "causal_judgement": 1.0, "xquad": 1.0,
    "translation": 1.0, "headline": 1.0, "instruction": 1.0, "gsm8k": 0.5, "scitldr": 0.5, "ntrex": 0.5,
}  # fmt: skip
"""Sets whose answers are listed more often than free ones, of which one answer has as many tokens as ten of these."""
STEPS, LEARNING_RATE, RANK = 1500, 3e-3, 16


def sources(folder: Path) -> list[dict[str, Any]]:
    """The tasks, each with its cluster where its rows leave a doubt of that."""

    def of(name: str, path: str, templates: str = "auto", **fields: Any) -> dict[str, Any]:
        return {"name": name, "data": {"path": str(folder / path), **fields}, "templates": templates}

    english, norwegian = folder / "ntrex/src.eng.txt", folder / "ntrex/ref.nob.txt"
    return [
        of("banking77", "banking77", "intent"),
        of("sms_spam", "sms_spam/SMSSpamCollection.tsv", "category", words={"ham": "no spam"}),
        of("causal_judgement", "bbh/causal_judgement.json", "category"),
        of("web_of_lies", "bbh/web_of_lies.json", "category"),
        of("copa", "copa_en"),
        of("xquad", "xquad/xquad.en.json"),
        of("gsm8k", "gsm8k/train_300.jsonl"),
        of("scitldr", "scitldr/train_300.jsonl", "summarisation", prompt="source", completion="target"),
        {
            "name": "ntrex",
            "data": f"{english},{norwegian}",
            "templates": "translation",
            "slots": {"source_language": "English", "target_language": "Norwegian"},
        },
        {"data": "tiny:translation"},
        {"data": "tiny:headline", "templates": "summarisation"},
        {"data": "tiny:instruction", "templates": "closed_book_qa"},
        {"data": "tiny:sentiment", "templates": "sentiment"},
        {"data": "tiny:entailment", "templates": "entailment"},
        of("pawsx", "pawsx/dev-en.tsv", "paraphrase", **UNSEEN),
        *(of(name, f"blimp/{name}.jsonl", "grammaticality", **UNSEEN) for name in GRAMMAR),
    ]


def plan(folder: Path, limit: int) -> dict[str, Any]:
    """What `tunewise data build` carries out: answers always listed, as FLAN lists them, and no task turned round."""
    how = {"options": "always", "inverted": 0.0, "chain_of_thought": 0.0, "options_at_most": 6, "per_row": 4}
    return {"tasks": sources(folder), "hold_out": HELD_OUT, "limit": limit, **how}


def written(path: Path, built: InstructionSet) -> dict[str, Any]:
    """The set as it is read again: its answers are written, where they are listed as well."""
    listed = all(each.instruction.options for each in built.parts["test"])
    return {"path": str(path)} | ({"answered": "written"} if listed else {})


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the folder of public sets")
    parser.add_argument("--out", type=Path, default=Path("runs/instructed"))
    parser.add_argument("--limit", type=int, default=400, help="rows of each part of a set")
    parser.add_argument("--steps", type=int, default=STEPS)
    given = parser.parse_args()
    sets = given.out / "sets"
    built = build_instructions(plan(given.data.resolve(), given.limit), sets)
    mixture = {
        each.name: {**written(sets / each.name, each), "weight": WEIGHTS[each.name]}
        for each in built
        if not each.is_held_out
    }
    unseen = {each.name: written(sets / each.name / "test.jsonl", each) for each in built if each.is_held_out}
    chosen = {f"{name}_chosen": {"path": one["path"]} for name, one in unseen.items()}
    compare(
        {"mixture": {"sources": mixture, "mixing": "weights"}},
        methods={"base": {"method": "frozen"}, "lora": {"method": {"name": "lora", "roles": ["all"], "rank": RANK}}},
        overrides={
            "out_of_domain": unseen | chosen,
            "retention": None,
            "train.steps": given.steps,
            "train.learning_rate": LEARNING_RATE,
            "train.evaluate_every": None,
        },
        out=given.out,
    )
    print_comparison(Console(), read_arms(given.out), diverged_of(given.out), how_compared(given.out))
    print(write_page(given.out, given.out / "report.html"))


if __name__ == "__main__":
    main()
