"""Is a data set that was never trained on answered after a mixture? `python -m bench.instruction_sets --data FOLDER`.

FLAN's question (Wei et al. 2022, arXiv:2109.01652) on `tiny`: nine public sets, an embedded one and single judgements
of the town are a mixture; its reviews (`tiny:sentiment`) are asked zero-shot before and after LoRA. They are a *data
set* that is held out: the judgements are of the same cluster. Weights and steps were chosen on dev with one seed, and
so was the one wording by which the base answers best. FOLDER holds the public sets as their authors wrote them.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from rich.console import Console

from bench.kept import keep
from bench.page import DOCS, put
from tunewise.comparison.grid import compare
from tunewise.comparison.items import beside, items_of
from tunewise.config import dump_yaml, read_yaml
from tunewise.data.instruct.clusters import FOLDER as CLUSTERS
from tunewise.data.instruct.sets import build_instructions
from tunewise.data.load import load_task
from tunewise.files import write_jsonl, write_text
from tunewise.models.tiny.reviews import clause, sentence
from tunewise.report.arms import diverged_of, read_arms
from tunewise.report.page import write_page
from tunewise.report.protocol import how_compared
from tunewise.report.table import print_comparison
from tunewise.run import evaluate
from tunewise.run.record import METRICS, mapping, predictions_of
from tunewise.stats import difference_interval, mean_interval, of_rounding, welch

HELD_OUT = "tiny:sentiment"
JUDGEMENTS = {"train": 800, "dev": 150, "test": 150}
BEST_OF_BASE = "cue"
"""Of the wordings the one by which the base is right most often, on training rows, none of which is trained on."""
WEIGHTS = {
    "judgements": 5.0, "sms_spam": 0.4, "banking77": 0.3, "anaphor": 0.3, "headline": 0.3, "web_of_lies": 0.2,
    "copa": 0.2, "pawsx": 0.2, "gsm8k": 0.2, "xquad": 0.08, "ntrex": 0.02,
}  # fmt: skip
"""Little of what has long answers: a batch counts its label tokens, and one answer of ntrex has as many as fifteen."""
STEPS, LEARNING_RATE, RANK, BATCH = 400, 2e-3, 8, 16
ASKED = {"reviews": "eleven wordings", "cue": "the base's best wording", "own": "Review: …, Sentiment:"}


def of(path: Path, name: str, templates: str = "auto", **fields: Any) -> dict[str, Any]:
    """A task whose rows lie at that path."""
    return {"name": name, "data": {"path": str(path), **fields}, "templates": templates}


def public(folder: Path) -> list[dict[str, Any]]:
    """Nine sets of FOLDER."""
    english, norwegian = folder / "ntrex/src.eng.txt", folder / "ntrex/ref.nob.txt"
    return [
        of(folder / "banking77", "banking77", "intent"),
        of(folder / "sms_spam/SMSSpamCollection.tsv", "sms_spam", "category", words={"ham": "no spam"}),
        of(folder / "bbh/web_of_lies.json", "web_of_lies", "category"),
        of(folder / "copa_en", "copa"),
        of(folder / "pawsx/dev-en.tsv", "pawsx", "paraphrase"),
        of(folder / "gsm8k/train_300.jsonl", "gsm8k"),
        {
            "name": "ntrex",
            "data": f"{english},{norwegian}",
            "templates": "translation",
            "slots": {"source_language": "English", "target_language": "Norwegian"},
        },
        of(folder / "xquad/xquad.en.json", "xquad"),
        of(folder / "blimp/anaphor_number_agreement.jsonl", "anaphor", "grammaticality"),
    ]


def sources(folder: Path, own: Path) -> list[dict[str, Any]]:
    """The tasks: those of FOLDER, and those whose files are written below `own`."""
    trained = [
        *public(folder),
        {"name": "headline", "data": "tiny:headline", "templates": "summarisation"},
        {"name": "judgements", "data": str(own / "judgements"), "templates": "sentiment"},
    ]
    return [
        *({**each, "weight": WEIGHTS[each["name"]]} for each in trained),
        {"name": "reviews", "data": HELD_OUT, "templates": "sentiment"},
        {"name": "reviews_cue", "data": HELD_OUT, "templates": str(own / "reviews_cue.yaml")},
    ]


def plan(tasks: Sequence[dict[str, Any]], hold_out: Sequence[str]) -> dict[str, Any]:
    """What `tunewise data build` carries out: answers always listed, as FLAN lists them, and no task turned round."""
    how = {"options": "always", "inverted": 0.0, "chain_of_thought": 0.0, "options_at_most": 4, "per_row": 6}
    return {"tasks": tasks, "hold_out": hold_out, "limit": 800, **how}


def write_own(own: Path) -> None:
    """Judgements of one clause, none of which is a review of the set that is held out; and one wording by itself."""
    held_out = load_task(HELD_OUT)
    seen = {example.texts[0] for part in (held_out.train, held_out.dev, held_out.test) for example in part}
    rng = Random("judgements")
    for part, size in JUDGEMENTS.items():
        rows: list[dict[str, str]] = []
        while len(rows) < size:
            good = len(rows) % 2 == 0
            if (text := sentence(clause(rng, good))) not in seen:
                seen.add(text)
                rows.append({"text": text, "label": "positive" if good else "negative"})
        write_jsonl(own / "judgements" / f"{part}.jsonl", rows)
    cluster = read_yaml(CLUSTERS / "sentiment.yaml")
    templates = {BEST_OF_BASE: cluster["templates"][BEST_OF_BASE]}
    write_text(own / "reviews_cue.yaml", dump_yaml({**cluster, "templates": templates}))


def row(name: str, compared: dict[str, Any], metric: str = "accuracy") -> dict[str, Any]:
    """What both arms reach on one held-out set, and the difference over seeds and over its rows."""
    scores = {each["arm"]: each["out_of_domain"][name][metric] for each in compared["rows"]}
    (pair,) = compared["elsewhere"][name]["pairs"]
    sign = 1 if pair["first"] == "lora" else -1
    items = {key: sign * pair["items"][key] for key in ("gap", "low", "high")}
    items |= {} if sign == 1 else {"low": items["high"], "high": items["low"]}
    gap = {"mean": sign * pair["gap"]["mean"], "half_width": pair["gap"]["half_width"]}
    return {"base": scores["base"]["mean"], "lora": scores["lora"], "gap": gap,
            "p": pair["p"], "items": items, "n_items": pair["items"]["n"]}  # fmt: skip


def beside_the_best(compared: dict[str, Any], out: Path) -> dict[str, Any]:
    """LoRA by that wording beside the best that the base does unshown: its task's pattern, with labels weighed."""
    best = evaluate(model="tiny", data=HELD_OUT, out=out / "calibrated", overrides={"method.calibration": "contextual"})
    base = float(best["metrics"]["accuracy"])
    (arm,) = (each for each in compared["arms"] if each["label"] == "lora")
    runs = [out / arm["folder"] / f"seed{seed}" for seed in arm["seeds"]]
    found = [mapping(run / METRICS)["out_of_domain"]["cue"]["accuracy"] for run in runs]
    written = items_of([run / predictions_of("cue") for run in runs])
    right = {name.partition("/")[0]: share for name, share in written.items()}
    items = beside(right, items_of([out / "calibrated" / predictions_of()]))
    assert items is not None, "the same rows"
    flat, least = [base] * len(found), of_rounding(100 / items["n"])
    lora, gap = mean_interval(found), difference_interval(found, flat, least=least)
    return {
        "asked": "that wording; the base by its best pattern, calibrated",
        "base": base,
        "lora": {"mean": lora.mean, "half_width": lora.half_width, "n": lora.n},
        "gap": {"mean": gap.mean, "half_width": gap.half_width},
        "p": welch(found, flat, least).p,
        "items": {key: items[key] for key in ("gap", "low", "high")},
        "n_items": items["n"],
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The markdown table of docs/instruction-sets.md."""
    lines = [
        "| asked by | base | LoRA | difference over seeds | over test rows | LoRA without the judgements |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for each in rows:
        lora, gap, items, alone = each["lora"], each["gap"], each["items"], each.get("without")
        without = f"{alone['mean']:.1f} ± {alone['half_width']:.1f}" if alone else "–"
        lines.append(
            f"| {each['asked']} | {each['base']:.1f} | {lora['mean']:.1f} ± {lora['half_width']:.1f} "
            f"| {gap['mean']:+.1f} ± {gap['half_width']:.1f} (p = {each['p']:.2g}) "
            f"| {items['low']:+.1f} to {items['high']:+.1f} | {without} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the folder of public sets")
    parser.add_argument("--out", type=Path, default=Path("runs/instructed"))
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    sets = given.out / "sets"
    write_own(given.out)
    build_instructions(plan(sources(given.data.resolve(), given.out), ("reviews", "reviews_cue")), sets)
    held_out = {"reviews": sets / "reviews" / "test.jsonl", "cue": sets / "reviews_cue" / "test.jsonl", "own": HELD_OUT}
    lora = {"method": {"name": "lora", "roles": ["all"], "rank": RANK}}
    overrides = {
        "out_of_domain": {name: {"path": str(path)} for name, path in held_out.items()},
        "retention": None,
        "data.dev": 20,
        "data.test": 40,
        "train.steps": given.steps,
        "train.batch_size": BATCH,
        "train.learning_rate": LEARNING_RATE,
        "train.evaluate_every": None,
    }
    compared = compare(
        str(sets / "mixture.yaml"), methods={"base": {"method": "frozen"}, "lora": lora}, seeds=range(given.seeds),
        overrides={**overrides, "against": "base"}, out=given.out,
    )  # fmt: skip
    mixture = read_yaml(sets / "mixture.yaml")
    del mixture["sources"]["judgements"]
    write_text(sets / "without.yaml", dump_yaml(mixture))
    (without,) = compare(
        str(sets / "without.yaml"), methods={"lora": lora}, seeds=range(min(3, given.seeds)), overrides=overrides,
        out=given.out / "without",
    )["rows"]  # fmt: skip
    print_comparison(Console(), read_arms(given.out), diverged_of(given.out), how_compared(given.out))
    print(write_page(given.out, given.out / "report.html"))
    rows = [
        *(
            {"asked": ASKED[name], **row(name, compared), "without": without["out_of_domain"][name]["accuracy"]}
            for name in ASKED
        ),
        beside_the_best(compared, given.out),
    ]
    keep("instruction_sets", rows)
    put(DOCS / "instruction-sets.md", "held out", table(rows))


if __name__ == "__main__":
    main()
