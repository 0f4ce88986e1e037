"""`tunewise plan`: what each method would train and store, before anything is spent."""

from typing import Annotated

import typer

from tunewise.cli.console import AsJson, print_json, results


def plan(
    model: Annotated[str, typer.Option("--model", "-m", help="tiny, a folder, or a hub name.")] = "tiny",
    methods: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[METHOD]...",
            help="Names, with fields after colons as in lora:rank=4.",
            show_default="every method",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Count trainable parameters and adapter bytes of methods on a base; only the base's config is read."""
    from tunewise.cli.recipes import method_of

    named = dict(map(method_of, methods or ()))

    from tunewise.planning import plan as count

    plans = count(model, named.values())
    if as_json:
        names = ("n_trainable", "n_base", "adapter_bytes")
        print_json([{"method": p.method.configuration(), **{n: getattr(p, n) for n in names}} for p in plans])
        return

    from rich.table import Table

    from tunewise.report import words

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("method")
    for heading in ("trained", f"of {words.count(plans[0].n_base)}", "adapter"):
        table.add_column(heading, justify="right")
    for label, p in zip(named or [each.method.name for each in plans], plans):
        table.add_row(label, words.count(p.n_trainable), f"{p.share:.3%}", words.size(p.adapter_bytes))
    results().print(table)
