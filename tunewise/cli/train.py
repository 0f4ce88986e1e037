"""`tunewise train`: a base, a method and data in; a run folder with a proved adapter out."""

from pathlib import Path
from typing import Annotated

import typer

from tunewise.cli.console import AsJson, Data, Model, OneMethod, Out, leave_unproved, print_json, results
from tunewise.cli.unproved import look_at
from tunewise.errors import UserError

Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[RECIPE.yaml] [FIELD=VALUE]...",
        help="A recipe file, and overrides such as train.learning_rate=2e-4 method.rank=4 data.train=500.",
        show_default=False,
    ),
]
IgnoreFindings = Annotated[
    bool, typer.Option("--ignore-findings", help="Do not ask the data doctor (`tunewise data check`) first.")
]


def train(
    words: Words = None,
    model: Model = None,
    data: Data = None,
    method: OneMethod = None,
    seed: Annotated[
        int | None, typer.Option(help="Initialisation, data order, few-shot sample.", show_default="0")
    ] = None,
    out: Out = None,
    ignore_findings: IgnoreFindings = False,
    as_json: AsJson = False,
) -> None:
    """Train one method on one data set, evaluate it on test, and prove the adapter.

    Exits with 4 where a proof failed: the run is kept, and says which.
    """
    from tunewise.cli.recipes import gather

    recipe = gather(words or [], {"model": model, "data": data, "method": method, "seed": seed}, goes_on=True)

    if "arms" in recipe:
        raise UserError("this recipe has arms, which a single run has not", "tunewise compare carries them all out")

    from tunewise.config import parse
    from tunewise.report.table import print_run
    from tunewise.run import Recipe, failed_proofs, going_on, is_done, refuse_unfit, run, run_folder
    from tunewise.training.progress import watcher_for
    from tunewise.training.reload import FRESH

    FRESH.stand_by()

    parsed = parse(Recipe, going_on(recipe))
    folder = out if out is not None else run_folder(parsed, Path("runs"))
    if not (ignore_findings or is_done(folder)):
        refuse_unfit([parsed])
    metrics = run(parsed, folder, progress=watcher_for())
    if as_json:
        print_json({"folder": str(folder), **metrics})
    else:
        print_run(results(), folder, metrics)
    leave_unproved(failed_proofs(metrics["proofs"]), look_at([folder]))
