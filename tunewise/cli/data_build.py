"""`tunewise data build`: instruction sets from annotated tasks, by templates."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from tunewise.cli.console import AsJson, Out, print_json, results
from tunewise.errors import UserError

SOURCE_FIELDS = ("data", "slots", "name")
HELD_OUT = {"": "", "task": ", itself held out", "cluster": ", held out"}
"""What the table says behind the cluster of a set, by how far it is from what is trained on."""


Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="TASK|SETS.yaml [FIELD=VALUE]...",
        help="Anything --data takes, or a yaml file with several tasks; then columns such as data.text=review.",
        show_default=False,
    ),
]
Templates = Annotated[
    str | None,
    typer.Option(
        "--templates", "-t", help="A cluster (`tunewise data templates`), a yaml file, or auto.", show_default="auto"
    ),
]
PerRow = Annotated[str | None, typer.Option(help="How many templates ask a training row, or all.", show_default="1")]
Shots = Annotated[int | None, typer.Option(help="Demonstrations before a training row.", show_default="0")]
FewShot = Annotated[float | None, typer.Option(help="Share of training rows that get them.", show_default="0.5")]
Options = Annotated[
    str | None, typer.Option(help="List the possible answers: mixed, always or never.", show_default="mixed")
]
Inverted = Annotated[
    float | None, typer.Option(help="Share of training rows that are turned round.", show_default="0.15")
]
Reasons = Annotated[float | None, typer.Option(help="Share of rows answered with their reasons.", show_default="0.5")]
HeldOut = Annotated[int | None, typer.Option(help="Templates a cluster that ask dev and test alone.", show_default="0")]
HoldOut = Annotated[
    list[str] | None,
    typer.Option(
        help="A cluster, or a task by its name, that is tested alone; as often as wanted.", show_default=False
    ),
]
Slots = Annotated[
    list[str] | None, typer.Option(help="A slot that is the same in every row, NAME=TEXT.", show_default=False)
]
Limit = Annotated[int | None, typer.Option(help="At most so many rows a part.", show_default="all")]
Messages = Annotated[bool | None, typer.Option("--messages", help="Write chat messages.", show_default=False)]
Seed = Annotated[int | None, typer.Option(help="What all of this is drawn by.", show_default="0")]


def build(
    words: Words = None,
    templates: Templates = None,
    out: Out = None,
    per_row: PerRow = None,
    shots: Shots = None,
    few_shot: FewShot = None,
    options: Options = None,
    inverted: Inverted = None,
    chain_of_thought: Reasons = None,
    held_out_templates: HeldOut = None,
    hold_out: HoldOut = None,
    limit: Limit = None,
    slot: Slots = None,
    messages: Messages = None,
    seed: Seed = None,
    as_json: AsJson = False,
) -> None:
    """Turn the rows of tasks into instructions and answers, train, dev and test apart."""
    flags = {
        "per_row": int(per_row) if per_row and per_row.isdecimal() else per_row,
        "shots": shots,
        "few_shot": few_shot,
        "options": options,
        "inverted": inverted,
        "chain_of_thought": chain_of_thought,
        "held_out_templates": held_out_templates,
        "hold_out": hold_out or None,
        "limit": limit,
        "messages": messages or None,
        "seed": seed,
    }
    plan = plan_of(words or [], templates, slot or [], flags)

    from tunewise.data.instruct.sets import build_instructions

    folder = out or Path("runs/instructions")
    found = [built.summary() for built in build_instructions(plan, folder)]
    if as_json:
        print_json({"folder": str(folder), "sets": found})
        return
    for built in found:
        if built["first_reason"]:
            results().print(f"{built['task']}: {built['rejected']} rows left out; {built['first_reason']}")
    print_sets(found)
    results().print(f"wrote {folder}", soft_wrap=True)


def plan_of(
    words: Sequence[str], templates: str | None, slots: Sequence[str], flags: Mapping[str, Any]
) -> dict[str, Any]:
    """The plan as plain data: a file or one task, then flags and assignments, the later winning over the earlier."""
    from tunewise.cli.recipes import split_words
    from tunewise.config import override, read_yaml

    first, assignments = split_words(words)
    if first is None:
        raise UserError("nothing to build from", "name a task, tiny:sentiment or a file, or a yaml file of several")
    if first.suffix.lower() in (".yaml", ".yml"):
        if templates is not None or slots:
            raise UserError(f"{first} says which templates ask each of its tasks", "leave out --templates and --slot")
        plan = read_yaml(first)
    else:
        source = {"data": {"path": words[0]}, "templates": templates or "auto"}
        source = override(source, [f"slots.{each}" for each in slots])
        own = [each for each in assignments if each.partition("=")[0].partition(".")[0] in SOURCE_FIELDS]
        source = override(source, own)
        assignments = [each for each in assignments if each not in own]
        plan = {"tasks": [source]}
    return override({**plan, **{name: value for name, value in flags.items() if value is not None}}, assignments)


def print_sets(found: Sequence[Mapping[str, Any]]) -> None:
    """A line a task: its cluster, the rows of each part, how many templates, and how many rows have which form."""
    from rich.table import Table

    forms = sorted({form for built in found for form in built["forms"]}, reverse=True)
    table = Table(box=None, pad_edge=False)
    for name in ("task", "cluster"):
        table.add_column(name, no_wrap=name == "task")
    for name in ("train", "dev", "test", "templates", *forms):
        table.add_column(name.replace("_", " "), justify="right")
    for built in found:
        numbers = [*built["rows"].values(), built["templates"], *(built["forms"].get(form, 0) for form in forms)]
        cluster = built["cluster"] + HELD_OUT[built["held_out"]]
        table.add_row(built["task"], cluster, *(f"{number:,}" for number in numbers))
    results().print(table)
