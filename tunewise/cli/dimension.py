"""`tunewise dimension`: in how many dimensions a task is learnt, searched and plotted."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from tunewise.cli.compare import seeds_of
from tunewise.cli.console import AsJson, Data, Model, Out, print_json, results
from tunewise.errors import UserError

N = TypeVar("N", int, float)


def dimension(
    data: Data = None,
    model: Model = None,
    share: Annotated[float, typer.Option(help="Of full fine-tuning's dev metric, to be reached.")] = 0.9,
    between: Annotated[
        str, typer.Option(help="The first dimension to try, doubled from there, and the last.")
    ] = "32,32768",
    seeds: Annotated[str, typer.Option(help="Seeds, with commas.")] = "0",
    rates: Annotated[
        str | None,
        typer.Option(help="Learning rates of full and of intrinsic, as in 1e-3,1e-2.", show_default="their own"),
    ] = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Find the smallest dimension in which training reaches 90 % of full fine-tuning (d90), and plot the search."""
    if data is None:
        raise UserError("no data given", "--data tiny:sentiment, or a file of yours")
    numbers, (smallest, largest) = seeds_of(seeds), pair(between, "--between", int)
    full_rate, rate = pair(rates, "--rates", float) if rates else (None, None)

    from tunewise import files
    from tunewise.comparison import intrinsic_dimension
    from tunewise.report import figure

    root = out or Path("runs/intrinsic-dimension")
    fields: list[dict[str, Any]] = [{"train": {"learning_rate": each}} for each in (full_rate, rate)]
    found = intrinsic_dimension(
        data, model=model or "tiny", share=share, between=(smallest, largest), seeds=numbers, out=root,
        full=fields[0], intrinsic=fields[1],
    )  # fmt: skip
    if figure.available():
        files.write_text(root / "intrinsic_dimension.svg", figure.search_for_a_dimension(found))
    if as_json:
        print_json(found)
        return
    for point in found["points"]:
        mark = "reached" if point["value"] >= found["target"] else ""
        results().print(f"d = {point['dimension']:<8,} {found['metric']} {point['value']:6.1f}  {mark}")
    reached, last = found["dimension"], found["points"][-1]["dimension"]
    answer = f"d = {reached:,}" if reached else f"more than {last:,}"
    at_most = " or less" if reached == smallest else ""
    results().print(
        f"\n{share:.0%} of full fine-tuning's {found['full']:.1f} is {found['target']:.1f}: {answer}{at_most}"
    )
    results().print(f"[dim]{root}[/]", soft_wrap=True)


def pair(text: str, option: str, kind: Callable[[str], N]) -> tuple[N, N]:
    """Two numbers with a comma between them; UserError for anything else."""
    try:
        first, second = (kind(part) for part in text.split(","))
    except ValueError:
        raise UserError(
            f"{option} {text} is no pair of numbers", f"write two with a comma, as in {option} 32,4096"
        ) from None
    return first, second
