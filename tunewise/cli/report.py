"""`tunewise report`: one html page from finished runs, their table as csv, a model card beside the adapter to ship."""

from pathlib import Path
from typing import Annotated

import typer

from tunewise.cli.console import AsJson, print_json, results, this_command


def report(
    runs: Annotated[
        list[Path], typer.Argument(help="Run folders, comparisons, or folders with run folders anywhere below them.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="The page, a file NAME.html, or a folder for it.", show_default="RUNS/report.html"
        ),
    ] = None,
    title: Annotated[str, typer.Option(help="The heading of the page.")] = "",
    csv: Annotated[
        Path | None, typer.Option(help="Also write the table here, one row a way.", show_default=False)
    ] = None,
    card: Annotated[
        bool, typer.Option("--card", help="Also write a model card, README.md, beside the adapter to ship.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write one self-contained html page: the verdict, every figure with its interval, answers, proofs."""
    from tunewise.report.card import write_card
    from tunewise.report.decision import decide
    from tunewise.report.export import table_of, write_csv
    from tunewise.report.page import write_page
    from tunewise.report.shown import shown_in

    shown = shown_in(runs)
    arms = shown.arms
    decision = decide(arms, shown.how.rule)
    rows = table_of(arms, decision, shown.diverged)
    place = out or (runs[0] if len(runs) == 1 else Path())
    file = place if place.suffix in (".html", ".htm") else place / "report.html"
    page = write_page(shown, file, title=title, commands=[this_command()])
    written = {"page": str(page)}
    if csv is not None:
        written["csv"] = str(write_csv(csv, rows))
    if card:
        written["card"] = str(write_card(arms, decision))
    if as_json:
        print_json({**written, "rows": rows})
    else:
        for path in written.values():
            results().print(f"wrote {path}", soft_wrap=True)
