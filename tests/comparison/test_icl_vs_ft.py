import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import t as student
from scipy.stats import ttest_ind

from tests.small_base import write_base, write_reviews
from tunewise.comparison.icl_vs_ft import FINE_TUNED, IN_CONTEXT, IN_DOMAIN, TRAIN, icl_vs_ft, scores_of, size_grid
from tunewise.config import read_yaml
from tunewise.errors import UserError


def scores(seed, means, n=10, deviation=3.0):
    draw = np.random.default_rng(seed)
    return {name: list(draw.normal(mean, deviation, n)) for name, mean in means.items()}


def corrected_by_hand(p_values):
    """Holm 1979: step down from the smallest p."""
    order, highest, told = np.argsort(p_values), 0.0, [0.0] * len(p_values)
    for k, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - k) * p_values[index]))
        told[index] = highest
    return told


def test_a_cell_is_welchs_test_of_its_pair_corrected_over_the_grid():
    tuned = scores(0, {"a": 60, "b": 72, "c": 80})
    shown = scores(1, {"a": 61, "b": 66, "c": 84}, n=8, deviation=6.0)
    cells = size_grid(tuned, shown)
    assert [(cell.fine_tuned, cell.in_context) for cell in cells] == [(r, c) for r in "abc" for c in "abc"]
    expected = [ttest_ind(tuned[cell.fine_tuned], shown[cell.in_context], equal_var=False) for cell in cells]
    adjusted = corrected_by_hand([float(test.pvalue) for test in expected])
    for cell, test, p_holm in zip(cells, expected, adjusted, strict=True):
        low, high = test.confidence_interval(0.95)
        gap = np.mean(tuned[cell.fine_tuned]) - np.mean(shown[cell.in_context])
        assert cell.difference == pytest.approx(gap)
        assert (cell.t, cell.df, cell.p) == pytest.approx((test.statistic, test.df, test.pvalue), rel=1e-9)
        assert cell.half_width == pytest.approx((high - low) / 2, rel=1e-9)
        assert cell.p_holm == pytest.approx(p_holm, rel=1e-9)
        assert cell.better == (None if p_holm >= 0.05 else FINE_TUNED if gap > 0 else IN_CONTEXT)
    assert {cell.better for cell in cells} == {None, FINE_TUNED, IN_CONTEXT}  # the made-up numbers show every case


def test_of_a_loss_the_lower_one_is_better():
    tuned, shown = scores(0, {"a": 1.0}, deviation=0.01), scores(1, {"a": 2.0}, deviation=0.01)
    assert size_grid(tuned, shown, lower_is_better=True)[0].better == FINE_TUNED
    assert size_grid(shown, tuned, lower_is_better=True)[0].better == IN_CONTEXT


def test_what_seeds_cannot_tell_is_none():
    (cell,) = size_grid({"a": [70.0]}, {"a": [50.0]})
    assert (cell.half_width, cell.p, cell.better) == (None, 1.0, None)
    (cell,) = size_grid({"a": [70.0, 70.0]}, {"a": [50.0, 50.0]})
    assert (cell.t, cell.p_holm, cell.better) == (None, 0.0, FINE_TUNED)


def test_two_seeds_that_coincide_scatter_as_rounding_to_an_item_does():
    few, many = (size_grid({"a": [70.0, 70.0]}, {"a": [60.0, 60.0]}, step=100 / n)[0] for n in (10, 1000))
    # variance step²/12 on either side: t = 10 / sqrt(2 · (100 / n)² / 12 / 2), two degrees of freedom
    for cell, n in ((few, 10), (many, 1000)):
        t = 10 / (100 / n / 12**0.5)
        assert (cell.t, cell.df) == pytest.approx((t, 2.0))
        assert cell.p == pytest.approx(2 * student.sf(t, 2))
    assert (few.better, many.better) == (None, FINE_TUNED)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sizes")
    write_base(folder / "narrow", width=16)
    write_base(folder / "wide", width=32)
    write_reviews(folder / "reviews.csv")
    write_reviews(folder / "twin.csv", 9)
    (folder / "twin.csv").write_text((folder / "twin.csv").read_text("utf-8").replace("the ", "a small "), "utf-8")
    return folder


@pytest.fixture
def asked(place, without_a_fresh_process):
    def carry_out(**fields):
        models = {str(place / "narrow"): {}, str(place / "wide"): {"train": {"learning_rate": 1e-3}}}
        quick = {"train": {"steps": 3, "learning_rate": 1e-2}, "dtype": "float32", "retention": None}
        return icl_vs_ft(
            models, str(place / "reviews.csv"), out_of_domain={"twin": str(place / "twin.csv")}, shots=2, seeds=(0, 1),
            out=place / "runs", fields=quick, **fields,
        )  # fmt: skip

    return carry_out


def test_two_sizes_end_to_end(place, asked):
    found = asked()
    assert json.loads((place / "runs" / "icl-vs-ft.json").read_text("utf-8")) == found
    assert [model["label"] for model in found["models"]] == ["narrow", "wide"]
    assert list(found["grids"]) == [IN_DOMAIN, "twin"]
    markers = sorted((place / "runs").rglob("DONE"))
    assert len(markers) == 2 * 2 * 2
    for label in ("narrow", "wide"):
        runs = {}
        for marker in (place / "runs" / label).rglob("DONE"):
            recipe = read_yaml(marker.parent / "recipe.yaml")
            runs[recipe["method"]["name"], recipe["seed"]] = (marker.parent, recipe)
        for seed in (0, 1):
            shown, tuned = runs["frozen", seed], runs["full", seed]
            drawn = [json.loads((run / "ledger.json").read_text("utf-8"))["few_shot"] for run, _ in (shown, tuned)]
            assert drawn[0] == drawn[1]  # the demonstrations are the training rows
            assert len(drawn[0]) == shown[1]["method"]["shots"] == 2
            train = tuned[1]["train"]
            assert (train["schedule"], train["warmup"], train["steps"]) == (TRAIN["schedule"], TRAIN["warmup"], 3)
            assert train["learning_rate"] == (1e-2 if label == "narrow" else 1e-3)
    (narrow, wide), cells = found["models"], found["grids"]["twin"]
    expected = np.mean(wide["scores"][FINE_TUNED]["twin"]) - np.mean(narrow["scores"][IN_CONTEXT]["twin"])
    (cell,) = [each for each in cells if (each["fine_tuned"], each["in_context"]) == ("wide", "narrow")]
    assert cell["difference"] == pytest.approx(expected)
    before = {marker: marker.stat().st_mtime_ns for marker in markers}
    assert asked() == found
    assert {marker: marker.stat().st_mtime_ns for marker in markers} == before  # nothing is carried out again


def test_models_that_cannot_be_told_apart_or_found_are_refused(place, tmp_path):
    data = str(place / "reviews.csv")
    (tmp_path / "wide").mkdir()
    with pytest.raises(UserError, match="two models are called wide"):
        icl_vs_ft([str(place / "wide"), str(tmp_path / "wide")], data, out=tmp_path)
    with pytest.raises(UserError, match="no models given"):
        icl_vs_ft([], data, out=tmp_path)
    with pytest.raises(UserError):
        icl_vs_ft([str(place / "wide"), str(tmp_path / "none")], data, out=tmp_path / "runs")
    assert not Path(tmp_path / "runs").exists()  # told before the first model was run


def test_a_metric_that_a_set_with_other_labels_has_not_is_told_in_words(tmp_path):
    arms = [{"label": label, "folder": label, "seeds": [0], "failed": []} for label in (IN_CONTEXT, FINE_TUNED)]
    for arm in arms:
        (tmp_path / arm["folder"] / "seed0").mkdir(parents=True)
        told = {"test": {"f1": 80.0, "accuracy": 90.0}, "out_of_domain": {"hans": {"accuracy": 60.0}}}
        (tmp_path / arm["folder"] / "seed0" / "metrics.json").write_text(json.dumps(told))
    with pytest.raises(UserError, match="f1 cannot be told of hans"):
        scores_of({"arms": arms}, tmp_path)
