"""`tunewise report`: one html page from finished runs."""

from pathlib import Path
from typing import Annotated

import typer

from tunewise.cli.console import AsJson, Out, print_json, results, this_command


def report(
    runs: Annotated[Path, typer.Argument(help="A run folder, or a folder with run folders anywhere below it.")],
    out: Out = None,
    title: Annotated[str, typer.Option(help="The heading of the page.")] = "",
    as_json: AsJson = False,
) -> None:
    """Write one self-contained html page: table, quality against cost, loss curves, samples, proofs."""
    from tunewise.report.page import write_page

    page = write_page(runs, out or runs / "report.html", title=title, commands=[this_command()])
    if as_json:
        print_json({"page": str(page)})
    else:
        results().print(f"wrote {page}", soft_wrap=True)
