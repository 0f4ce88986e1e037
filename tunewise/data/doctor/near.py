"""Pairs of rows that share most of their sequences of words, all of them and without a draw.

The Jaccard similarity of two sets is |A ∩ B| / |A ∪ B|. Two sets with a similarity of at least t share one of the first
|A| - ⌈t |A|⌉ + 1 members of either, in any order that is the same for all sets (Chaudhuri et al. 2006, ICDE; Bayardo et
al. 2007, WWW). Rare members come first here, so that hardly any pair is looked at in vain; those that are left are
counted one by one.
"""

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

NEIGHBOURS = 64
"""Of rows that share one rare sequence, each is held against so many of those before it: rows made from one mould would
else be compared each with each."""
_OWNER, _RARITY, _HASH = 27, 5, 32  # bits of a key
_PAIRS = 50_000  # whose members are counted at once


def near_pairs(members: NDArray[np.uint64], owners: Ints, n_sets: int, threshold: float) -> tuple[Ints, Ints, NDArray]:
    """(one, other, similarity) of all pairs of sets, one < other, that are at least `threshold` alike.

    `members` are hashes, `owners` the set that each belongs to; a member may come several times.
    """
    assert n_sets < 1 << _OWNER, n_sets
    keys = _keys(members, owners)
    of, member = (keys >> np.uint64(_RARITY + _HASH)).astype(np.int64), keys & np.uint64((1 << _RARITY + _HASH) - 1)
    sizes = np.bincount(of, minlength=n_sets)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    n_first = sizes - np.ceil(threshold * sizes - 1e-9).astype(np.int64) + 1
    rank = np.arange(len(of)) - starts[of]
    # a member that no other set has finds nothing
    first = (rank < n_first[of]) & (member >> np.uint64(_HASH) > 0)
    one, other = _candidates(member[first], of[first])
    small, large = np.minimum(sizes[one], sizes[other]), np.maximum(sizes[one], sizes[other])
    likely = small >= threshold * large - 1e-9
    one, other = one[likely], other[likely]
    shared = _n_shared(member, starts, one, other)
    similarity = shared / np.maximum(1, sizes[one] + sizes[other] - shared)
    near = similarity >= threshold - 1e-9
    return one[near], other[near], similarity[near]


def _keys(members: NDArray[np.uint64], owners: Ints) -> NDArray[np.uint64]:
    """Owner, rarity and hash of each member in one number, in order, each once."""
    short = members >> np.uint64(64 - _HASH)
    bucket = (short >> np.uint64(10)).astype(np.int64)
    # how many share a bucket is at least how many share the member: 0 says that it has no equal
    n_alike = np.bincount(bucket, minlength=1)[bucket]
    rarity = np.minimum(n_alike, 1 << _RARITY).astype(np.uint64) - np.uint64(1)
    owner = owners.astype(np.uint64) << np.uint64(_RARITY + _HASH)
    return _each_once(owner | (rarity << np.uint64(_HASH)) | short)


def _candidates(member: NDArray[np.uint64], of: Ints) -> tuple[Ints, Ints]:
    """Pairs of sets that have one of these members in common, each pair once."""
    order = np.argsort(member, kind="stable")  # owners of one member stay in their order
    member, of = member[order], of[order]
    pairs = [np.zeros(0, np.uint64)]
    for lag in range(1, NEIGHBOURS + 1):
        same = np.flatnonzero(member[lag:] == member[:-lag])
        if not len(same):
            break
        pairs.append((of[same].astype(np.uint64) << np.uint64(32)) | of[same + lag].astype(np.uint64))
    found = _each_once(np.concatenate(pairs))
    return (found >> np.uint64(32)).astype(np.int64), (found & np.uint64(0xFFFFFFFF)).astype(np.int64)


def _n_shared(member: NDArray[np.uint64], starts: Ints, one: Ints, other: Ints) -> Ints:
    """How many members the two sets of each pair share."""
    shared = [np.zeros(0, np.int64)]
    for begin in range(0, len(one), _PAIRS):
        sides = [(_members(member, starts, side[begin : begin + _PAIRS])) for side in (one, other)]
        both = np.sort(np.concatenate(sides))
        twice = both[1:][both[1:] == both[:-1]] >> np.uint64(_RARITY + _HASH)
        shared.append(np.bincount(twice.astype(np.int64), minlength=len(one[begin : begin + _PAIRS])))
    return np.concatenate(shared)


def _members(member: NDArray[np.uint64], starts: Ints, sets: Ints) -> NDArray[np.uint64]:
    """The members of these sets, each with the number of its place in `sets` before it."""
    sizes = starts[sets + 1] - starts[sets]
    place = np.repeat(np.arange(len(sets)), sizes)
    inside = np.arange(len(place)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return (place.astype(np.uint64) << np.uint64(_RARITY + _HASH)) | member[starts[sets][place] + inside]


def _each_once(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The values in order, each once: faster than np.unique, which builds a table first."""
    values = np.sort(values)
    return values[np.concatenate([[True], values[1:] != values[:-1]])] if len(values) else values
