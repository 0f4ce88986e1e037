"""The same figures in a terminal: one run as a card, a comparison as a table, samples in columns."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tunewise.report import words
from tunewise.report.arms import Arm, DivergedArm, are_stored_unlike
from tunewise.report.decision import Decision, decide
from tunewise.report.differences import differences_elsewhere, differences_of
from tunewise.report.folders import majority_score, read_run
from tunewise.report.protocol import HowCompared
from tunewise.report.samples import Sample
from tunewise.report.score_rows import set_rows

LABELS = 14
"""Columns that the labels of a card take, beside which scores have room."""


def comparison_table(arms: Sequence[Arm], found: Decision, diverged: Sequence[DivergedArm] = ()) -> Table:
    """One row an arm; the row to take is bold, and those without a result stand last."""
    metric = arms[0].metric
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("way")
    headings = [words.in_unit(metric), "forgetting", "trained", "adapter"]
    stored = ["base"] if are_stored_unlike(arms) else []
    for heading in (*headings, *stored, "time", "memory"):
        table.add_column(heading, justify="right", no_wrap=heading not in stored)
    for arm in arms:
        table.add_row(
            next((_with_lost(each) for each in diverged if each.label == arm.label), arm.label),
            words.quality(metric, arm.quality),
            words.signed(arm.forgetting),
            words.count(arm.n_trainable) if arm.n_trainable else "–",
            words.size(arm.adapter_bytes),
            *(arm.base_told for _ in stored),
            words.duration(arm.seconds),
            words.size(arm.peak_bytes),
            style="" if arm is not found.pick or not found.learnt else "bold green" if found.takes else "bold",
        )
    for each in diverged:
        if each.n_diverged == each.n_seeds:
            table.add_row(_with_lost(each), *["–"] * (len(table.columns) - 1), style="red")
    return table


def out_of_domain_table(arms: Sequence[Arm]) -> Table:
    """The metric of each arm on its own test rows, and on those of each set from elsewhere.

    A row an arm; or, where there are more sets than arms, a row a set.
    """
    names = list(dict.fromkeys(name for arm in arms for name in arm.out_of_domain))
    if len(names) > len(arms):
        return _by_set(arms)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("way")
    for heading in ("in domain", *(f"on {name}" for name in names)):
        table.add_column(heading, justify="right", no_wrap=True)
    for arm in arms:
        told = (words.quality(*arm.out_of_domain[name]) if name in arm.out_of_domain else "–" for name in names)
        table.add_row(arm.label, words.quality(arm.metric, arm.quality), *told)
    return table


def _by_set(arms: Sequence[Arm]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("set")
    table.add_column("measured in")
    for arm in arms:
        table.add_column(arm.label, justify="right")
    for row in set_rows(arms):
        table.add_row(row.name, row.metric, *row.scores)
    return table


def by_source_table(arms: Sequence[Arm]) -> Table:
    """The first metric of each source of a mixture, a row a source and a column an arm."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("source")
    for arm in arms:
        table.add_column(arm.label, justify="right")
    for name in arms[0].by_source:
        metric = name.rpartition(".")[2]
        told = [words.quality(metric, arm.by_source[name]) if name in arm.by_source else "–" for arm in arms]
        table.add_row(words.metric_name(name), *told)
    return table


def _with_lost(arm: DivergedArm) -> str:
    return f"{arm.label} ({arm.n_diverged} of {arm.n_seeds} lost)"


def print_comparison(
    console: Console, arms: Sequence[Arm], diverged: Sequence[DivergedArm] = (), how: HowCompared | None = None
) -> None:
    """The table, and below it which way to take and why, what dev chose for each arm, and what that cost."""
    how = how or HowCompared()
    found = decide(arms, how.rule)
    console.print(comparison_table(arms, found, diverged))
    if arms[0].by_source:
        console.print()
        console.print(by_source_table(arms))
    if any(arm.out_of_domain for arm in arms):
        console.print()
        console.print(out_of_domain_table(arms))
    console.print()
    for each in diverged:
        console.print(Text(f"{each.label}: {each.told}; the first: {each.reason}", style="red"))
    console.print(Text(found.headline, style="bold"))
    console.print(Text(found.reason))
    for sentence in how.unlike:
        console.print(Text(sentence))
    if held := differences_of(found.verdict, how, metric=arms[0].metric) + differences_elsewhere(arms, how):
        console.print()
    for each in held:
        console.print(Text(f"{each.name}: {each.told}. {each.known[0].upper()}{each.known[1:]}."))
    if how.searches:
        console.print()
        console.print(_searches(how))


def _searches(how: HowCompared) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for heading in ("way", "trials", "chosen on dev", "search"):
        table.add_column(heading, justify="right" if heading in ("trials", "search") else "left")
    for each in how.searches:
        table.add_row(each.label, str(each.n_trials), each.told, words.duration(each.seconds))
    return table


def print_run(console: Console, folder: Path, metrics: dict[str, Any]) -> None:
    """One run: scores, costs, proofs, and where it lies."""
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column()
    for split in ("test", "dev"):
        _add_scores(table, split, metrics.get(split) or {}, console.width)
    for name, found in (metrics.get("out_of_domain") or {}).items():
        _add_scores(table, f"on {name}", found, console.width)
    if "accuracy" in (metrics.get("test") or {}):
        most = majority_score(read_run(folder).predictions())
        table.add_row(
            "majority", "–" if most is None else f"accuracy {most:.4g} % for always giving the most frequent answer"
        )
    for look in (metrics.get("retention") or {}).get("suite", ()):
        table.add_row("retention", f"{look['task']}: {_remembered(look)}")
    table.add_row(
        "trained", f"{words.count(metrics.get('n_trainable', 0))} parameters in {metrics.get('steps', 0)} steps"
    )
    table.add_row("adapter", words.size(metrics.get("adapter_bytes", 0)))
    table.add_row("time", words.duration(metrics.get("seconds", 0.0)))
    table.add_row("memory", words.size(metrics.get("peak_bytes", 0)))
    proofs = metrics.get("proofs") or {}
    failed = [name for name, proof in proofs.items() if not proof.get("passed")]
    if proofs:
        told = f"{len(proofs) - len(failed)} of {len(proofs)} passed"
        table.add_row(
            "proofs", Text(told + (f"; failed: {', '.join(failed)}" if failed else ""), "red" if failed else "green")
        )
    table.add_row("folder", str(folder))
    console.print(table)


def print_evaluation(console: Console, found: dict[str, Any]) -> None:
    """What `tunewise.evaluate` found: scores, of what on which rows they are, and what became of the prompts."""
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column()
    _add_scores(table, found["split"], found["metrics"], console.width)
    shots = f" behind {found['shots']} demonstrations" if found["shots"] else ""
    few = ", drawn" if found["limit"] else ""
    table.add_row("asked", f"{words.rows(found['n_examples'])} of {found['task']}{few}{shots}")
    table.add_row("of", found["model"] + (f" with {found['adapter']}" if found["adapter"] else ""))
    if found["n_truncated_prompts"]:
        table.add_row("cut", f"{words.rows(found['n_truncated_prompts'])} longer than what the base can read")
    if found["n_dropped_demonstrations"]:
        table.add_row("left out", f"{found['n_dropped_demonstrations']} demonstrations that did not fit")
    table.add_row("a query", f"{found['prompt_tokens']:.4g} tokens, {found['seconds_a_query'] * 1e3:.3g} ms")
    console.print(table)


def _add_scores(table: Table, split: str, metrics: Mapping[str, float], width: int) -> None:
    """One row, or of a mixture one a source below the means; no metric is parted from its value at an end of line."""
    of_sources: dict[str, list[str]] = {}
    for name, value in metrics.items():
        source, _, metric = name.rpartition(".")
        told = f"{words.metric_name(metric)} {value:.4g}{words.unit(metric)}"
        lines = of_sources.setdefault(source, [""])
        if len(lines[-1]) + 2 + len(told) > width - LABELS and lines[-1]:
            lines.append("")
        lines[-1] += f"  {told}" if lines[-1] else told
    for source, lines in of_sources.items():
        table.add_row(f"  {source}" if source else split, "\n".join(lines))


def _remembered(look: dict[str, Any]) -> str:
    """How one task of the retention suite fared: 2.114 → 2.176 nats per token; 3 items better, 110 worse."""
    metric = look["metric"]
    if metric == "loss":
        values = f"{look['base']:.4f} → {look['tuned']:.4f} nats per token"
    else:
        values = f"{words.metric_name(metric)} {look['base']:.4g} → {look['tuned']:.4g}"
    return f"{values}; of {look['n_items']} items {look['n_gained']} better, {look['n_lost']} worse"


def print_dial(console: Console, found: dict[str, Any]) -> None:
    """Every λ with its scores and what is forgotten there, the one to take marked, and why it is."""
    name = words.in_unit(found["metric"])
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for title in ("λ", f"{name} on dev", "on test", "forgotten, nats per token"):
        table.add_column(title, justify="right")
    base = found["points"][0]["retention"]
    for point in found["points"]:
        forgotten = "–" if base is None else f"{point['retention'] - base:+.4f}".replace("-", "−")
        style = "bold green" if point["scale"] == found["knee"] else ""
        scores = (f"{point[part]:.4g}" for part in ("dev", "test"))
        table.add_row(f"{point['scale']:.3g}", *scores, forgotten, style=style)
    console.print(table)
    console.print(Text(f"take λ = {found['knee']:.3g}: {found['rule']}"))
    console.print(Text(f"measured as {found['route']}, in {words.duration(found['seconds'])}", style="dim"))


def print_remedies(console: Console, found: dict[str, Any]) -> None:
    """Each remedy against forgetting with its score and what it forgot; below, what was left out and why."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("remedy")
    for title in (words.in_unit(found["metric"]), "forgetting, nats per token", "λ"):
        table.add_column(title, justify="right")
    for row in found["rows"]:
        scores, changes = (_plus_minus(row[name], digits) for name, digits in (("test", 1), ("forgetting", 3)))
        table.add_row(row["arm"], scores, changes, f"{row['scale']:.2g}")
    console.print(table)
    for name, reason in found["left_out"].items():
        console.print(Text(f"{name} is left out: {reason}", style="dim"))


def _plus_minus(interval: dict[str, Any] | None, digits: int) -> str:
    if interval is None:
        return "–"
    spread = interval["half_width"]
    return f"{interval['mean']:.{digits}f}" + (f" ± {spread:.{digits}f}" if spread is not None else "")


def print_proofs(console: Console, proofs: dict[str, dict[str, Any]]) -> None:
    """Each proof with its value and what it may be at most."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("proof")
    table.add_column("")
    table.add_column("value", justify="right")
    table.add_column("tolerance", justify="right")
    for name, proof in proofs.items():
        verdict = Text("passed", "green") if proof.get("passed") else Text("FAILED", "bold red")
        table.add_row(name.replace("_", " "), verdict, _number(proof.get("value")), _number(proof.get("tolerance")))
    console.print(table)


def print_samples(console: Console, samples: Sequence[Sample]) -> None:
    """Each prompt, then every model's answer to it in a column of its own."""
    for sample in samples:
        console.print()
        console.print(Text(sample.prompt, style="cyan"))
        table = Table(box=None, padding=(0, 2, 0, 2), header_style="dim", pad_edge=False)
        table.add_column("wanted")
        for name, _, _ in sample.answers:
            table.add_column(name, ratio=1, overflow="fold")
        cells = [
            Text(text.strip() or "(nothing)", "green" if right else "red" if right is False else "")
            for _, text, right in sample.answers
        ]
        table.add_row(sample.wanted, *cells)
        console.print(table)


def _number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "–" if value is None else str(value)
    return "0" if value == 0 else f"{value:.2e}" if abs(value) < 1e-2 else f"{value:,.4g}"
