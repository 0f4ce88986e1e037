import io
import re
from dataclasses import asdict

import pytest
from rich.console import Console

from tunewise.comparison.icl_vs_ft import FINE_TUNED, IN_CONTEXT, size_grid
from tunewise.report.size_grid import difference, heat_map, print_grids, summary, write_size_page

TUNED = {"small": [60.0, 61.0, 59.0], "large": [90.0, 91.0, 92.0]}
SHOWN = {"small": [80.0, 81.0, 79.5], "large": [89.0, 92.0, 93.0]}


@pytest.fixture(scope="module")
def found():
    cells = [asdict(cell) for cell in size_grid(TUNED, SHOWN)]
    models = [
        {
            "label": name,
            "model": f"hub/{name}",
            "scores": {FINE_TUNED: {"in domain": TUNED[name], "hans": SHOWN[name]},
                       IN_CONTEXT: {"in domain": SHOWN[name], "hans": SHOWN[name]}},
        }
        for name in TUNED
    ]  # fmt: skip
    same = [asdict(cell) for cell in size_grid(SHOWN, SHOWN)]
    return {
        "data": {"path": "tiny:entailment"}, "metric": "accuracy", "shots": 16, "seeds": [0, 1, 2], "alpha": 0.05,
        "models": models, "grids": {"in domain": cells, "hans": same},
    }  # fmt: skip


def test_the_table_has_every_difference_and_both_means(found):
    text = io.StringIO()
    print_grids(Console(file=text, width=100), found)
    told = text.getvalue()
    assert re.search(r"small +60\.0 ± 2\.5 +−20\.2 +−31\.3", told)
    assert re.search(r"large +91\.0 ± 2\.5 +\+10\.8 +−0\.3", told)
    assert "In domain: fine-tuning is better in 1 of 4 pairs, in-context learning in 2" in told


def test_the_summary_counts_the_pairs_of_one_model(found):
    assert summary("hans", found["grids"]["hans"]).endswith("in 0 and 0, 2 not told apart.")


def test_a_difference_that_only_the_test_alone_sees_is_marked(found):
    cell = {"difference": -1.25, "better": None, "p": 0.04}
    assert difference(cell, "accuracy", 0.05) == "−1.2°"
    assert difference(cell | {"p": 0.06}, "loss", 0.05) == "−1.250"


@pytest.mark.parametrize("narrow", [False, True])
def test_the_figure_colours_what_is_told_apart(found, narrow):
    drawn = heat_map(found, narrow=narrow)
    assert drawn.count("fill: var(--series-2)") == 1 + 1  # in domain, and large over small on hans
    assert drawn.count("fill: var(--series-3)") == 2 + 1
    assert "in-context learning" in drawn
    assert "#0400" not in drawn  # no stand-in is left


def test_the_page_holds_itself(found, tmp_path):
    page = write_size_page(found, tmp_path / "page.html", commands=["tunewise compare --protocol icl-vs-ft"])
    text = page.read_text("utf-8")
    assert text.count('<tr><th scope="row">') == 2 + 8
    assert text.count("<svg") == 2
    assert not re.search(r'(src|href)="http', text)
