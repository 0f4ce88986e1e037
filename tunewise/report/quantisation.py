"""What quantising a base cost: in a terminal, as a heat map of its weights' errors, and as a page of its own."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tunewise.report import figure, words
from tunewise.report.figure import INK, SERIES, as_written, subplots, svg
from tunewise.report.routes import number, score, share
from tunewise.report.templating import template

PAGE = "quantisation.html"
MOST_LAYERS = 16
"""Layers that a terminal shows; of more, those that lost most."""
OUTSIDE = "–"
"""The row of what stands outside the layers."""

Found = Mapping[str, Any]  # what `tunewise.quantize` returns


def print_quantisation(console: Console, found: Found) -> None:
    """The errors by layer and role, the roles summed up, and what the rows told."""
    console.print(Text(f"‖W − Q‖ / ‖W‖ in %, {headline(found)}", "bold"))
    shown = layers_that_lost_most(found)
    console.print(_by_layer(found, shown))
    if len(shown) < (n := len(layers_of(found))):
        console.print(Text(f"the {len(shown)} of {n} layers that lost most", "dim"))
    console.print()
    console.print(_by_role(found))
    console.print()
    console.print(_measured(found))
    console.print(Text(note(found), "dim"))
    if "folder" in found:
        console.print(Text(f"wrote {found['folder']}, {words.size(found['disk_bytes'])}", "dim"), soft_wrap=True)


def headline(found: Found) -> str:
    """tiny in nf4: 9.3 % over all weights."""
    name, told = words.base_called(found["model"]), 100 * found["relative_error"]
    return f"{name} in {found['format']}: {told:.3g} over all {len(found['weights'])} weights"


def layers_of(found: Found) -> list[str]:
    """The names of the rows: layers by number, and what is in none."""
    numbers = sorted({each["layer"] for each in found["weights"] if each["layer"] is not None})
    outside = any(each["layer"] is None for each in found["weights"])
    return [*map(str, numbers), *([OUTSIDE] if outside else [])]


def roles_of(found: Found) -> list[str]:
    """The names of the columns, in the order of the model."""
    return list(dict.fromkeys(each["role"] for each in found["weights"]))


def errors_at(found: Found) -> dict[tuple[str, str], float]:
    """(layer, role) -> the relative error in percent, the largest where several weights share the place."""
    errors: dict[tuple[str, str], float] = {}
    for each in found["weights"]:
        place = (OUTSIDE if each["layer"] is None else str(each["layer"]), each["role"])
        errors[place] = max(errors.get(place, 0.0), 100 * each["relative"])
    return errors


def roles(found: Found) -> Iterator[tuple[str, list[Mapping[str, Any]]]]:
    """Each role with its weights."""
    for role in roles_of(found):
        yield role, [each for each in found["weights"] if each["role"] == role]


def worst(weights: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Of these weights the one that lost most."""
    return max(weights, key=lambda each: each["relative"])


def figures(found: Found) -> list[tuple[str, str, str, str]]:
    """(what, before, after, change) of everything that the rows told; sizes first."""
    before, after = found["bytes_before"], found["bytes_after"]
    told = [("weights in memory", words.size(before), words.size(after), f"{before / after:.2f}× smaller")]
    kept = found["kept_dense"]
    if kept:
        n_kept = sum(kept.values())
        told.append((f"of these as they were: {_ends(kept)}", "", words.size(n_kept), f"{n_kept / after:.0%} of it"))
    for name, value in ((found["metrics"] or {}).get("before") or {}).items():
        new, digits = found["metrics"]["after"][name], 1 if words.unit(name) else 4
        change = "–" if value is None or new is None else signed(new - value, digits)
        decided = found["changes"]["score"]
        if decided and decided["metric"] == name and decided["interval"]:
            change += f" [{', '.join(signed(end, digits) for end in decided['interval'])}]"
        title = words.in_unit(name)
        told.append((title, score(value, digits), score(new, digits), change))
    changes = found["changes"] or {}
    for name, title, tell in (
        ("kl", "KL(original ‖ quantised), nats a label", number),
        ("agreement", "the same token or class at the top", share),
        ("answers_changed", "answers changed", share),
        ("mean_change", "mean change of a logit", number),
        ("largest_change", "largest change of a logit", number),
    ):
        if changes.get(name) is not None:
            told.append((title, "", "", tell(changes[name])))
    return told


def note(found: Found) -> str:
    """On what it was measured, or that it was not."""
    if found["measured_on"] is None:
        return "No rows were given, so nothing was measured of what it says: add --data FILE."
    told = f"Measured on {found['measured_on']}, at {found['changes']['n_labels']:,} labels."
    decided = found["changes"]["score"]
    return f"{told} In brackets: the 95 % interval over rows." if decided and decided["interval"] else told


def signed(value: float, digits: int) -> str:
    """+1.2, with a true minus sign; 0 for what rounds to it."""
    return f"{value:+.{digits}f}".replace("-", "−") if round(value, digits) else "0"


def decimals(errors: Iterable[float]) -> int:
    """Of errors in percent that stand in one table."""
    return 2 if max(errors) >= 1 else 3


def heat_map(found: Found) -> str:
    """Layers by roles, deeper where more was lost. SVG text."""
    rows, columns, errors = layers_of(found), roles_of(found), errors_at(found)
    low, high, digits = min(errors.values()), max(errors.values()), decimals(errors.values())
    made, (axis,) = subplots((1, 1), 1.2 + 0.85 * len(columns), 1.0 + 0.34 * len(rows))
    for (layer, role), error in errors.items():
        x, y = columns.index(role), rows.index(layer)
        depth = 0.12 + 0.68 * ((error - low) / (high - low) if high > low else 0.5)
        axis.fill_between([x - 0.48, x + 0.48], y - 0.46, y + 0.46, color=SERIES[3], alpha=depth, linewidth=0)
        axis.text(x, y, f"{error:.{digits}f}", ha="center", va="center", color=INK, size=8.5)
    axis.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(rows) - 0.5, -0.5), ylabel="layer")
    axis.set_xticks(range(len(columns)), list(map(as_written, columns)))
    axis.xaxis.tick_top()
    axis.set_yticks(range(len(rows)), rows)
    axis.grid(visible=False)
    for side in axis.spines.values():
        side.set_visible(False)
    return svg(made)


def page_text(found: Found, *, commands: Sequence[str] = ()) -> str:
    """One self-contained html page: the figures, the heat map, and every weight, those that lost most first."""
    return template("quantisation.html.jinja").render(
        found=found,
        name=words.base_called(found["model"]),
        figures=figures(found),
        note=note(found),
        drawn=heat_map(found) if figure.available() else None,
        weights=sorted(found["weights"], key=lambda each: each["relative"], reverse=True),
        commands=commands,
        number=number,
        made=datetime.now(UTC).strftime("%d %B %Y"),
    )


def layers_that_lost_most(found: Found) -> list[str]:
    """Every layer in order where they fit into a terminal, else those with the largest mean error, the worst first."""
    errors, every = errors_at(found), layers_of(found)
    if len(every) <= MOST_LAYERS:
        return every
    means = {layer: _mean([error for (row, _), error in errors.items() if row == layer]) for layer in every}
    return sorted(every, key=means.__getitem__, reverse=True)[:MOST_LAYERS]


def _by_layer(found: Found, shown: Sequence[str]) -> Table:
    errors = errors_at(found)
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("layer")
    for role in roles_of(found):
        table.add_column(role, justify="right", no_wrap=True)
    ranked = sorted(errors.values())
    high, digits = ranked[int(0.9 * len(ranked))], decimals(ranked)
    for layer in shown:
        told = (errors.get((layer, role)) for role in roles_of(found))
        table.add_row(layer, *(Text("" if e is None else f"{e:.{digits}f}", _style(e, high, ranked[-1])) for e in told))
    return table


def _style(error: float | None, high: float, highest: float) -> str:
    """The weight that lost most stands out, and the tenth of them that did."""
    if error is None or error < high:
        return ""
    return "bold red" if error == highest else "yellow"


def _by_role(found: Found) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("role")
    for heading in ("weights", "mean %", "worst %", "in layer", "largest |W − Q|", "before", "after"):
        table.add_column(heading, justify="right", no_wrap=True)
    digits = decimals(errors_at(found).values())
    for role, weights in roles(found):
        last = worst(weights)
        table.add_row(
            role,
            str(len(weights)),
            f"{100 * _mean([each['relative'] for each in weights]):.{digits}f}",
            f"{100 * last['relative']:.{digits}f}",
            OUTSIDE if last["layer"] is None else str(last["layer"]),
            number(max(each["largest"] for each in weights)),
            words.size(sum(each["bytes_before"] for each in weights)),
            words.size(sum(each["bytes_after"] for each in weights)),
        )
    return table


def _measured(found: Found) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("the whole model")
    for heading in (found["dtype"], found["format"], "change"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in figures(found):
        table.add_row(*row)
    return table


def _ends(names: Iterable[str]) -> str:
    """The last parts of paths, each once, as many as fit into a line."""
    first, *others = dict.fromkeys(name.rpartition(".")[2] for name in names)
    return words.listing([first, *others]) if len(others) < 2 else f"{first} and {len(others)} others"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
