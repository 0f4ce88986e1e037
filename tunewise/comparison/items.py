"""Two arms on the same test items: how far the gap hangs on which items were drawn for the test."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunewise.files import read_jsonl
from tunewise.stats import mcnemar, paired_bootstrap

N_RESAMPLES = 2_000


def beside(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, Any] | None:
    """The share of right answers of two arms, as `right_answers` reads them, in points, item by item.

    `gap` with the 95 % interval of a paired bootstrap over items, an item being worth the share of seeds that have it
    right; `only_first`, `only_second` and `p` of McNemar's test on the items that most seeds have right. None where
    answers are not right or wrong, or the items are not the same.
    """
    if not one or one.keys() != other.keys():
        return None
    pairs = [(one[item], other[item]) for item in one]
    gap = paired_bootstrap(*zip(*pairs, strict=True), n_resamples=N_RESAMPLES)
    flips = mcnemar([a > 0.5 for a, _ in pairs], [b > 0.5 for _, b in pairs])
    return {
        "n": len(pairs),
        **{name: 100 * value for name, value in (("gap", gap.mean), ("low", gap.low), ("high", gap.high))},
        "only_first": flips.only_first,
        "only_second": flips.only_second,
        "p": flips.p,
    }


def right_answers(seeds: Sequence[Path]) -> Mapping[str, float]:
    """Item -> the share of seeds (a predictions.jsonl each) that have it right; {} where there is no such thing."""
    found: dict[str, list[bool]] = {}
    for path in seeds:
        for row in read_jsonl(path):
            assert isinstance(row, dict), path
            if not isinstance(row.get("correct"), bool):
                return {}
            found.setdefault(str(row["id"]), []).append(row["correct"])
    return {item: sum(right) / len(right) for item, right in found.items() if len(right) == len(seeds)}
