"""`tunewise eval`: a run, an adapter or a bare base, measured on a task."""

from typing import Annotated

import typer

from tunewise.cli.console import AsJson, Data, Model, Out, print_json, results
from tunewise.errors import UserError


def evaluate(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RUN_OR_ADAPTER] [FIELD=VALUE]...",
            help="A run or adapter folder, and overrides such as quantise=nf4 generation.do_sample=true.",
            show_default=False,
        ),
    ] = None,
    model: Model = None,
    data: Data = None,
    split: Annotated[str, typer.Option(help="test, dev, train or all.")] = "test",
    shots: Annotated[int, typer.Option(help="Demonstrations in the prompt, drawn from the training split.")] = 0,
    seed: Annotated[
        int | None, typer.Option(help="Which demonstrations and tokens are drawn.", show_default="the run's, or 0")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Only so many examples.", show_default="all")] = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Evaluate a run or an adapter, or with --model alone a base as it is."""
    from tunewise.cli.recipes import assigned, split_words
    from tunewise.data.task import find

    target, assignments = split_words(words or [])
    if target is None and model is None:
        raise UserError("nothing to evaluate", "give a run or adapter folder, or --model tiny --data tiny:sentiment")
    if data is not None:
        find(data)

    from tunewise.run import evaluate as evaluate_run

    overrides = ({} if seed is None else {"seed": seed}) | assigned(assignments)
    found = evaluate_run(
        target, model=model, data=data, split=split, shots=shots, limit=limit, out=out, overrides=overrides
    )  # fmt: skip
    if as_json:
        print_json(found)
        return
    for name, value in found["metrics"].items():
        results().print(f"{name:<18}{value:.4f}")
