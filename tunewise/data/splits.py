"""Splits and samples that depend on nothing but the rows' texts and a seed.  No text ever stands on two sides."""

import hashlib
import math
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from tunewise.data.examples import Example
from tunewise.data.groups import split_by_group
from tunewise.errors import UserError

SPLITS = {"train": ("train",), "dev": ("dev", "valid", "validation", "val"), "test": ("test",)}
"""Part -> what its file, its folder or its split of a data set may be called."""


def normalised(text: str) -> str:
    """What counts as the same text: letter case and white space aside."""
    return " ".join(text.casefold().split())


class Unread(ABC, Sequence[Example]):
    """Examples that are read when they are asked for, and draw some of themselves without reading them all."""

    @abstractmethod
    def drawn(self, k: int, seed: int, *, balanced: bool) -> Iterable[int]:
        """The places of those that `few_shot` takes, in its order."""


def text_key(examples: Sequence[Example]) -> Callable[[Example], str]:
    """What tells these examples apart: their prompts, or their whole texts where many share one prompt (or none)."""
    prompts = {normalised(example.prompt) for example in examples}
    texts = {normalised(example.text) for example in examples}
    if 2 * len(prompts) > len(texts):
        return lambda example: normalised(example.prompt)
    return lambda example: normalised(example.text)


def split(examples: Sequence[Example], shares: Sequence[float], seed: int) -> tuple[tuple[Example, ...], ...]:
    """As many parts as there are shares, each with its share of every label, rows in their own order.

    Rows of one text stay together, so a part's size can miss its share by the size of one such group. Which part a
    text falls into does not depend on the order of the rows. UserError for fewer texts than shares. Where examples have
    groups, these stay whole too.
    """
    key = text_key(examples)
    if any(example.group for example in examples):
        return split_by_group(examples, shares, seed, key)
    groups: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        groups[key(example)].append(example)
    sizes = sizes_of(len(groups), shares)
    ranked = _spread(list(groups), lambda text: groups[text][0].label, seed)
    part_of: dict[str, int] = {}
    start = len(ranked) - sum(sizes)
    for number, size in enumerate(sizes, start=1):
        part_of.update(dict.fromkeys(ranked[start : start + size], number))
        start += size
    parts: list[list[Example]] = [[] for _ in shares]
    for example in examples:
        parts[part_of.get(key(example), 0)].append(example)
    return tuple(tuple(part) for part in parts)


def sizes_of(n_texts: int, shares: Sequence[float]) -> list[int]:
    """How many different texts each part but the first (train) gets, one at least; UserError for too few of them."""
    if n_texts < len(shares):
        raise UserError(
            f"{n_texts} different rows cannot be split into {len(shares)} parts",
            "add rows, or give train, dev and test as files of one folder",
        )
    sizes = [max(1, round(share / sum(shares) * n_texts)) for share in shares[1:]]
    while sum(sizes) >= n_texts:
        sizes[sizes.index(max(sizes))] -= 1
    return sizes


def few_shot(examples: Sequence[Example], k: int, seed: int, balanced: bool = True) -> tuple[Example, ...]:
    """k examples in random order, a function of seed and ids; all of them where there are fewer.

    `balanced` takes as many of each label as of any other (one more at most); otherwise labels keep their shares.
    """
    if isinstance(examples, Unread):
        return tuple(examples[place] for place in examples.drawn(k, seed, balanced=balanced))
    by_id = {f"{example.id}\0{index}": example for index, example in enumerate(examples)}
    if balanced:
        chosen = _alternate(list(by_id), lambda name: by_id[name].label, seed)[:k]
    else:
        chosen = _spread(list(by_id), lambda name: by_id[name].label, seed)[:k]
    return tuple(by_id[name] for name in sorted(chosen, key=lambda name: _digest(seed + 1, name)))


def _by_label(names: Sequence[str], label: Callable[[str], str | None], seed: int) -> dict[str, list[str]]:
    by_label: dict[str, list[str]] = defaultdict(list)
    for name in sorted(names, key=lambda name: _digest(seed, name)):
        by_label[label(name) or ""].append(name)
    return by_label


def _spread(names: Sequence[str], label: Callable[[str], str | None], seed: int) -> list[str]:
    """Names shuffled so that every stretch holds the labels in about their overall shares."""
    ranks = {
        name: (index + 0.5) / len(alike)
        for alike in _by_label(names, label, seed).values()
        for index, name in enumerate(alike)
    }
    return sorted(names, key=lambda name: (ranks[name], _digest(seed, name)))


def _alternate(names: Sequence[str], label: Callable[[str], str | None], seed: int) -> list[str]:
    """Names shuffled so that the labels take turns while they last."""
    ranks = {name: index for alike in _by_label(names, label, seed).values() for index, name in enumerate(alike)}
    return sorted(names, key=lambda name: (ranks.get(name, math.inf), _digest(seed, name)))


def _digest(seed: int, text: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{text}".encode("utf-8", "surrogatepass")).digest()


def digest_number(seed: int, text: str) -> int:
    """The first 64 bits of the digest by which texts are ordered."""
    return int.from_bytes(_digest(seed, text)[:8], "big")
