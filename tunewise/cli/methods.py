"""`tunewise methods`: the registry as a table, or one method with the source of every default."""

import ast
import inspect
import json
import textwrap
from functools import cache
from itertools import pairwise
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import typer

from tunewise.cli.console import AsJson, print_json, results
from tunewise.errors import UserError, unknown

if TYPE_CHECKING:
    from rich.text import Text

    from tunewise.methods.base import Method

DEFAULT = "Default: "  # what the sentence on a field's source begins with


def methods(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[METHOD]", help="Print this one, with every field.", show_default="all"),
    ] = None,
    as_json: AsJson = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the tables of docs/methods.md.")] = False,
    as_matrix: Annotated[
        bool, typer.Option("--matrix", help="Print which method acts on which kind of model.")
    ] = False,
) -> None:
    """List every method: what it trains, its paper, its default learning rate and where that comes from.

    Of one method, also how the trained tensors begin, and each field with its default and where that comes from.
    """
    if name is not None and (as_matrix or markdown):
        raise UserError("--matrix and --markdown are of all methods", hint=f"tunewise methods {name}")
    if as_matrix:
        _print_matrix(as_json)
        return
    rows = registry()
    if name is not None:
        row = next((row for row in rows if row["name"] == name), None)
        if row is None:
            raise unknown("method", name, (row["name"] for row in rows))
        print_json(row) if as_json else _print_one(row)
    elif as_json:
        print_json(rows)
    elif markdown:
        results().out(f"{markdown_table(rows)}\n{markdown_defaults(rows)}", end="", highlight=False)
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
    console.print("nf4, fp4, int8: on a decoder whose weights are quantised.")
    for number, reason in enumerate(reasons, 1):
        console.print(f"refused ({number}): {reason}")


def _cell(outcome: dict[str, Any], reasons: list[str]) -> "Text":
    from rich.text import Text

    if "refused" in outcome:
        return Text(f"refused ({reasons.index(outcome['refused']) + 1})", "dim")
    return Text.assemble(str(outcome["passed"]), (f" {outcome['failed']} failed" if outcome["failed"] else "", "red"))


@cache
def registry() -> list[dict[str, Any]]:
    """One plain mapping a method, in the registry's order."""
    from tunewise.methods import METHODS

    return [
        {
            "name": name,
            "family": method.family,
            "about": (method.__doc__ or "").partition("\n\n")[0],
            "trains": method.trains,
            "equation": method.equation,
            "paper": method.paper,
            "learning_rate": method.learning_rate,
            "learning_rate_source": method.learning_rate_source,
            "start": method.start,
            "fields": _fields(method),
        }
        for name, method in METHODS.items()
    ]


def _fields(method: "type[Method]") -> dict[str, dict[str, Any]]:
    told = descriptions(method)
    return {
        name: {"type": type_name(about.annotation), "default": about.default, **_told(told.get(name, ""))}
        for name, about in method.model_fields.items()
    }


def descriptions(config: type) -> dict[str, str]:
    """What stands below each field in the source of a class and of those it inherits from, the nearest first.

    Read when it is asked for: pydantic's `use_attribute_docstrings` would read every source at import.
    """
    found: dict[str, str] = {}
    for each in config.__mro__:
        if not each.__module__.startswith("tunewise."):
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(each))).body
        assert isinstance(tree, ast.ClassDef)
        for field, below in pairwise(tree.body):
            match field, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    found.setdefault(name, text)
    return found


def _told(description: str) -> dict[str, str]:
    """A field's description in one line, parted where it names the source of its default."""
    meaning, _, source = " ".join(description.split()).partition(DEFAULT)
    return {"meaning": meaning.rstrip(), "source": source.removesuffix(".")}


def type_name(annotation: Any) -> str:
    """A field's type in the words of a recipe."""
    parts = get_args(annotation)
    match get_origin(annotation):
        case origin if origin is Annotated:
            return type_name(parts[0])
        case origin if origin is Literal:
            return " | ".join(parts)
        case origin if origin in (Union, UnionType):
            return " | ".join(map(type_name, parts))
        case origin if origin is tuple:
            return f"[{type_name(parts[0])}, ...]"
        case origin if origin is dict:
            return f"{{name: {type_name(parts[1])}}}"
    return "null" if annotation is NoneType else annotation.__name__


def written(value: Any) -> str:
    """A default as one types it behind method.field=."""
    if isinstance(value, tuple):
        return f"[{', '.join(value)}]"
    return value if isinstance(value, str) and value else json.dumps(value)


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


def markdown_defaults(rows: list[dict[str, Any]]) -> str:
    """How each method begins and the source of each default, as docs/methods.md has it; a test keeps the two equal."""
    lines = ["| method | field | default | its source |", "|---|---|---|---|"]
    for row in rows:
        lines.append(f"| `{row['name']}` | (start) | | {row['start']} |")
        lines += [
            f"| | `{name}` | `{written(field['default'])}` | {field['source']} |"
            for name, field in row["fields"].items()
            if field["source"]
        ]
    return "\n".join(lines) + "\n"


def learning_rate(row: dict[str, Any]) -> str:
    return f"{row['learning_rate']:g}" if row["learning_rate"] else "–"


def paper_link(paper: str) -> str:
    number = paper.removeprefix("arXiv:")
    return f"[{paper}](https://arxiv.org/abs/{number})" if number != paper and " " not in number else paper


def _print_list(rows: list[dict[str, Any]]) -> None:
    from rich.text import Text

    for row in rows:
        _print_head(row, {"fields": ", ".join(row["fields"])})
    console = results()
    console.print(
        Text.assemble("\n", ("train one:", "dim"), " tunewise train --data tiny:sentiment --method lora method.rank=4")
    )
    console.print(Text.assemble(("all of one:", "dim"), " tunewise methods lora"))


def _print_one(row: dict[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    _print_head(row, {"start": row["start"], "about": row["about"]})
    if not row["fields"]:
        return
    table = Table("field", "type", "default", "", box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for name, field in row["fields"].items():
        told = Text(field["meaning"])
        if field["source"]:
            told.append(f"\nsource: {field['source']}", "dim")
        table.add_row(Text(name, "bold"), Text(field["type"]), Text(written(field["default"])), told)
    console = results()
    console.print()
    console.print(table)


def _print_head(row: dict[str, Any], more: dict[str, str]) -> None:
    from rich.padding import Padding
    from rich.text import Text

    console = results()
    head = Text(f"{row['name']:<17}", "bold").append(f"{row['family']}: trains {row['trains']}", "not bold")
    console.print(head.append(f"  {row['paper']}", "not bold dim"))
    rate = f"{learning_rate(row)} ({row['learning_rate_source']})" if row["learning_rate"] else ""
    for name, value in {"equation": row["equation"], "learning rate": rate, **more}.items():
        if value:
            console.print(Padding(Text(f"{name}: ", "dim").append(value, "not dim"), (0, 0, 0, 17)))
