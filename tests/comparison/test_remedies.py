"""Remedies against forgetting, as arms of one comparison."""

import pytest

from tests.small_base import QUICK, write_place_with_texts
from tunewise import files
from tunewise.comparison.remedies import AS_IT_IS, DIALLED, REMEDIES, arms_of, remedies
from tunewise.config import override, read_yaml
from tunewise.errors import UserError
from tunewise.run import build_recipe
from tunewise.run.dial import DIAL

pytestmark = pytest.mark.usefixtures("without_a_fresh_process")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return write_place_with_texts(tmp_path_factory.mktemp("place"), 60, 40)


def recipe_of(place, **fields):
    given = {"model": str(place / "base"), "dtype": "float32", "method": {"name": "lora", "rank": 8}, **fields}
    return override(given, [f"{name}={value}" for name, value in QUICK.items()])


def test_every_remedy_stands_beside_the_method_as_it_is(place, tmp_path):
    texts, counts = str(place / "texts.jsonl"), str(place / "counts.jsonl")
    found = remedies(
        str(place / "reviews.csv"), recipe=recipe_of(place, retention=texts), replay=texts, mixture=[counts],
        seeds=[0, 1], points=3, out=tmp_path,
    )  # fmt: skip
    assert files.read_json(tmp_path / REMEDIES) == found
    assert [row["arm"] for row in found["rows"]] == [
        AS_IT_IS, DIALLED, "rank 2", "10% replayed", "30% of other tasks",
    ]  # fmt: skip
    assert found["left_out"] == {}
    assert all(row["test"]["n"] == row["forgetting"]["n"] == 2 for row in found["rows"])
    comparison = files.read_json(tmp_path / "comparison.json")
    plain, dialled = found["rows"][:2]
    folder = tmp_path / comparison["arms"][0]["folder"]
    dials = [files.read_json(folder / f"seed{seed}" / DIAL) for seed in (0, 1)]
    knees = [next(point for point in dial["points"] if point["scale"] == dial["knee"]) for dial in dials]
    assert dialled["test"]["mean"] == pytest.approx(sum(knee["test"] for knee in knees) / 2)
    assert dialled["scale"] == pytest.approx(sum(dial["knee"] for dial in dials) / 2)
    ends = [dial["points"][-1]["test"] for dial in dials]
    assert plain["test"]["mean"] == pytest.approx(sum(ends) / 2)
    others = [arm["folder"] for arm in comparison["arms"][1:]]
    assert not any((tmp_path / folder / "seed0" / DIAL).exists() for folder in others), "only one arm is dialled"
    rank_2 = next(row for row in comparison["arms"] if row["label"] == "rank 2")
    method = read_yaml(tmp_path / rank_2["folder"] / "seed0" / "recipe.yaml")["method"]
    assert (method["rank"], method["alpha"]) == (2, 4.0), "alpha / rank stays"
    replayed = [files.read_json(tmp_path / one / "seed0" / "ledger.json")["train"]["replayed"] for one in others]
    assert replayed == [0, 5, 21]


def test_what_cannot_be_had_is_left_out_with_its_reason(place):
    recipe = build_recipe({**recipe_of(place, method="bitfit"), "data": "tiny:sentiment"})
    arms, left_out = arms_of(recipe, None, None, 3)
    assert list(arms) == [AS_IT_IS]
    assert left_out.keys() == {"lower rank", "replay", "mixture"}
    assert left_out["lower rank"].startswith("bitfit has no rank")


def test_tiny_brings_its_own_text_and_tasks():
    arms, left_out = arms_of(build_recipe({"method": "bottleneck", "data": "tiny:headline"}), None, None, 3)
    assert not left_out
    assert [*arms][1].startswith("bottleneck ")
    replay, mixture = (arms[label]["data"]["replay"] for label in ("10% replayed", "30% of other tasks"))
    assert replay == [{"path": "tiny:retention", "share": 0.1}]
    assert [each["path"] for each in mixture] == ["tiny:sentiment", "tiny:translation"]
    assert sum(each["share"] for each in mixture) == pytest.approx(0.3)


def test_without_a_text_nothing_is_trained(place, tmp_path):
    with pytest.raises(UserError, match="nothing tells what is forgotten"):
        remedies(str(place / "reviews.csv"), recipe=recipe_of(place), out=tmp_path / "none")
    assert not (tmp_path / "none").exists()
