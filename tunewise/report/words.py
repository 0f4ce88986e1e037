"""Numbers as a reader wants them: percent, bytes, seconds, counts."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from tunewise.directions import LOWER, LOWER_IS_BETTER
from tunewise.hub import apart
from tunewise.stats import Interval

PERCENT = (  # scores are 0 to 100 throughout
    "accuracy accuracy_norm f1 macro_f1 exact_match normalised_match token_f1 numeric_match "
    "rouge1 rouge2 rougeL rougeLsum"
).split()
NAMELESS = ("hf", "model", "base", "final", "checkpoint", "pytorch", "main")
"""Names of folders that say nothing of the model in them."""
NAMES = {
    "accuracy_norm": "accuracy by length",
    "f1": "F1",
    "macro_f1": "macro F1",
    "token_f1": "token F1",
    "rmse": "RMSE",
    "ece": "calibration error",
    "brier": "Brier score",
    "mcc": "MCC",
    "bleu": "BLEU",
    "chrf": "chrF",
    "exact_match": "exact match",
    "rougeL": "ROUGE-L",
    "rougeLsum": "ROUGE-Lsum",
    "macro_average": "mean of the sources",
}


def metric_name(metric: str) -> str:
    source, dot, own = metric.rpartition(".")  # of a mixture
    if dot:
        return f"{metric_name(own)} of {source}"
    return NAMES.get(metric, metric.removesuffix(LOWER).replace("_", " "))


def quality(metric: str, interval: Interval) -> str:
    """91.2 ± 1.3, or only the mean where one seed allows no interval."""
    mean = f"{interval.mean:.{digits(metric)}f}"
    return f"{mean} ± {interval.half_width:.{digits(metric)}f}" if interval.n > 1 else mean


def digits(metric: str) -> int:
    """Decimals of its scores: what is better the lower it is, such as a loss, is small."""
    return 3 if of_any_source(metric) in LOWER_IS_BETTER else 1


def unit(metric: str) -> str:
    return " %" if of_any_source(metric) in PERCENT else ""


def in_unit(metric: str) -> str:
    """accuracy %, calibration error: what a heading says of a metric."""
    return metric_name(metric) + unit(metric)


def on_axis(metric: str, of: str = "") -> str:
    """accuracy, % or accuracy on dev, %: what an axis says of it."""
    return metric_name(metric) + of + unit(metric).replace(" ", ", ")


def of_any_source(metric: str) -> str:
    """The metric itself: accuracy, of the accuracy of one source of a mixture, NAME.accuracy."""
    return metric.rpartition(".")[2]


def signed(interval: Interval | None) -> str:
    """+0.041 ± 0.012, with a true minus sign; a dash where nothing was measured."""
    if interval is None:
        return "–"
    if abs(interval.mean) < 5e-5 and (interval.n == 1 or interval.half_width == 0):
        return "0"
    mean = f"{interval.mean:+.3f}".replace("-", "−")
    return f"{mean} ± {interval.half_width:.3f}" if interval.n > 1 else mean


def count(value: int) -> str:
    """1,234 up to a hundred thousand, then 0.12 M, 3.40 M, 1.20 B."""
    if value >= 1_000_000_000:
        return f"{value / 1e9:.2f} B"
    return f"{value / 1e6:.2f} M" if value >= 100_000 else f"{value:,}"


def tick(value: float) -> str:
    """A number on an axis: 500, 20k, 1M."""
    for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:g}{name}"
    return f"{value:g}"


def rows(n: int) -> str:
    """1 row, 1,234 rows."""
    return f"{n:,} row{'' if n == 1 else 's'}"


def average(n: float) -> str:
    """A mean of counts: 36, 48.7."""
    return f"{n:.1f}".removesuffix(".0")


def size(n_bytes: int) -> str:
    """12 kB, 3.4 MB, 1.2 GB: powers of ten."""
    for unit_bytes, name in ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if n_bytes >= unit_bytes:
            value = n_bytes / unit_bytes
            return f"{value:.0f} {name}" if value >= 100 else f"{value:.1f} {name}"
    return f"{n_bytes} B" if n_bytes else "–"


def duration(seconds: float) -> str:
    """0.4 s, 12 s, 3 min 05 s, 2 h 07 min."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def listing(names: Sequence[str]) -> str:
    """a, b and c."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def times(ratio: float) -> str:
    """1.4×, 40×."""
    return f"{ratio:.1f}×" if ratio < 10 else f"{ratio:,.0f}×"


def spaced(name: str) -> str:
    """reloads_to_the_same_logits as words."""
    return name.replace("_", " ")


def base_called(name: str) -> str:
    """The last part of a base's path, or of its hub name without a revision; with the folder before it where that
    tells no base from another."""
    *before, last = Path(apart(name)[0]).parts
    return f"{before[-1]}/{last}" if before and last.lower() in NAMELESS else last


def quoted(text: str) -> str:
    """A text as it stands in Python code."""
    return json.dumps(text, ensure_ascii=False)


def cell(text: str) -> str:
    """A text in a table of Markdown: a bar in it ends no column, a line feed no row."""
    return " ".join(text.split()).replace("|", "\\|")


def unbroken(text: str) -> str:
    """A text for prose, in which no number is parted from its unit or interval at the end of a line."""
    return re.sub(
        r"(?<=\d) (?=(?:±|%|[kMGTB]?B\b|[MBs]\b|min\b|h\b))|(?<=±|=|<) (?=\d)|(?<=\bp) (?=[=<])", "\u00a0", text
    )


def probability(p: float) -> str:
    """p = 0.031, p = 0.0004, p < 0.0001."""
    return "p < 0.0001" if p < 1e-4 else f"p = {p:.4f}" if p < 1e-3 else f"p = {p:.3f}"
