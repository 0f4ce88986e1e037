"""Two arms on the same items, against the plain sums."""

import json

import pytest

from tunewise.comparison.items import beside, items_of


def written(folder, name, *seeds):
    paths = []
    for number, rows in enumerate(seeds):
        paths.append(folder / f"{name}-{number}.jsonl")
        paths[-1].write_text(
            "".join(json.dumps({"id": f"i{n}", "correct": right}) + "\n" for n, right in enumerate(rows))
        )
    return items_of(paths)


def test_items_are_paired_by_id_and_averaged_over_seeds(tmp_path):
    first = written(tmp_path, "first", [True] * 8 + [False] * 2, [True] * 6 + [False] * 4)
    second = written(tmp_path, "second", [True] * 3 + [False] * 7, [False] * 9 + [True])
    found = beside(first, second)
    assert found is not None
    assert (found["n"], found["gap"]) == (10, pytest.approx(100 * (14 - 4) / 20))
    assert not found["by_metric"]
    assert 0 < found["low"] < found["gap"] < found["high"] < 100
    # items that most seeds have right: 0 to 5 of the first, none of the second (one seed in two is no majority)
    assert (found["only_first"], found["only_second"]) == (6, 0)
    assert found["p"] == pytest.approx(2 * 0.5**6)
    other = beside(second, first)
    assert other is not None
    assert (other["gap"], other["only_second"]) == (-found["gap"], 6)


def test_what_is_neither_right_nor_wrong_is_not_paired(tmp_path):
    scores = tmp_path / "scores.jsonl"
    scores.write_text('{"id": "i0", "predicted": 0.5}\n')
    assert beside(items_of([scores]), items_of([scores])) is None
    assert beside(written(tmp_path, "a", [True]), written(tmp_path, "b", [True, False])) is None


def test_what_a_metric_of_ones_own_says_of_each_item_is_paired(tmp_path):
    def worth(name, *seeds):
        paths = []
        for number, rows in enumerate(seeds):
            paths.append(tmp_path / f"{name}-{number}.jsonl")
            told = [{"id": f"i{n}", "correct": False, "worth": value} for n, value in enumerate(rows)]
            paths[-1].write_text("".join(json.dumps(row) + "\n" for row in told))
        return items_of(paths)

    found = beside(worth("a", [80.0, 60.0, 40.0], [90.0, 70.0, 50.0]), worth("b", [50.0, 60.0, 10.0]))
    assert found is not None
    assert (found["n"], found["gap"]) == (3, pytest.approx((35 + 5 + 35) / 3))
    assert 5 <= found["low"] < found["gap"] < found["high"] <= 35
    assert (found["only_first"], found["only_second"]) == (0, 0)
    assert found["by_metric"]


def test_an_item_that_some_seed_has_not_answered_is_left_out(tmp_path):
    assert list(written(tmp_path, "first", [True] * 4, [True] * 3)) == ["i0", "i1", "i2"]
