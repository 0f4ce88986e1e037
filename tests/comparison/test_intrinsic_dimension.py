"""The search for d90: which dimensions it tries, and one small search carried out."""

from pathlib import Path

import pytest

from tests.cli.command import tunewise
from tests.small_base import write_base, write_reviews
from tunewise.comparison import intrinsic_dimension
from tunewise.comparison.intrinsic_dimension import search
from tunewise.errors import UserError
from tunewise.files import read_json
from tunewise.report.figure import search_for_a_dimension


@pytest.mark.parametrize("truth", [9, 32, 33, 100, 700, 4096])
def test_the_smallest_dimension_is_found_within_a_fifth(truth: int) -> None:
    tried: list[int] = []

    def reached(dimension: int) -> float:
        assert dimension not in tried, "nothing is measured twice"
        tried.append(dimension)
        return 90.0 if dimension >= truth else 50.0

    points, found = search(reached, 81.0, 32, 4096)
    assert found is not None
    assert points[found] == 90.0
    assert truth <= found <= max(32, 1.25 * truth)
    assert sorted(points) == sorted(tried)


def test_a_task_that_no_dimension_learns_has_none() -> None:
    points, found = search(lambda dimension: float(dimension) / 1000, 81.0, 32, 100)
    assert found is None
    assert sorted(points) == [32, 64, 100]


@pytest.mark.usefixtures("without_a_fresh_process")
def test_a_search_is_carried_out_kept_and_goes_on_from_its_runs(tmp_path: Path) -> None:
    data, base = write_reviews(tmp_path / "reviews.csv"), write_base(tmp_path / "base")
    fields = {
        "model": str(base),
        "share": 0.5,
        "between": (4, 16),
        "out": tmp_path / "search",
        "full": {"train": {"steps": 4, "learning_rate": 1e-2}},
        "intrinsic": [{"train": {"steps": 4, "learning_rate": rate}} for rate in (1e-30, 1e-2)],
    }
    found = intrinsic_dimension(str(data), **fields)
    assert found["metric"] == "accuracy"
    assert found["target"] == 0.5 * found["full"]
    assert found["dimension"] in [*(point["dimension"] for point in found["points"]), None]
    assert read_json(tmp_path / "search" / "intrinsic_dimension.json") == found
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "search").rglob("DONE")}
    assert len(done) == 1 + 2 * len(found["points"])
    for point in found["points"]:
        still, moved = point["tried"]
        assert (still["learning_rate"], moved["learning_rate"]) == (1e-30, 1e-2)
        assert point["value"] == max(still["value"], moved["value"])
        assert point["learning_rate"] == (1e-2 if moved["value"] > still["value"] else 1e-30)
    assert read_json(tmp_path / "search" / "comparison.json")["rows"][0]["arm"] == "full"
    assert intrinsic_dimension(str(data), **fields) == found
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "search").rglob("DONE")} == done
    with pytest.raises(UserError, match="is no share"):
        intrinsic_dimension(str(data), **{**fields, "share": 90})


def test_the_verb_writes_a_picture_and_refuses_what_are_no_numbers(tmp_path: Path) -> None:
    for words, why in (
        (("--between", "32;64"), "--between 32;64 is no list of numbers"),
        (("--between", "32"), "is no pair of numbers"),
        (("--rates", "large"), "--rates large is no list of numbers"),
        (("--full-rates", "1e-3,"), "--full-rates 1e-3, is no list of numbers"),
    ):
        refused = tunewise("dimension", "--data", "tiny:sentiment", *words)
        assert refused.code == 2
        assert why in refused.err

    def point(dimension: int, value: float, worse: float) -> dict:
        tried = [{"learning_rate": 1e-3, "value": worse}, {"learning_rate": 3e-2, "value": value}]
        return {"dimension": dimension, "value": value, "learning_rate": 3e-2, "tried": tried}

    svg = search_for_a_dimension(
        {
            "metric": "accuracy",
            "share": 0.9,
            "full": 90.0,
            "target": 81.0,
            "points": [point(32, 60.0, 55.0), point(64, 85.0, 70.0)],
            "dimension": 64,
        }
    )
    assert svg.startswith("<svg")
    assert "90% of it" in svg
    assert svg.count(">0.03<") == 2
    assert "var(--" not in svg
