"""All pairs above a similarity against every pair counted."""

import random
from itertools import combinations

import numpy as np
import pytest

from tunewise.data.doctor import near
from tunewise.data.doctor.near import near_pairs
from tunewise.data.doctor.words import mixed


def arrays(sets):
    """Members as hashes and their owners, some of them twice."""
    pairs = [(member, owner) for owner, members in enumerate(sets) for member in members for _ in range(1 + member % 2)]
    members = mixed(np.array([member for member, _ in pairs], np.uint64) + np.uint64(1))
    return members, np.array([owner for _, owner in pairs], np.int64)


def counted(sets, threshold):
    alike = {
        (a, b): len(sets[a] & sets[b]) / len(sets[a] | sets[b])
        for a, b in combinations(range(len(sets)), 2)
        if sets[a] | sets[b]
    }
    return {pair: value for pair, value in alike.items() if value >= threshold - 1e-9}


def drawn(seed, n_sets, n_members):
    """Sets of a few common members and many rare ones; half of them are another with a few members changed."""
    draw = random.Random(seed)
    sets = []
    for number in range(n_sets):
        if sets and number % 2:
            base = set(draw.choice(sets))
            for _ in range(draw.randrange(0, 4)):
                base.discard(draw.choice(sorted(base)) if base else None)
                base.add(draw.randrange(n_members))
        else:
            base = {int(draw.paretovariate(0.4)) % n_members for _ in range(draw.randrange(0, 25))}
        sets.append(base)
    return sets


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 1.0])
@pytest.mark.parametrize("n_members", [60, 2_000])
def test_every_near_pair_is_found_and_no_other(threshold, n_members):
    sets = drawn(n_members, 150, n_members)
    expected = counted(sets, threshold)
    one, other, similarity = near_pairs(*arrays(sets), len(sets), threshold)
    found = dict(zip(zip(one.tolist(), other.tolist()), similarity.tolist()))
    assert len(expected) >= 20
    assert found.keys() == expected.keys()
    assert all(found[pair] == pytest.approx(expected[pair]) for pair in expected)


def test_counted_in_small_pieces_they_are_the_same(monkeypatch):
    sets = drawn(1, 150, 60)
    whole = near_pairs(*arrays(sets), len(sets), 0.5)
    monkeypatch.setattr(near, "_PAIRS", 7)
    for one, other in zip(near_pairs(*arrays(sets), len(sets), 0.5), whole, strict=True):
        assert one.tolist() == other.tolist()


def test_rows_of_one_mould_are_held_against_their_neighbours_alone():
    sets = [set(range(20)) | {100 + number} for number in range(1_000)]
    one, other, similarity = near_pairs(*arrays(sets), len(sets), 0.7)
    assert set(other.tolist()) == set(range(1, 1_000))
    assert len(one) <= 1_000 * near.NEIGHBOURS
    assert similarity == pytest.approx(20 / 22)


def test_nothing_has_no_pairs():
    one, _, _ = near_pairs(np.zeros(0, np.uint64), np.zeros(0, np.int64), 3, 0.7)
    assert len(one) == 0
