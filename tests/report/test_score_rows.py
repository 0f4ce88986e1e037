"""Test sets from elsewhere on the page: hand-written runs, whose numbers are known."""

import json

from tests.report.runs import write_runs
from tunewise.report.arms import read_arms
from tunewise.report.folders import read_runs
from tunewise.report.page import render
from tunewise.report.score_rows import set_rows


def with_sets(root, sets):
    """Runs of which `sets(accuracy)` are asked besides; the arm bitfit was asked none."""
    write_runs(root)
    for path in root.glob("*/*/*/metrics.json"):
        metrics = json.loads(path.read_text())
        if metrics["method"] != "bitfit":
            path.write_text(json.dumps(metrics | {"out_of_domain": sets(metrics["test"]["accuracy"])}))
    return root


def test_a_row_a_set_and_the_own_rows_first(tmp_path):
    root = with_sets(tmp_path, lambda own: {"twin": {"accuracy": own - 10}, "far": {"accuracy": 50.0}})
    arms = read_arms(root)
    rows = set_rows(arms)
    assert [(row.name, row.metric) for row in rows] == [(name, "accuracy %") for name in ("in domain", "twin", "far")]
    for arm, own, twin, far in zip(arms, *(row.scores for row in rows), strict=True):
        if arm.label == "bitfit":
            assert (twin, far) == ("–", "–")
            continue
        assert float(own.split()[0]) - float(twin.split()[0]) == 10
        assert far.startswith("50.0 ± 0.0")
    page = render(read_runs(root))
    assert 'href="#elsewhere"' in page
    assert '<th scope="row">twin</th>' in page


def test_nothing_is_said_where_nothing_was_asked(tmp_path):
    write_runs(tmp_path)
    assert set_rows(read_arms(tmp_path)) == []
    assert "elsewhere" not in render(read_runs(tmp_path))
