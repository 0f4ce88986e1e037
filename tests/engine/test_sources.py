"""Which rows make up each batch of a mixture, epoch by epoch."""

from collections import Counter

import pytest

from tunewise.data.mixing import normalised
from tunewise.engine.batches import epoch_batches
from tunewise.engine.sources import Sources


def drawn(sources, seed, n_epochs):
    return [row for epoch in range(n_epochs) for batch in sources.batches(4, seed, epoch) for row in batch]


def test_rows_of_one_source_and_replayed_ones_are_shuffled_as_ever():
    sources = Sources({"own": 10, "replayed": 3})
    assert sources.n == 13
    assert [sources.batches(4, 7, epoch) for epoch in range(3)] == [
        epoch_batches(13, 4, 7, epoch) for epoch in range(3)
    ]
    assert [sources.of(row) for row in range(13)] == [0] * 10 + [1] * 3


@pytest.mark.parametrize("weights", [(1, 1, 1), (5, 2, 1), (0.3, 8, 1)])
def test_every_stretch_from_the_start_has_each_share_to_within_one_row(weights):
    rates = normalised(weights)
    sources = Sources({"a": 11, "b": 5, "c": 40}, rates, 17)
    rows = drawn(sources, 3, 20)
    assert len(rows) == 20 * 17
    counts = Counter()
    for number, row in enumerate(rows, start=1):
        counts[sources.of(row)] += 1
        assert max(abs(counts[source] - number * rate) for source, rate in enumerate(rates)) < 1


def test_a_source_gives_all_its_rows_before_any_comes_again():
    """Its passes go over the borders of epochs, and each is in another order."""
    sources = Sources({"a": 11, "b": 5}, [0.75, 0.25], 9)
    rows = drawn(sources, 0, 30)
    for source, (first, size) in enumerate(((0, 11), (11, 5))):
        own = [row for row in rows if sources.of(row) == source]
        passes = [own[start : start + size] for start in range(0, len(own) - size, size)]
        assert len(passes) > 10
        assert all(sorted(each) == list(range(first, first + size)) for each in passes)
        assert len(set(map(tuple, passes))) > 5


def test_proportional_without_a_cap_is_every_row_once_an_epoch():
    sizes = {"a": 30, "b": 7, "c": 1}
    sources = Sources(sizes, normalised(list(sizes.values())), 38)
    for epoch in range(4):
        assert sorted(row for batch in sources.batches(5, 1, epoch) for row in batch) == list(range(38))


def test_the_order_is_a_function_of_seed_and_epoch_alone():
    def make():
        return Sources({"a": 11, "b": 5}, [0.6, 0.4], 13)

    straight, jumped = make(), make()
    expected = [straight.batches(4, 2, epoch) for epoch in range(6)]
    assert jumped.batches(4, 2, 5) == expected[5]
    assert jumped.batches(4, 2, 1) == expected[1]
    assert make().batches(4, 3, 0) != expected[0]
    # of other seeds other rows, in the same pattern of sources
    pattern = [straight.of(row) for batch in expected[0] for row in batch]
    assert [straight.of(row) for batch in make().batches(4, 3, 0) for row in batch] == pattern


@pytest.mark.parametrize("rates", [(), (0.6, 0.4)])
def test_how_often_each_row_is_drawn_is_counted(rates):
    sources = Sources({"a": 11, "b": 5}, rates)
    rows = drawn(sources, 4, 3)
    for n_draws in (0, 5, 16, 33, 48):
        counted = Counter(rows[:n_draws])
        assert sources.times(4, n_draws) == [counted[row] for row in range(16)]
