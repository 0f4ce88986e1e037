"""The page of all speeds: `python -m bench.performance` writes the tables of docs/performance.md and its plot."""

from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib

from bench import kept, page

PAGE = page.DOCS / "performance.md"
PLOT = page.DOCS / "performance.svg"
TARGETS = {  # (shape, method) -> float32, bfloat16: what was set out for, from prototypes on a Zen 5
    ("a", "lora"): (4, 6), ("b12", "lora"): (6, 11), ("b", "lora"): (5, 9), ("c", "lora"): (7, 12),
    ("d", "lora"): (3, 5), ("a", "full"): (3.5, 5), ("c", "full"): (6, 8),
}  # fmt: skip
WHOLE_TARGETS = {"c": (8, 12), "a": (5, 7)}  # shape -> float32, bfloat16: of a whole comparison
PRECISIONS = ("float32", "bfloat16")


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown; the first column is text, the others are numbers."""
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "".join(f"| {' | '.join('' if cell is None else str(cell) for cell in line)} |\n" for line in lines)


def training(found: Sequence[dict[str, Any]]) -> str:
    """One row a shape, method and precision."""
    head = (
        "shape, method",
        "ours in",
        "× peer",
        "target",
        "× peer at its best",
        "× trl, packed",
        "memory",
        "share of products",
    )
    rows = []
    for one in found:
        targets = TARGETS.get((one["shape"], one["method"]))
        target = targets[PRECISIONS.index(one["dtype"])] if targets else None
        names = ("ratio_to_best", "ratio_to_trl", "memory_ratio", "share_of_products")
        cells = (one["ratio"], target, *(one.get(name) for name in names))
        rows.append((f"{one['shape']}, {one['method']}", one["dtype"], *cells))
    return table(head, rows)


def plot(found: Sequence[dict[str, Any]]) -> None:
    """Bars of the ratios, a pair a shape and method."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(f"{one['shape']}, {one['method']}" for one in found))
    figure, axes = pyplot.subplots(figsize=(8, 0.36 * len(names) + 1.3), layout="constrained")
    for offset, (dtype, colour) in enumerate(zip(PRECISIONS, ("#4477aa", "#ee6677"), strict=True)):
        ratios = {f"{one['shape']}, {one['method']}": one["ratio"] for one in found if one["dtype"] == dtype}
        heights = [names.index(name) + 0.36 * offset for name in ratios]
        bars = axes.barh(heights, list(ratios.values()), height=0.34, color=colour, label=f"tunewise in {dtype}")
        axes.bar_label(bars, fmt="%.1f", padding=3, fontsize=8)
    axes.set_yticks([number + 0.18 for number in range(len(names))], names)
    axes.invert_yaxis()
    axes.axvline(1, color="grey", linewidth=0.8)
    axes.set_xlabel("speed, peft + Trainer at its defaults = 1")
    figure.legend(frameon=False, loc="outside upper center", ncols=2)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(PLOT, metadata={"Date": None})
    pyplot.close(figure)


def machine(environment: dict[str, Any]) -> str:
    """What the figures hold for."""
    speeds = ", ".join(f"{name} {speed:g}" for name, speed in environment["gflops"].items())
    versions = ", ".join(f"{name} {environment[name]}" for name in ("torch", "transformers", "peft"))
    return f"{environment['processor']}, {environment['threads']} threads; products in GFLOP/s: {speeds}; {versions}.\n"


def trunk(found: Sequence[dict[str, Any]]) -> str:
    """One row a shape, method and precision."""
    head = ("shape, method", "ours in", "epochs", "× Trainer", "× Trainer, live")
    rows = [
        (f"{one['shape']}, {one['method']}", one["dtype"], one["epochs"], one["ratio"], one["live_ratio"])
        for one in found
    ]
    return table(head, rows)


def in_context(found: Sequence[dict[str, Any]]) -> str:
    """One row a peer, one column a precision."""
    head = ("beside", *(f"{one['shape']}, {one['dtype']}, {one['tokens_shown']} tokens shown" for one in found))
    return table(head, ((peer, *(one["ratio"][peer] for one in found)) for peer in found[0]["ratio"]))


def writing(found: Sequence[dict[str, Any]]) -> str:
    """One row a shape, precision and number of prompts."""
    head = ("shape", "in", "prompts at a time", "tokens a second", "× generate")
    keys = ("dtype", "prompts", "tokens_per_second", "ratio")
    return table(head, ((one["shape"], *(one[key] for key in keys)) for one in found))


def lanes(found: Sequence[dict[str, Any]]) -> str:
    """One row a batch size and a mix of methods."""
    head = ("methods", "lanes", "rows a batch", "tokens a batch of one run", "× in turn")
    keys = ("lanes", "batch_size", "tokens_a_batch", "ratio")
    return table(head, ((", ".join(dict.fromkeys(one["methods"])), *(one[key] for key in keys)) for one in found))


def compare(found: Sequence[dict[str, Any]]) -> str:
    """One row a shape, precision and number of rows."""
    beyond = ("proofs", "reload", "retention", "page")
    head = ("shape", "ours in", "rows", "runs", "steps a run", "× peer", "target", "× peer, alike", "seconds", *beyond)
    rows = []
    for one in sorted(found, key=lambda one: (one["shape"], one["dtype"] != PRECISIONS[0], one["rows"])):
        target = WHOLE_TARGETS[one["shape"]][PRECISIONS.index(one["dtype"])]
        cells = (one["ratio"], target, one["ratio_without_what_is_beyond"], one["seconds"]["ours"])
        n_runs = len(one["methods"]) * one["seeds"]
        spent = (one["seconds"][part] for part in beyond)
        rows.append((one["shape"], one["dtype"], one["rows"], n_runs, one["steps"], *cells, *spent))
    return table(head, rows)


def qlora(found: Sequence[dict[str, Any]]) -> str:
    """One row a format, method and batch size; times are the processor's."""
    head = (
        "b12 in, method",
        "rows a batch",
        "time, bfloat16 = 1",
        "× peer",
        "× peer at its best",
        "linear weights",
        "all weights",
        "peak MiB: ours",
        "in bfloat16",
        "peer",
        "at its best",
    )
    rows = []
    for one in found:
        times = (one[name]["processor"] for name in ("time_beside_bfloat16", "peer", "peer_at_its_best"))
        cells = (one["batch_size"], *times, one["linear_weights"], one["weights"], *one["peak_mib"].values())
        rows.append((f"{one['quantise']}, {one['method']}", *cells))
    return table(head, rows)


def gpu(found: Sequence[dict[str, Any]]) -> str:
    """One row a work and system; a system that was not measured says why."""
    head = ("shape, method", "system", "tokens/s", "tunewise ×", "share of peak", "peak GiB")
    rows = []
    for one in found:
        work = f"{one['shape']}, {one['method']}{', ' + one['quantise'] if one['quantise'] else ''}"
        for name, each in one["systems"].items():
            gib = each["peak_mib"] / 1024 if "peak_mib" in each else None
            cells = (each.get("tokens_per_second"), each.get("ratio"), each.get("share_of_peak"), gib and f"{gib:.1f}")
            rows.append((work, f"{name} ({each['reason']})" if "reason" in each else name, *cells))
    devices = dict.fromkeys("{name}: bfloat16 {teraflops:g} TFLOP/s".format(**one["device"]) for one in found)
    return "; ".join(devices) + ".\n\n" + table(head, rows)


def main() -> None:
    found = kept.read("training")
    results = sorted(found["results"], key=lambda one: (one["shape"], one["method"], one["dtype"] != PRECISIONS[0]))
    plot(results)
    page.put(PAGE, "training", machine(found["environment"]) + "\n" + training(results))
    parts = {
        "trunk": trunk, "in_context": in_context, "writing": writing, "lanes": lanes, "compare": compare,
        "qlora": qlora, "gpu": gpu,
    }  # fmt: skip
    for name, write in parts.items():
        results = kept.read(name)["results"]
        if results:
            page.put(PAGE, name, write(results))


if __name__ == "__main__":
    main()
