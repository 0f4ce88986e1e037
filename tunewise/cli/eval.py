"""`tunewise eval`: a run, an adapter or a bare base, measured on a task."""

from pathlib import Path
from typing import Annotated

import typer

from tunewise.cli.console import AsJson, Data, Model, Out, print_json, results
from tunewise.errors import UserError


def evaluate(
    target: Annotated[
        Path | None,
        typer.Argument(metavar="[RUN_OR_ADAPTER]", help="A run folder, or an adapter folder.", show_default=False),
    ] = None,
    model: Model = None,
    data: Data = None,
    split: Annotated[str, typer.Option(help="test, dev or train.")] = "test",
    shots: Annotated[int, typer.Option(help="Demonstrations in the prompt, drawn from the training split.")] = 0,
    seed: Annotated[int, typer.Option(help="Which demonstrations are drawn.")] = 0,
    limit: Annotated[int | None, typer.Option(help="Only so many examples.", show_default="all")] = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Evaluate a run or an adapter, or with --model alone a base as it is."""
    if target is None and model is None:
        raise UserError("nothing to evaluate", "give a run or adapter folder, or --model tiny --data tiny:sentiment")

    from tunewise.run import evaluate as evaluate_run

    found = evaluate_run(
        target, model=model, data=data, split=split, shots=shots, seed=seed, limit=limit, out=out
    )  # fmt: skip
    if as_json:
        print_json(found)
        return
    for name, value in found["metrics"].items():
        results().print(f"{name:<14}{value:.4f}")
