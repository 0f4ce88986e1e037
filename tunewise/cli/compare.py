"""`tunewise compare`: several methods and seeds on one task, and which to take."""

from pathlib import Path
from typing import Annotated, Any

import typer

from tunewise.cli.console import DIVERGED, AsJson, Data, Model, Out, print_json, progress_lines, results, this_command
from tunewise.cli.train import Words
from tunewise.errors import UserError, unknown

CLUSTERS = ("ray",)

SIDE_BY_SIDE = "Processes that run side by side, each with its own base."
Workers = Annotated[int, typer.Option(min=1, help=SIDE_BY_SIDE)]
ClusterWorkers = Annotated[int | None, typer.Option(min=1, help=SIDE_BY_SIDE, show_default="1; in a cluster 1 a node")]
Cluster = Annotated[
    str | None, typer.Option(help="ray: on the nodes of a Ray cluster, which all have --out at the same place.")
]


def compare(
    words: Words = None,
    model: Model = None,
    data: Data = None,
    methods: Annotated[
        str,
        typer.Option(
            help="Methods with commas; fields after colons, as in frozen:shots=8,lora:rank=4:alpha=8. Dotted ones are "
            "of the recipe: frozen:shots=8:data.pattern=question."
        ),
    ] = "frozen,lora,bitfit:add=true,full",
    seeds: Annotated[str, typer.Option(help="Seeds, with commas.")] = "0,1,2",
    workers: ClusterWorkers = None,
    cluster: Cluster = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Train every method with every seed on the same data, say which to take, and write a report page.

    Exits with 3 where some runs diverged: the table says which, and the others are compared.
    """
    from tunewise.cli.recipes import gather

    fields = gather(words or [], {"model": model, "data": data})
    arms = arms_of(methods, fields)
    numbers = seeds_of(seeds)
    if cluster not in (None, *CLUSTERS):
        raise unknown("cluster", cluster, CLUSTERS)

    from tunewise.cli.progress import RunsProgress
    from tunewise.comparison import Ray
    from tunewise.comparison import compare as carry_out
    from tunewise.report.arms import diverged_of, read_arms
    from tunewise.report.page import write_page
    from tunewise.report.table import print_comparison

    root = out or Path("runs")
    with RunsProgress(progress_lines()) as progress:
        found = carry_out(
            fields["data"],
            model=fields["model"],
            methods=arms,
            seeds=numbers,
            out=root,
            workers=Ray(workers) if cluster else workers or 1,
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
    from tunewise.cli.recipes import arm_of

    shared = {name: value for name, value in recipe.items() if name not in ("model", "data", "method", "seed")}
    arms: dict[str, dict[str, Any]] = {}
    for word in filter(None, (part.strip() for part in text.split(","))):
        label, own = arm_of(word)
        if label in arms:
            raise UserError(f"the method {word} is there twice", "leave one out, or change a field of it")
        arms[label] = {**shared, **own}
    return arms


def seeds_of(text: str) -> list[int]:
    """Whole numbers with commas between them."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words or not all(word.isdecimal() for word in words):
        raise UserError(f"cannot read the seeds {text!r}", "write whole numbers with commas: --seeds 0,1,2")
    return [int(word) for word in words]
