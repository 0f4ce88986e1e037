import itertools
import random

import pytest

from tunewise.data.encode import Encoded
from tunewise.engine.batches import IGNORED, buckets, by_length, collate, epoch_batches, order

SHORT = Encoded("short", (1, 7, 2), (IGNORED, IGNORED, 2), 2, False)
LONG = Encoded("long", (1, 8, 9, 5, 2), (IGNORED, IGNORED, IGNORED, 5, 2), 3, False)


def test_rows_are_padded_on_the_left():
    batch = collate([SHORT, LONG], pad_id=0)
    assert batch.input_ids.tolist() == [[0, 0, 1, 7, 2], [1, 8, 9, 5, 2]]
    assert batch.attention_mask.tolist() == [[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]
    assert batch.position_ids.tolist() == [[0, 0, 0, 1, 2], [0, 1, 2, 3, 4]]
    assert batch.labels.tolist() == [[IGNORED] * 4 + [2], [IGNORED] * 3 + [5, 2]]
    assert (batch.n_labels, batch.n_label_columns, batch.n_tokens) == (3, 2, 8)
    assert batch.ids == ["short", "long"]


def test_the_prefix_stands_directly_before_each_rows_own_tokens():
    batch = collate([SHORT, LONG], pad_id=0, prefix_ids=(64, 65))
    assert batch.input_ids.tolist() == [[0, 0, 64, 65, 1, 7, 2], [64, 65, 1, 8, 9, 5, 2]]
    assert batch.attention_mask.tolist() == [[0, 0, 1, 1, 1, 1, 1], [1] * 7]
    assert batch.position_ids.tolist() == [[0, 0, 0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5, 6]]
    assert (batch.n_labels, batch.n_label_columns, batch.n_tokens) == (3, 2, 12)


@pytest.mark.parametrize("prefix_ids", [(), (64,)])
def test_the_first_own_token_is_never_a_label(prefix_ids):
    document = Encoded("document", (5, 6, 7), (5, 6, 7), 0, False)
    batch = collate([document], 0, prefix_ids)
    assert batch.labels.tolist() == [[IGNORED] * len(prefix_ids) + [IGNORED, 6, 7]]
    assert (batch.n_labels, batch.n_label_columns) == (2, 2)


def test_order_is_a_function_of_seed_and_epoch():
    assert order(6, 0, 0) == order(6, 0, 0) == [2, 0, 4, 5, 1, 3]
    assert sorted(order(100, 3, 1)) == list(range(100))
    assert len({tuple(order(20, seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


@pytest.mark.parametrize(("n", "batch_size"), [(1, 8), (8, 8), (401, 8), (50, 3)])
def test_an_epoch_holds_every_row_once_in_full_batches(n, batch_size):
    batches = epoch_batches(n, batch_size, seed=0, epoch=0)
    assert sorted(index for batch in batches for index in batch) == list(range(n))
    assert len(batches) == -(-n // batch_size)
    assert sum(len(batch) < batch_size for batch in batches) <= 1
    assert batches == epoch_batches(n, batch_size, 0, 0)
    if n > 100:
        assert batches != epoch_batches(n, batch_size, 0, 1)


def ways_to_cut(rows):
    """Every way to cut a list into consecutive parts."""
    for cuts in itertools.product([False, True], repeat=len(rows) - 1):
        edges = [0, *(i + 1 for i, is_cut in enumerate(cuts) if is_cut), len(rows)]
        yield [rows[start:stop] for start, stop in itertools.pairwise(edges)]


@pytest.mark.parametrize("forward_cost", [0, 10, 64, 1000])
def test_buckets_are_the_cheapest_of_all_ways_to_cut(forward_cost):
    def cost(parts):
        return sum(max(lengths[i] for i in part) * len(part) + forward_cost for part in parts)

    for seed in range(20):
        lengths = random.Random(seed).choices(range(1, 200), k=8)
        found = buckets(lengths, forward_cost)
        assert sorted(itertools.chain(*found)) == list(range(8))
        ranked = sorted(range(8), key=lambda i: lengths[i], reverse=True)
        assert cost(found) == min(map(cost, ways_to_cut(ranked)))
    assert buckets([5] * 6, 1) == [list(range(6))]
    assert buckets([], 64) == []


def test_by_length_starts_with_the_longest():
    assert by_length([3, 9, 5], 2) == [[1, 2], [0]]
    assert by_length([], 2) == []
