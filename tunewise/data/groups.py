"""Splits that keep groups whole: all rows of one author, document or patient fall into the same part.

Greedy, the largest groups first, each to the part whose labels it brings nearest to their shares, as in scikit-learn's
StratifiedGroupKFold; here parts may have unlike shares.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

from tunewise.data.examples import Example
from tunewise.errors import UserError


def split_by_group(
    examples: Sequence[Example], shares: Sequence[float], seed: int, key: Callable[[Example], str]
) -> tuple[tuple[Example, ...], ...]:
    """As many parts as there are shares, rows in their own order; no group, and no text (`key`), stands in two parts.

    Shares and labels are met as nearly as whole groups can. Which part a group falls into does not depend on the order
    of the rows; the seed chooses among groups of about one size. UserError for fewer groups than shares.
    """
    bundles = _bundles(examples, key)
    if len(bundles) < len(shares):
        raise UserError(
            f"{len(bundles)} groups cannot be split into {len(shares)} parts",
            "groups that share a text count as one; name a column with more values, or give the splits as files",
        )
    counts = {name: Counter(example.label for example in bundle) for name, bundle in bundles.items()}
    whole = Counter(example.label for example in examples)
    wanted = [{label: share / sum(shares) for label in whole} for share in shares]
    parts: list[list[str]] = [[] for _ in shares]
    # by powers of two: large groups must come first, but not always the same ones
    for name in sorted(bundles, key=lambda name: (-len(bundles[name]).bit_length(), _digest(seed, name))):
        # what is left of each label's share, weighed by how much of it this group has
        room = [
            sum(
                count / whole[label] * (left[label] - count / whole[label] / 2) for label, count in counts[name].items()
            )
            for left in wanted
        ]
        chosen = room.index(max(room))
        parts[chosen].append(name)
        for label, count in counts[name].items():
            wanted[chosen][label] -= count / whole[label]
    _fill_empty(parts, bundles)
    part_of = {id(example): n for n, names in enumerate(parts) for name in names for example in bundles[name]}
    return tuple(
        tuple(example for example in examples if part_of[id(example)] == number) for number in range(len(shares))
    )


def _bundles(examples: Sequence[Example], key: Callable[[Example], str]) -> dict[str, list[Example]]:
    """Rows that belong together: of one group or text, and what these are tied to in turn; by their first name."""
    first: dict[str, str] = {}

    def root(name: str) -> str:
        while first[name] != name:
            first[name] = first[first[name]]
            name = first[name]
        return name

    tied: list[tuple[str, str]] = []
    for example in examples:
        text = f"text {key(example)}"
        tied.append((f"group {example.group}" if example.group else text, text))
        for name in tied[-1]:
            first.setdefault(name, name)
        one, other = sorted(map(root, tied[-1]))
        first[other] = one
    bundles: dict[str, list[Example]] = defaultdict(list)
    for example, (name, _) in zip(examples, tied, strict=True):
        bundles[root(name)].append(example)
    return bundles


def _fill_empty(parts: list[list[str]], bundles: dict[str, list[Example]]) -> None:
    """The smallest group of a part with several goes to each part that has none."""
    for part in parts:
        if not part:
            giver = max((other for other in parts if len(other) > 1), key=len)
            part.append(min(giver, key=lambda name: (len(bundles[name]), name)))
            giver.remove(part[0])


def _digest(seed: int, text: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{text}".encode("utf-8", "surrogatepass")).digest()
