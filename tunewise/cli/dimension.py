"""`tunewise dimension`: in how many dimensions a task is learnt, searched and plotted."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from tunewise.cli.compare import seeds_of
from tunewise.cli.console import AsJson, Data, Model, Out, print_json, results
from tunewise.cli.train import Words
from tunewise.cli.unproved import refuse_unproved
from tunewise.errors import UserError

N = TypeVar("N", int, float)


def dimension(
    words: Words = None,
    data: Data = None,
    model: Model = None,
    share: Annotated[float, typer.Option(help="Of full fine-tuning's dev metric, to be reached.")] = 0.9,
    between: Annotated[
        str, typer.Option(help="The first dimension to try, doubled from there, and the last.")
    ] = "32,32768",
    seeds: Annotated[str, typer.Option(help="Seeds, with commas; rates are chosen with the first.")] = "0",
    rates: Annotated[
        str | None,
        typer.Option(
            help="Learning rates, with commas; every d takes the best on dev.", show_default="intrinsic's own"
        ),
    ] = None,
    full_rates: Annotated[
        str | None, typer.Option(help="The same for full fine-tuning.", show_default="its own")
    ] = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Find the smallest dimension in which training reaches 90 % of full fine-tuning (d90), and plot the search.

    Exits with 4 where a proof of a run failed.
    """
    from tunewise.cli.recipes import gather

    fields = gather(words or [], {"model": model, "data": data})
    shared = {name: value for name, value in fields.items() if name not in ("model", "data", "method", "seed")}
    limits, seed_numbers = numbers(between, "--between", int), seeds_of(seeds)
    if len(limits) != 2:
        raise UserError(f"--between {between} is no pair of numbers", "write two with a comma, as in --between 32,4096")
    sides = [at_each(rates, "--rates", shared), at_each(full_rates, "--full-rates", shared)]

    from tunewise import files
    from tunewise.comparison import intrinsic_dimension
    from tunewise.report import figure
    from tunewise.report.arms import read_arms
    from tunewise.training.reload import FRESH

    FRESH.stand_by()

    root = out or Path("runs/intrinsic-dimension")
    found = intrinsic_dimension(
        fields["data"], model=fields["model"], share=share, between=(limits[0], limits[1]), seeds=seed_numbers,
        out=root, intrinsic=sides[0], full=sides[1],
    )  # fmt: skip
    if figure.available():
        files.write_text(root / "intrinsic_dimension.svg", figure.search_for_a_dimension(found))
    if as_json:
        print_json(found)
    else:
        _print(found, limits[0])
        results().print(str(root), style="dim", soft_wrap=True)
    refuse_unproved(read_arms(root))


def _print(found: Mapping[str, Any], smallest: int) -> None:
    """A line a dimension, and the answer."""
    for point in found["points"]:
        mark = "reached" if point["value"] >= found["target"] else ""
        told = f"{found['metric']} {point['value']:6.1f}  at learning rate {point['learning_rate']:g}"
        results().print(f"d = {point['dimension']:<8,} {told}  {mark}")
    reached, last = found["dimension"], found["points"][-1]["dimension"]
    answer = f"d = {reached:,}" if reached else f"more than {last:,}"
    at_most = " or less" if reached == smallest else ""
    told = f"{found['share']:.0%} of full fine-tuning's {found['full']:.1f} is {found['target']:.1f}"
    results().print(f"\n{told}: {answer}{at_most}")


def numbers(text: str, option: str, kind: Callable[[str], N]) -> list[N]:
    """Numbers with commas between them; UserError for anything else."""
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        raise UserError(
            f"{option} {text} is no list of numbers", f"write them with commas, as in {option} 32,4096"
        ) from None


def at_each(rates: str | None, option: str, recipe: dict[str, Any]) -> list[dict[str, Any]]:
    """The recipe's fields with each of the learning rates; as they are where none is given."""
    if rates is None:
        return [recipe]
    train = recipe.get("train", {})
    return [{**recipe, "train": {**train, "learning_rate": rate}} for rate in numbers(rates, option, float)]
