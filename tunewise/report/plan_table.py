"""A plan in a terminal: what each method takes, its memory by term, what would fit instead, and a last sentence."""

import math
import textwrap
from dataclasses import asdict

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tunewise.planning.alternatives import GIVEN_UP
from tunewise.planning.base_plan import Plan
from tunewise.planning.correction import Correction
from tunewise.planning.devices import larger_than
from tunewise.planning.method_plan import MOST_ROWS, MethodPlan
from tunewise.report import words

TERMS = {
    "weights": "weights",
    "constants": "scales",
    "gradients": "grads",
    "optimiser": "moments",
    "activations": "activ.",
    "logits": "logits",
    "cache": "cache",
    "workspace": "work",
    "process": "process",
}
"""The terms of `Memory`, as short as a column."""
MOST_ALTERNATIVES = 4
"""That are shown of a method; --json has them all."""


def print_plan(console: Console, plan: Plan) -> None:
    """All of it."""
    n_base = words.count(plan.n_base)
    active = "" if plan.n_active == plan.n_base else f" ({words.count(plan.n_active)} active for a token)"
    head = f"{words.base_called(plan.model)}, {n_base} parameters{active}, on {_device(plan)}"
    _print(console, head, "bold")
    _print(console, plan.told, "dim")
    if plan.correction is not None:
        _print(console, measured(plan.correction))
    console.print()
    console.print(methods_table(plan))
    console.print()
    console.print(memory_table(plan))
    for each in (each for each in plan.methods if each.trunk_plan.is_cached):
        _print(console, kept(each, on_host=plan.device.type != "cpu"), "dim")
    lacking = [each for each in plan.methods if not each.fits]
    for each in (each for each in lacking if each.alternatives):
        console.print()
        console.print(alternatives_table(each, MOST_ALTERNATIVES if len(lacking) <= 3 else 1))
    console.print()
    for each in (each for each in lacking if not each.alternatives):
        _print(console, _nothing(each), "red")
    for label, reason in plan.refused.items():
        _print(console, f"{label} is left out: {reason}", "dim")
    _print(console, last_sentence(plan), "bold")


def _print(console: Console, text: str, style: str = "") -> None:
    """Prose, no number of which is parted from its unit at the end of a line."""
    lines = textwrap.fill(words.unbroken(text), console.width, break_long_words=False, break_on_hyphens=False)
    console.print(Text(lines.replace("\u00a0", " "), style=style))


def measured(found: Correction) -> str:
    """The step that was carried out, beside its plan, and what that changes."""
    held = "" if found.bytes is None else f" and {words.size(found.bytes)}"
    times = [f"time × {found.of_seconds:.2f}"]
    if found.bytes is not None:
        times.append(f"what a batch takes × {found.of_batch:.2f}")
    return (
        f"measured: {found.n_steps} steps of {found.label}, {words.duration(found.seconds)} each{held}, "
        f"planned {words.duration(found.planned_seconds)} and {words.size(found.planned.total)}; "
        f"so in every row {words.listing(times)}"
    )


def methods_table(plan: Plan) -> Table:
    """A row a method: what it trains and stores, the memory that is left, how far that goes, and how long it takes."""
    table = _table("method", "trained", "share", "adapter", "left", "batch", "tokens", "time")
    if plan.price is not None:
        table.add_column("cost", justify="right", no_wrap=True)
    has_cached = any(each.trunk_plan.is_cached for each in plan.methods)
    if has_cached:
        table.add_column("trunk", no_wrap=True)
    for each in plan.methods:
        seconds, cost = plan.seconds(each), plan.cost(each)
        left = plan.device.memory_bytes - each.memory.total
        row = [
            each.label,
            words.count(each.counted.n_trainable),
            share(each.counted.share),
            words.size(each.counted.adapter_bytes),
            Text(words.size(left) if each.fits else f"−{words.size(-left)}", "green" if each.fits else "red"),
            at_most(each.largest_rows, MOST_ROWS),
            "–" if each.largest_tokens is None else at_most(each.largest_tokens),
            "–" if seconds is None else about(seconds),
        ]
        if plan.price is not None:
            row.append("–" if cost is None else money(cost))
        if has_cached:
            row.append("cached" if each.trunk_plan.is_cached else "live")
        table.add_row(*row)
    return table


def kept(of: MethodPlan, on_host: bool) -> str:
    """What is run once for each row, and where what leaves it goes."""
    plan, memory = of.trunk_plan, "in the host's memory" if on_host else "in memory"
    places = ((plan.memory_bytes, memory), (plan.mapped_bytes, "on the disk"))
    where = words.listing([f"{words.size(n)} {place}" for n, place in places if n]) or "nowhere"
    room = f"; for {share(plan.missing)} of the rows there is no room" if plan.missing else ""
    layers, them = ("1 frozen layer runs", "it") if plan.layers == 1 else (f"{plan.layers} frozen layers run", "them")
    return f"{of.label}: {layers} once for each row, and what leaves {them} is kept, {where}{room}"


def memory_table(plan: Plan) -> Table:
    """A row a method: bytes by what they hold, all in one unit; terms that no method has are left out."""
    most = max((each.memory.total for each in plan.methods), default=0)
    unit_bytes, unit = next((n, name) for n, name in ((10**9, "GB"), (10**6, "MB"), (1, "B")) if most >= n or n == 1)
    terms = [name for name in TERMS if any(asdict(each.memory)[name] for each in plan.methods)]
    table = _table(f"memory, {unit}", *(TERMS[name] for name in terms), "all")
    table.padding = (0, 1 if len(terms) == len(TERMS) else 2, 0, 0)
    for each in plan.methods:
        found = asdict(each.memory)
        numbers = [*(found[name] for name in terms), each.memory.total]
        table.add_row(each.label, *(quantity(n / unit_bytes) for n in numbers))
    return table


def alternatives_table(of: MethodPlan, most: int) -> Table:
    """What would fit in the place of this method as it was asked for, the cheapest first."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    heading = Text.assemble((of.label, "not dim"), " does not fit, but would with")
    table.add_column(heading, min_width=len(heading))
    for heading in ("memory", "time"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("gives up")
    for each in of.alternatives[:most]:
        time = "–" if each.time is None else words.times(each.time)
        table.add_row(" ".join(each.typed), words.size(each.memory.total), time, each.gives_up)
    return table


def last_sentence(plan: Plan) -> str:
    """What to take away: how far the first that fits goes, or the nearest change that would fit."""
    fitting = [each for each in plan.methods if each.fits]
    if fitting:
        n_others = len(fitting) - 1
        others = f"; {n_others} more {'fits' if n_others == 1 else 'fit'} as well" if n_others else ""
        return _how_far(plan, fitting[0]) + others + "."
    near = [(each, other) for each in plan.methods for other in each.alternatives]
    if near:
        each, best = min(near, key=lambda pair: (GIVEN_UP.index(pair[1].gives_up), pair[1].time or 0))
        told = f"{each.label} with {' '.join(best.typed)}, in {words.size(best.memory.total)}"
        return f"Nothing fits as asked. The nearest that does: {told}."
    least = min((each.memory.total for each in plan.methods), default=0)
    names, holds = larger_than(least), f"that holds {words.size(least)}"
    where = f"the smallest device {holds} is {names[0]}" if names else f"there is no device {holds}"
    return f"Nothing fits on {plan.device.name}, nor would with what was tried: {where}."


def _how_far(plan: Plan, of: MethodPlan) -> str:
    seconds, cost = plan.seconds(of), plan.cost(of)
    told = f"{of.label} fits with {words.size(plan.device.memory_bytes - of.memory.total)} to spare"
    told += f"; batch up to {of.largest_rows:,}"
    if of.largest_tokens is not None:
        told += f", or rows of up to {of.largest_tokens:,} tokens"
    if seconds is not None:
        told += f"; {plan.n_rows:,} rows take about {about(seconds)}"
    return told + (f" and cost {money(cost)}" if cost is not None else "")


def share(value: float) -> str:
    """0.052 %, 4.3 %, 100 %: two digits."""
    percent = 100 * value
    if percent >= 99.5:
        return f"{percent:.0f} %"
    return f"{percent:.2g} %" if percent >= 1e-3 else "<0.001 %"


def about(seconds: float) -> str:
    """0.4 s, 12 s, 3.2 min, 20 min, 5.3 h, 12 days: two digits, as no plan knows more."""
    units = ((1, "s", 90), (60, "min", 100), (3600, "h", 48), (86_400, "days", math.inf))
    value, name = next((seconds / unit, name) for unit, name, most in units if seconds / unit < most)
    return f"{value:,.0f} {name}" if value >= 9.95 else f"{value:.1f} {name}"


def quantity(value: float) -> str:
    """1,234, 12.3, 1.23, 0.01 of a unit; a dash for nothing."""
    if not value:
        return "–"
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f}" if value >= 0.01 else "<0.01"


def at_most(n: int, ceiling: int | None = None) -> str:
    """A largest number: a dash for none, and a plus where more was not tried."""
    return "–" if n == 0 else f"{n:,}{'+' if n == ceiling else ''}"


def money(cost: float) -> str:
    """0.004, 1.23, 1,234."""
    return f"{cost:,.0f}" if cost >= 100 else f"{cost:.2f}" if cost >= 0.1 else f"{cost:.2g}"


def _table(first: str, *headings: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column(first)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _nothing(of: MethodPlan) -> str:
    names = larger_than(of.memory.total)
    where = f"{names[0]} holds it" if names else "no device of the table holds it"
    return f"{of.label} does not fit, nor would with any change that was tried; {where}"


def _device(plan: Plan) -> str:
    free = "free here now" if plan.device.is_here else "for a process to take"
    return f"{plan.device.name} ({words.size(plan.device.memory_bytes)} {free})"
