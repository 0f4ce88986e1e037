"""`tunewise compare`: several methods and seeds on one task, and which to take."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from tunewise.cli import icl_vs_ft
from tunewise.cli.console import DIVERGED, AsJson, Data, Model, Out, print_json, progress_lines, results, this_command
from tunewise.cli.train import Words
from tunewise.errors import UserError

METHODS = "frozen,lora,bitfit:add=true,full"
Methods = Annotated[
    str | None,
    typer.Option(
        help="Methods with commas; fields after colons, as in frozen:shots=8,lora:rank=4:alpha=8.",
        show_default=METHODS,
    ),
]
Seeds = Annotated[str | None, typer.Option(help="Seeds, with commas.", show_default="0,1,2")]
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
Workers = Annotated[int, typer.Option(min=1, help="Processes that run side by side, each with its own base.")]


def compare(
    words: Words = None,
    model: Model = None,
    data: Data = None,
    methods: Methods = None,
    seeds: Seeds = None,
    protocol: Protocol = None,
    models: Models = None,
    shots: Shots = 16,
    out_of_domain: OutOfDomain = None,
    workers: Workers = 1,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Train every method with every seed on the same data, say which to take, and write a report page.

    Exits with 3 where some runs diverged: the table says which, and the others are compared.
    """
    from tunewise.cli.recipes import gather

    fields = gather(words or [], {"model": model, "data": data, "out_of_domain": sets_of(out_of_domain or [])})
    if protocol or models:
        icl_vs_ft.carry_out(
            icl_vs_ft.models_of(models or "", protocol), icl_vs_ft.fine_tuned(methods, fields), shots=shots,
            seeds=seeds_of(seeds or icl_vs_ft.SEEDS), root=out or Path("runs/icl-vs-ft"), as_json=as_json,
        )  # fmt: skip
        return
    arms = arms_of(methods or METHODS, fields)
    numbers = seeds_of(seeds or "0,1,2")

    from tunewise.cli.progress import RunsProgress
    from tunewise.comparison import compare as carry_out
    from tunewise.report.arms import diverged_of, read_arms
    from tunewise.report.page import write_page
    from tunewise.report.table import print_comparison

    root = out or Path("runs")
    with RunsProgress(len(arms) * len(numbers), progress_lines()) as progress:
        found = carry_out(
            fields["data"],
            model=fields["model"],
            methods=arms,
            seeds=numbers,
            out=root,
            workers=workers,
            progress=progress,
        )
    page = write_page(root, root / "report.html", commands=[this_command()])
    if as_json:
        print_json({**found, "page": str(page)})
    else:
        print_comparison(results(), read_arms(root), diverged_of(root))
        results().print(f"\nreport: {page}", soft_wrap=True)
    if any(arm["failed"] for arm in found["arms"]):
        raise typer.Exit(DIVERGED)


def arms_of(text: str, recipe: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Label -> recipe fields: each method of `text` under what the recipe says about training."""
    from tunewise.cli.recipes import method_of

    shared = {name: value for name, value in recipe.items() if name not in ("model", "data", "method", "seed")}
    arms: dict[str, dict[str, Any]] = {}
    for word in filter(None, (part.strip() for part in text.split(","))):
        label, method = method_of(word)
        if label in arms:
            raise UserError(f"the method {word} is there twice", "leave one out, or change a field of it")
        arms[label] = {**shared, "method": method}
    return arms


def sets_of(words: Sequence[str]) -> dict[str, dict[str, str]] | None:
    """Name -> path of out-of-domain test sets, of words such as hans=hans.jsonl; None for none."""
    for word in words:
        if not all(word.partition("=")):
            raise UserError(f"cannot read the test set {word!r}", "write NAME=FILE: --out-of-domain hans=hans.jsonl")
    return {name: {"path": path} for name, _, path in (word.partition("=") for word in words)} or None


def seeds_of(text: str) -> list[int]:
    """Whole numbers with commas between them."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words or not all(word.isdecimal() for word in words):
        raise UserError(f"cannot read the seeds {text!r}", "write whole numbers with commas: --seeds 0,1,2")
    return [int(word) for word in words]
