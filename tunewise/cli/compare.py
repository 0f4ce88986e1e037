"""`tunewise compare`: several methods and seeds on one task, and which to take."""

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunewise.cli import icl_vs_ft
from tunewise.cli.console import (
    DIVERGED,
    AsJson,
    Data,
    Model,
    Out,
    print_json,
    progress_lines,
    results,
    this_command,
)
from tunewise.cli.train import IgnoreFindings
from tunewise.cli.unproved import refuse_unproved
from tunewise.errors import UserError, unknown
from tunewise.processes import import_meanwhile

if TYPE_CHECKING:
    from tunewise.comparison import Ray
    from tunewise.comparison.protocol import Comparison

logger = logging.getLogger("tunewise.cli")

METHODS = "frozen,lora,bitfit:add=true,full"
ITS_OWN = "that of the recipe, or"
CLUSTERS = ("ray",)

SIDE_BY_SIDE = "Processes that run side by side, each with its own base."
Workers = Annotated[int, typer.Option(min=1, help=SIDE_BY_SIDE)]
ClusterWorkers = Annotated[
    int | None,
    typer.Option(min=1, help=SIDE_BY_SIDE, show_default="2 where that saves time, or else 1; in a cluster 1 a node"),
]
Cluster = Annotated[
    str | None, typer.Option(help="ray: on the nodes of a Ray cluster, which all have --out at the same place.")
]


Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[RECIPE.yaml] [FIELD=VALUE]...",
        help="A recipe file, and overrides such as train.steps=200 data.train=500 arms.LABEL.method.rank=4.",
        show_default=False,
    ),
]
Methods = Annotated[
    str | None,
    typer.Option(
        help="Methods with commas, or all; fields after colons, as in frozen,lora:rank=4:alpha=8. Dotted ones are of "
        "the recipe, as in frozen:data.pattern=question, and so are dtype, head and quantise, as in lora:quantise=nf4.",
        show_default=f"{ITS_OWN} {METHODS.replace(',', ', ')}",
    ),
]
Seeds = Annotated[str | None, typer.Option(help="Seeds, with commas or as 0-4.", show_default=f"{ITS_OWN} 0,1,2")]
Trials = Annotated[
    int | None,
    typer.Option(
        help="Points of each arm's own fields, its learning rate first, that are tried on dev before test is opened; "
        "1 takes the method's own.",
        show_default=f"{ITS_OWN} 1",
    ),
]
Margin = Annotated[
    float | None,
    typer.Option(help="Points below the best mean that are as good (per cent of a loss).", show_default=f"{ITS_OWN} 2"),
]
Alpha = Annotated[float | None, typer.Option(help="Level of the tests between arms.", show_default=f"{ITS_OWN} 0.05")]
Weights = Annotated[
    str | None,
    typer.Option(
        help="What each cost counts, as in bytes=1,seconds=0.5; one that is not named counts nothing.",
        show_default=f"{ITS_OWN} 1 for each",
    ),
]
Against = Annotated[
    str | None,
    typer.Option(
        help="The arm, by its label, that all others are held against: their differences with intervals, and whether "
        "they are shown to be equivalent within --margin.",
        show_default="an arm on quantised weights against the same one on plain ones",
    ),
]
Unlike = Annotated[
    str | None, typer.Option(help="Fields in which arms may differ, with commas, as in head,train.steps.")
]
OnlyPlan = Annotated[
    bool, typer.Option("--plan", help="Only rehearse a few steps of each arm and say what all would take.")
]
Protocol = Annotated[
    str | None,
    typer.Option(
        help="icl-vs-ft: --shots examples shown or trained on (full, or the one of --methods), for every pair of "
        "--models, with seeds 0 to 9."
    ),
]
Models = Annotated[
    str | None, typer.Option(help="Of --protocol: models with commas; fields of one's own after colons.")
]
Shots = Annotated[int, typer.Option(min=1, help="Of --protocol: examples, drawn by the seed.")]
OutOfDomain = Annotated[
    list[str] | None, typer.Option(help="A test set from elsewhere, NAME=FILE; may be given several times.")
]


def compare(
    words: Words = None,
    model: Model = None,
    data: Data = None,
    methods: Methods = None,
    seeds: Seeds = None,
    trials: Trials = None,
    margin: Margin = None,
    alpha: Alpha = None,
    weights: Weights = None,
    against: Against = None,
    allow_unlike: Unlike = None,
    plan: OnlyPlan = False,
    workers: ClusterWorkers = None,
    cluster: Cluster = None,
    protocol: Protocol = None,
    models: Models = None,
    shots: Shots = 16,
    out_of_domain: OutOfDomain = None,
    out: Out = None,
    ignore_findings: IgnoreFindings = False,
    as_json: AsJson = False,
) -> None:
    """Run every method with every seed on the same data, say which to take, and write a report page.

    A recipe may hold `arms` and the other options by their names. Exits with 3 where some runs diverged: the table says
    which, and the others are compared. Exits with 4 where a proof of a run failed.
    """
    from tunewise.cli.recipes import gather

    fields = gather(words or [], {"model": model, "data": data, "out_of_domain": sets_of(out_of_domain or [])})
    if protocol or models:
        icl_vs_ft.carry_out(
            icl_vs_ft.models_of(models or "", protocol), icl_vs_ft.fine_tuned(methods, fields), shots=shots,
            seeds=seeds_of(seeds or icl_vs_ft.SEEDS), root=out or Path("runs/icl-vs-ft"), as_json=as_json,
        )  # fmt: skip
        return
    _refuse_of_one_run(words or [])
    if cluster not in (None, *CLUSTERS):
        raise unknown("cluster", cluster, CLUSTERS)
    as_they_are = {"trials": trials, "margin": margin, "alpha": alpha, "against": against}
    given: dict[str, Any] = {
        **as_they_are,
        "arms": None if methods is None else laid_over(arms_of(methods), words or []),
        "seeds": None if seeds is None else seeds_of(seeds),
        "weights": None if weights is None else weights_of(weights),
        "allow_unlike": None if allow_unlike is None else allow_unlike.split(","),
        "ignore_findings": ignore_findings or None,
    }
    asked = {"arms": arms_of(METHODS), **fields, **{name: value for name, value in given.items() if value is not None}}
    import_meanwhile(None if plan or cluster else workers)  # what follows imports as long
    from tunewise.comparison import Ray, build_comparison
    from tunewise.comparison.plan import plan_comparison

    comparison = build_comparison(asked)
    if plan:
        told = plan_comparison(comparison, workers)
        print_json(told) if as_json else _print_plan(told)
        return
    carry_out(comparison, out or Path("runs"), Ray(workers) if cluster else workers, as_json)


def laid_over(arms: dict[str, dict[str, Any]], words: Sequence[str]) -> dict[str, Any]:
    """The arms of --methods, and over them words such as arms.lora.method.rank=4, which make no other arm."""
    from tunewise.config import override

    own = [word for word in words if word.startswith("arms.")]
    for label in (word.partition("=")[0].split(".")[1] for word in own):
        if label not in arms:
            raise unknown("arm of --methods", label, arms)
    return override({"arms": arms}, own)["arms"]


def _refuse_of_one_run(words: Sequence[str]) -> None:
    """Refuse fields on the command line that arms have of their own: nothing would read them."""
    for word in words:
        name = word.partition("=")[0]
        if "=" in word and (name in ("seed", "method") or name.startswith("method.")):
            raise UserError(
                f"{word} is of one run, and a comparison has several",
                "write --seeds 0,1,2, or give the field to its arm: --methods lora:rank=4, arms.LABEL.method.rank=4",
            )


def carry_out(comparison: "Comparison", root: Path, workers: "int | Ray | None", as_json: bool) -> None:
    """Carry a comparison out, write its page and print what it found; exits with 3 where some runs diverged,
    and with 4 where a proof failed."""
    from tunewise.cli.progress import RunsProgress
    from tunewise.comparison import carry_out_comparison
    from tunewise.report.arms import diverged_of, read_arms
    from tunewise.report.card import is_shipped, write_card
    from tunewise.report.decision import decide
    from tunewise.report.page import write_page
    from tunewise.report.protocol import how_compared
    from tunewise.report.table import print_comparison
    from tunewise.training.reload import FRESH

    FRESH.stand_by()
    first = [of_arm[0] for of_arm in comparison.recipes.values()]
    with RunsProgress(progress_lines()) as progress:
        found = carry_out_comparison(comparison, root, workers=workers, progress=progress)
    page = write_page(root, root / "report.html", commands=[this_command()])
    table, how = read_arms(root), how_compared(root)
    decision = decide(table, how.rule)
    card = write_card(table, decision) if is_shipped(decision) else None
    if as_json:
        print_json({**found, "page": str(page), "card": None if card is None else str(card)})
    else:
        print_comparison(results(), table, diverged_of(root), how)
        if comparison.protocol.trials == 1 and any(each.train.learning_rate is None for each in first):
            told = "each way ran at its method's own learning rate; --trials 4 searches it on dev first"
            results().print(f"\n{told}", style="dim", soft_wrap=True)
        results().print(f"\nreport: {page}", soft_wrap=True)
        if card is not None:
            results().print(f"adapter to ship, with its model card: {card.parent}", soft_wrap=True)
    refuse_unproved(table)
    if any(arm["failed"] for arm in found["arms"]):
        raise typer.Exit(DIVERGED)


def arms_of(text: str) -> dict[str, dict[str, Any]]:
    """Label -> recipe fields: each method of `text`."""
    from tunewise.cli.recipes import arm_of
    from tunewise.config import parts_of

    arms: dict[str, dict[str, Any]] = {}
    for word in filter(None, (part.strip() for part in parts_of(text, ","))):
        label, own = arm_of(word)
        if label in arms:
            raise UserError(f"the method {word} is there twice", "leave one out, or change a field of it")
        arms[label] = own
    return arms


def sets_of(words: Sequence[str]) -> dict[str, dict[str, str]] | None:
    """Name -> path of out-of-domain test sets, of words such as hans=hans.jsonl; None for none."""
    for word in words:
        if not all(word.partition("=")):
            raise UserError(f"cannot read the test set {word!r}", "write NAME=FILE: --out-of-domain hans=hans.jsonl")
    return {name: {"path": path} for name, _, path in (word.partition("=") for word in words)} or None


def seeds_of(text: str) -> list[int]:
    """Whole numbers with commas between them, and ranges of them with both ends: 0,1,2 or 0-4."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    ends = [re.fullmatch(r"(\d+)(?:-(\d+))?", word) for word in words]
    found = [seed for end in ends if end for seed in range(int(end[1]), int(end[2] or end[1]) + 1)]
    if not found or None in ends:
        raise UserError(f"cannot read the seeds {text!r}", "write whole numbers: --seeds 0,1,2 or --seeds 0-4")
    if len(found) == 1 < found[0]:
        logger.info("--seeds %d is one seed; so many are --seeds 0-%d", found[0], found[0] - 1)
    return found


def weights_of(text: str) -> dict[str, float]:
    """Cost -> weight, of words such as bytes=1,seconds=0.5."""
    found = {}
    for word in text.split(","):
        name, _, number = word.partition("=")
        try:
            found[name.strip()] = float(number)
        except ValueError:
            raise UserError(
                f"cannot read the weight {word!r}", "write costs and numbers: --weights bytes=1,seconds=0.5"
            ) from None
    return found


def _print_plan(plan: Mapping[str, Any]) -> None:
    from rich.table import Table

    from tunewise.report import words

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("way")
    for heading in ("trained", "trials", "runs", "a run", "search", "in all", "memory"):
        table.add_column(heading, justify="right")
    for arm in plan["arms"]:
        if arm["refused"]:
            table.add_row(arm["label"], *["–"] * 7, style="red")
            continue
        table.add_row(
            arm["label"],
            words.count(arm["n_trainable"]) if arm["n_trainable"] else "–",
            str(arm["n_trials"] or "–"),
            str(arm["n_runs"]),
            words.duration(arm["run_seconds"]),
            words.duration(arm["search_seconds"]) if arm["n_trials"] else "–",
            words.duration(arm["seconds"]),
            words.size(arm["peak_bytes"]),
        )
    console = results()
    console.print(table)
    for arm in plan["arms"]:
        if arm["refused"]:
            console.print(f"{arm['label']}: {arm['refused']}", style="red", markup=False)
    told = f"{plan['n_runs']} runs" + (f" and {plan['n_trials']} trials" if plan["n_trials"] else "")
    side_by_side = f" by {plan['workers']} workers" if plan["workers"] > 1 else ""
    console.print(f"\n{told}{side_by_side}: about {words.duration(plan['seconds'])}, one after another.")
    if plan["n_together"]:
        console.print(f"{plan['n_together']} of the runs will share batches, which takes less time and more memory.")
