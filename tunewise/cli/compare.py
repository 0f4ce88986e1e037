"""`tunewise compare`: several methods and seeds on one task, and which to take."""

from typing import Annotated

import typer

from tunewise.cli.console import AsJson, Data, Model, Out
from tunewise.cli.train import Words


def compare(
    words: Words = None,
    model: Model = None,
    data: Data = None,
    methods: Annotated[
        str, typer.Option(help="Names from `tunewise methods`, with commas.")
    ] = "frozen,lora,bitfit,full",
    seeds: Annotated[str, typer.Option(help="Seeds, with commas.")] = "0,1,2",
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Train every method with every seed on the same data, and say which is worth it."""
    raise NotImplementedError
