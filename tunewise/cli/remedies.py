"""`tunewise remedies`: what helps against forgetting, measured for one method."""

from pathlib import Path
from typing import Annotated

import typer

from tunewise.cli.compare import seeds_of
from tunewise.cli.console import AsJson, Data, Model, OneMethod, Out, print_json, progress_lines, results
from tunewise.cli.train import Words
from tunewise.cli.unproved import refuse_unproved


def remedies(
    words: Words = None,
    model: Model = None,
    data: Data = None,
    method: OneMethod = None,
    replay: Annotated[
        str | None, typer.Option(help="A file or task of general text to replay.", show_default="tiny's own")
    ] = None,
    mixture: Annotated[
        str | None, typer.Option(help="Other tasks to mix in, with commas.", show_default="some of tiny's")
    ] = None,
    seeds: Annotated[str, typer.Option(help="Seeds, with commas.")] = "0,1,2",
    points: Annotated[int, typer.Option(min=2, help="How many λ of the dial are measured.")] = 11,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Train one method as it is, at a lower rank, with replay and in a mixture, turn it down, and compare.

    Exits with 4 where a proof of a run failed.
    """
    from tunewise.cli.recipes import gather

    fields = gather(words or [], {"model": model, "data": data, "method": method})
    numbers, given = seeds_of(seeds), {name: value for name, value in fields.items() if name not in ("data", "seed")}

    from tunewise.cli.progress import RunsProgress
    from tunewise.comparison import remedies as carry_out
    from tunewise.report.arms import read_arms
    from tunewise.report.table import print_remedies
    from tunewise.training.reload import FRESH

    FRESH.stand_by()

    root, others = out or Path("runs/remedies"), None if mixture is None else mixture.split(",")
    with RunsProgress(progress_lines()) as progress:
        found = carry_out(
            fields["data"], recipe=given, replay=replay, mixture=others, seeds=numbers, points=points, out=root,
            progress=progress,
        )  # fmt: skip
    if as_json:
        print_json(found)
    else:
        print_remedies(results(), found)
    refuse_unproved(read_arms(root))
