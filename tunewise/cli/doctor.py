"""`tunewise doctor`: what was measured on this machine, what the engine chose for it, and why."""

from typing import Annotated

import typer

from tunewise.cli.console import AsJson, print_json, results


def doctor(
    again: Annotated[bool, typer.Option("--again", help="Measure anew: the machine was busy the first time.")] = False,
    as_json: AsJson = False,
) -> None:
    """Measure this machine (once) and print what the engine chose: products, memory, threads, attention."""
    from tunewise.engine.backend import told

    found = told(again)
    if as_json:
        print_json(found)
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False, pad_edge=False)
    for name, value in found.items():
        shown = ", ".join(f"{key} {each:g}" for key, each in value.items()) if isinstance(value, dict) else str(value)
        table.add_row(Text(name, "dim"), shown)
    results().print(table)
