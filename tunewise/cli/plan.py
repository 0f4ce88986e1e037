"""`tunewise plan`: what each method would train, store, hold in memory and take in time, before anything is spent."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunewise.cli.console import AsJson, Data, print_json, progress_lines, results
from tunewise.cli.plan_grade import print_grade
from tunewise.errors import UserError
from tunewise.garbage import not_collecting

if TYPE_CHECKING:
    from tunewise.planning.base_plan import Plan

Model = Annotated[
    str | None,
    typer.Argument(help="tiny, a folder, a hub name, or a well-known shape such as llama-3.1-8b.", show_default=False),
]
Fields = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[FIELD=VALUE]...",
        help="Fields of a recipe, such as train.batch_size=4 train.max_length=1024 train.checkpointing=true.",
        show_default=False,
    ),
]
Methods = Annotated[
    list[str] | None,
    typer.Option(
        "--method",
        "--methods",
        help="Those of `tunewise methods`, with commas, as in full,lora:rank=64; or all. May be given several times.",
        show_default="full, top_layers, lora",
    ),
]
Device = Annotated[
    str, typer.Option(help="auto (this machine), cpu, a card such as rtx4090 or h200, or memory alone: 24GB.")
]
Quant = Annotated[
    str, typer.Option(help="nf4, fp4 or int8: keep the linear weights in it; nf4-ends8: the rest in int8.")
]
Price = Annotated[float | None, typer.Option(help="Of an hour on the device, in any money.", show_default=False)]
Plot = Annotated[
    Path | None, typer.Option(help="Draw memory by method to this file (svg, png, pdf).", show_default=False)
]
Measure = Annotated[
    bool, typer.Option("--measure", help="Carry a few worst steps out here, and correct memory and time by them.")
]
Grade = Annotated[
    bool, typer.Option("--grade", help="Tell how far plans were off: of the runs in the folders given, or in runs/.")
]


def plan(
    model: Model = None,
    words: Fields = None,
    methods: Methods = None,
    data: Data = None,
    device: Device = "auto",
    quant: Quant = "",
    price: Price = None,
    plot: Plot = None,
    measure: Measure = False,
    grade: Grade = False,
    as_json: AsJson = False,
) -> None:
    """Tell what methods would take on a device: parameters, memory, time, what would fit; or --grade the planner."""
    if grade:
        print_grade([*([model] if model else []), *(words or [])], plot, as_json=as_json)
        return
    if model is None:
        raise UserError("no base is named", "tunewise plan llama-3.1-8b, or --grade for the runs so far")
    if measure and device not in ("auto", "cpu"):
        raise UserError(f"a step is measured here, not on {device}", "leave --device out, or --measure")
    if data is not None:
        from tunewise.data.found import find

        find(data)
    asked = methods_of(methods or [])
    told: dict[str, Any] = {"data": data, "quantise": quant, "price": price, "overrides": fields_of(words or [])}

    with not_collecting():  # the search took a fifth of a plan
        from tunewise.run.estimate import measured_plan
        from tunewise.run.estimate import plan as estimate

        with progress_lines().status("planning") as status:
            told["progress"] = lambda method: status.update(f"planning {method}")
            found = measured_plan(model, asked, **told) if measure else estimate(model, asked, device=device, **told)
    show(found, plot, as_json=as_json)


def methods_of(words: list[str]) -> list[Any]:
    """The fields of each method, and `all` as it is."""
    from tunewise.config import in_one_word, parts_of

    each = [part.strip() for word in words for part in parts_of(word, ",")]
    return [part if part == "all" else in_one_word(part) for part in each if part]


def fields_of(words: list[str]) -> dict[str, Any]:
    """Dotted field -> value; UserError for what is none, and for a field of a method."""
    from tunewise.cli.recipes import assigned

    wrong = next((word for word in words if "=" not in word or word.startswith("method")), None)
    if wrong is not None:
        told = "after MODEL come fields such as train.batch_size=4; methods are --method lora:rank=4"
        raise UserError(f"cannot read {wrong!r}", told)
    return assigned(words)


def show(found: "Plan", plot: Path | None, *, as_json: bool) -> None:
    """The plan as tables or as json, and as a figure where one is wanted."""
    from tunewise.report.plan_figure import write_figure
    from tunewise.report.plan_table import print_plan

    if plot is not None:
        write_figure(found, plot)
    if as_json:
        print_json(found.as_data())
        return
    print_plan(results(), found)
    if plot is not None:
        results().print(f"\nfigure: {plot}", soft_wrap=True)
