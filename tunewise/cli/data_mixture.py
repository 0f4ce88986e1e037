"""`tunewise data mixture`: what a run would draw of each source, before anything is trained."""

from typing import Annotated

import typer

from tunewise.cli.console import AsJson, Data, Model, print_json, results
from tunewise.cli.train import Words


def mixture(
    words: Words = None,
    model: Model = None,
    data: Data = None,
    seed: Annotated[int | None, typer.Option(help="The seed of the run.", show_default="0")] = None,
    as_json: AsJson = False,
) -> None:
    """Tell how many examples, epochs and tokens of each source of a mixture a run would see."""
    from tunewise.cli.recipes import gather

    recipe = gather(words or [], {"model": model, "data": data, "seed": seed})

    from tunewise.config import parse
    from tunewise.run import Recipe, in_columns, mixing_table

    table = mixing_table(parse(Recipe, recipe))
    if as_json:
        print_json(table)
    else:
        results().print(in_columns(table), soft_wrap=True)
