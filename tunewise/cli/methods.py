"""`tunewise methods`: the registry as a table."""

from typing import Annotated, Any

import typer

from tunewise.cli.console import AsJson, print_json, results


def methods(
    as_json: AsJson = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table of docs/methods.md.")] = False,
    as_matrix: Annotated[
        bool, typer.Option("--matrix", help="Print which method acts on which kind of model.")
    ] = False,
) -> None:
    """List every method: what it trains, its paper, its default learning rate and where that comes from."""
    if as_matrix:
        _print_matrix(as_json)
        return
    rows = registry()
    if as_json:
        print_json(rows)
    elif markdown:
        results().out(markdown_table(rows), end="", highlight=False)
    else:
        _print_list(rows)


def _print_matrix(as_json: bool) -> None:
    from rich.table import Table

    from tunewise.methods.matrix import matrix

    found = matrix()
    if as_json:
        print_json(found)
        return
    kinds = list(next(iter(found.values())))
    reasons = list(dict.fromkeys(str(c["refused"]) for row in found.values() for c in row.values() if "refused" in c))
    table = Table("method", *(kind.replace("_", "-") for kind in kinds), box=None)
    for name, row in found.items():
        table.add_row(name, *(_cell(row[kind], reasons) for kind in kinds))
    console = results()
    console.print(table)
    console.print("\nThe numbers are the contract tests that passed: identity at birth, gradients, saving, folding ...")
    for number, reason in enumerate(reasons, 1):
        console.print(f"refused ({number}): {reason}")


def _cell(outcome: dict[str, Any], reasons: list[str]) -> str:
    if "refused" in outcome:
        return f"[dim]refused ({reasons.index(outcome['refused']) + 1})[/]"
    failed = f" [red]{outcome['failed']} failed[/]" if outcome["failed"] else ""
    return f"{outcome['passed']}{failed}"


def registry() -> list[dict[str, Any]]:
    """One plain mapping a method, in the registry's order."""
    from tunewise.methods import METHODS

    return [
        {
            "name": name,
            "family": method.family,
            "trains": method.trains,
            "equation": method.equation,
            "paper": method.paper,
            "learning_rate": method.learning_rate,
            "learning_rate_source": method.learning_rate_source,
            "fields": {
                field: {"default": about.default, "meaning": about.description or ""}
                for field, about in method.model_fields.items()
            },
        }
        for name, method in METHODS.items()
    ]


def markdown_table(rows: list[dict[str, Any]]) -> str:
    """The table that docs/methods.md holds; a test keeps the two equal."""
    lines = [
        "| method | family | trains | equation | learning rate | its source | paper |",
        "|---|---|---|---|--:|---|---|",
    ]
    for row in rows:
        cells = (
            f"`{row['name']}`", row["family"], row["trains"], f"`{row['equation']}`", learning_rate(row),
            row["learning_rate_source"], paper_link(row["paper"]),
        )  # fmt: skip
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def learning_rate(row: dict[str, Any]) -> str:
    return f"{row['learning_rate']:g}" if row["learning_rate"] else "–"


def paper_link(paper: str) -> str:
    number = paper.removeprefix("arXiv:")
    return f"[{paper}](https://arxiv.org/abs/{number})" if number != paper and " " not in number else paper


def _print_list(rows: list[dict[str, Any]]) -> None:
    from rich.padding import Padding
    from rich.text import Text

    console = results()
    for row in rows:
        head = Text(f"{row['name']:<15}", "bold").append(f"{row['family']}: trains {row['trains']}", "not bold")
        console.print(head.append(f"  {row['paper']}", "not bold dim"))
        rate = f"{learning_rate(row)} ({row['learning_rate_source']})" if row["learning_rate"] else ""
        details = {"equation": row["equation"], "fields": ", ".join(row["fields"]), "learning rate": rate}
        for name, value in details.items():
            if value:
                console.print(Padding(Text(f"{name}: ", "dim").append(value, "not dim"), (0, 0, 0, 15)))
    console.print("\n[dim]train one:[/] tunewise train --data tiny:sentiment --method lora method.rank=4")
