"""`tunewise plan`: what each method would train, store, hold in memory and take in time, before anything is spent."""

from pathlib import Path
from typing import Annotated

import typer

from tunewise.cli.console import AsJson, Data, print_json, progress_lines, results
from tunewise.cli.plan_grade import print_grade
from tunewise.errors import UserError


def plan(
    model: Annotated[
        str | None,
        typer.Argument(
            help="tiny, a folder, a hub name, or a well-known shape such as llama-3.1-8b.", show_default=False
        ),
    ] = None,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FIELD=VALUE]...",
            help="Fields of a recipe, such as train.batch_size=4 train.max_length=1024 train.checkpointing=true.",
            show_default=False,
        ),
    ] = None,
    methods: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            help="One of `tunewise methods`, as in lora:rank=64, or all; may be given several times.",
            show_default="full, top_layers, lora",
        ),
    ] = None,
    data: Data = None,
    device: Annotated[
        str, typer.Option(help="auto (this machine), cpu, a card such as rtx4090 or h200, or memory alone: 24GB.")
    ] = "auto",
    quant: Annotated[str, typer.Option(help="nf4, fp4 or int8: keep the base's linear weights in it.")] = "",
    price: Annotated[
        float | None, typer.Option(help="Of an hour on the device, in any money.", show_default=False)
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw memory by method to this file (svg, png, pdf).", show_default=False)
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Carry a few worst steps out here, and correct memory and time by them.")
    ] = False,
    grade: Annotated[
        bool,
        typer.Option("--grade", help="Tell how far plans were off: of the runs in the folders given, or in runs/."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Tell what methods would take on a device: parameters, memory, time, what would fit; or --grade the planner."""
    if grade:
        print_grade([*([model] if model else []), *(words or [])], plot, as_json=as_json)
        return
    if model is None:
        raise UserError("no base is named", "tunewise plan llama-3.1-8b, or --grade for the runs so far")

    from tunewise.cli.recipes import assigned, method_of
    from tunewise.data.found import find

    if wrong := next((word for word in words or () if "=" not in word or word.startswith("method")), None):
        raise UserError(
            f"cannot read {wrong!r}",
            "after MODEL come fields such as train.batch_size=4; methods are --method lora:rank=4",
        )
    asked = [word if word == "all" else method_of(word)[1] for word in methods or ()]
    if data is not None:
        find(data)

    if measure and device not in ("auto", "cpu"):
        raise UserError(f"a step is measured here, not on {device}", "leave --device out, or --measure")

    from tunewise.run.estimate import measured_plan
    from tunewise.run.estimate import plan as estimate

    with progress_lines().status("planning") as status:
        told = {
            "data": data, "quantise": quant, "price": price, "overrides": assigned(words or []),
            "progress": lambda method: status.update(f"planning {method}"),
        }  # fmt: skip
        found = measured_plan(model, asked, **told) if measure else estimate(model, asked, device=device, **told)
    if plot is not None:
        from tunewise.report.plan_figure import write_figure

        write_figure(found, plot)
    if as_json:
        print_json(found.as_data())
        return

    from tunewise.report.plan_table import print_plan

    print_plan(results(), found)
    if plot is not None:
        results().print(f"\nfigure: {plot}", soft_wrap=True)
