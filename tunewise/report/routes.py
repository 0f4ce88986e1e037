"""What each way on for an adapter of a quantised base changes and costs, side by side in a terminal."""

import shlex
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tunewise.report import words

Found = Mapping[str, Any]  # what `tunewise.run.routes` finds
NAMES = {
    "attached": ("served", "attached"),
    "dequantised": ("into the", "dequantised"),
    "original": ("into the", "original"),
}


def print_routes(console: Console, found: Found) -> None:
    """A column a route, the attached model first; below, on what it was measured and what has to be typed."""
    routes = {name: told for name, told in found["routes"].items() if "impossible" not in told}
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("beside the attached adapter")
    for heading in ("without\nadapter", *("\n".join(NAMES[name]) for name in routes)):
        table.add_column(heading, justify="right", no_wrap=True)
    columns = [found["without_adapter"], *routes.values()]
    for name, tell in _figures(found).items():
        table.add_row(name, *map(tell, columns))
    console.print(table)
    for name, told in found["routes"].items():
        if "impossible" in told:
            console.print(Text(f"{name}: not possible, {told['impossible']}"))
    where = f"Measured on {found['measured_on']}, at {found['without_adapter']['n_labels']:,} labels."
    console.print(Text(f"{where} On disk: attached, the adapter alone, beside a base that others share.", "dim"))
    if "route" not in found:
        for name in routes:
            console.print(Text(f"{name:<12} {command(name, found['adapter'])}"), soft_wrap=True)
    if "folder" in found:
        size = words.size(found["routes"][found["route"]]["disk_bytes"])
        told = f"merged {found['adapter']} into the {found['route']} weights of {found['base']}"
        console.print(Text(f"{told}: wrote {found['folder']}, {size}"), soft_wrap=True)


def _figures(found: Found) -> dict[str, Callable[[Found], str]]:
    """Each row of the table: its name, and what it tells of a column."""
    rows: dict[str, Callable[[Found], str]] = {
        "largest change of a logit": lambda told: number(told["largest_change"]),
        "mean change of a logit": lambda told: number(told["mean_change"]),
        "KL, nats a label": lambda told: number(told["kl"]),
        "another token or class at the top": lambda told: share(told["agreement"], rest=True),
        "answers changed": lambda told: share(told["answers_changed"]),
    }
    for metric in found["without_adapter"]["metrics"] or ():
        digits = 1 if words.unit(metric) else 4
        name = words.in_unit(metric)
        rows[name] = lambda told, metric=metric, digits=digits: score(told["metrics"][metric], digits)
    rows["on disk"] = lambda told: words.size(told.get("disk_bytes", 0))
    rows["weights in memory"] = lambda told: words.size(told.get("memory_bytes", 0))
    return rows


def command(route: str, adapter: str) -> str:
    """What has to be typed to take a route."""
    if route == "attached":
        return f"tunewise.load_adapter(model, {adapter!r}), in Python"
    return f"tunewise adapter merge {shlex.quote(adapter)} --route {route} --out FOLDER"


def number(value: float | None) -> str:
    """0.0213, 3.2e-07, 0; a dash for what there is none of."""
    if value is None:
        return "–"
    return "0" if value == 0 else f"{value:.1e}" if abs(value) < 1e-3 else f"{value:.3g}"


def score(value: float | None, digits: int) -> str:
    """A metric, or a dash."""
    return "–" if value is None else f"{value:.{digits}f}"


def share(value: float | None, *, rest: bool = False) -> str:
    """A share in percent, or with `rest` what is left of it."""
    if value is None:
        return "–"
    return f"{100 * (1 - value if rest else value):.1f} %"
