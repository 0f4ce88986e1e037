"""Two arms on the same test items: how far the gap hangs on which items were drawn for the test."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from tunewise.files import read_jsonl
from tunewise.stats import mcnemar, paired_bootstrap

N_RESAMPLES = 2_000


class Item(NamedTuple):
    """One test item over the seeds of an arm."""

    right: float
    """The share of them that have it right."""
    worth: float
    """What a metric of one's own says of it, or else the share of seeds that have it right, 0 to 100."""
    by_metric: bool = False
    """Whether the former is so."""


def beside(one: dict[str, Item], other: dict[str, Item]) -> dict[str, Any] | None:
    """The answers of two arms, as `items_of` reads them, item by item.

    `gap` in points of right answers, or where `by_metric` says so of a metric of one's own, with the 95 % interval of a
    paired bootstrap over items; `only_first`, `only_second` and `p` of
    McNemar's test on the items that most seeds have right. None where answers are not right or wrong, or the items are
    not the same.
    """
    if not one or one.keys() != other.keys():
        return None
    pairs = [(one[item], other[item]) for item in one]
    gap = paired_bootstrap([a.worth for a, _ in pairs], [b.worth for _, b in pairs], n_resamples=N_RESAMPLES)
    flips = mcnemar([a.right > 0.5 for a, _ in pairs], [b.right > 0.5 for _, b in pairs])
    return {
        "n": len(pairs),
        "gap": gap.mean,
        "low": gap.low,
        "high": gap.high,
        "by_metric": any(item.by_metric for pair in pairs for item in pair),
        "only_first": flips.only_first,
        "only_second": flips.only_second,
        "p": flips.p,
    }


def items_of(seeds: Sequence[Path]) -> dict[str, Item]:
    """The items that all seeds (a predictions.jsonl each) have answered; {} where answers are not right or wrong."""
    found: dict[str, list[tuple[bool, float, bool]]] = {}
    for path in seeds:
        for row in read_jsonl(path):
            assert isinstance(row, dict), path
            right = row.get("correct")
            if not isinstance(right, bool):
                return {}
            worth = row.get("worth", 100.0 * right)
            assert isinstance(worth, float), path
            found.setdefault(str(row["id"]), []).append((right, worth, "worth" in row))
    whole = {item: list(zip(*told, strict=True)) for item, told in found.items() if len(told) == len(seeds)}
    return {item: Item(fmean(rights), fmean(worths), any(own)) for item, (rights, worths, own) in whole.items()}
