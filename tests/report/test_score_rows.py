"""Test sets from elsewhere on the page: hand-written runs, whose numbers are known."""

import json

import pytest
from rich.console import Console

from tests.report.runs import write_runs
from tunewise.report.arms import read_arms
from tunewise.report.folders import read_runs
from tunewise.report.page import render
from tunewise.report.score_rows import set_rows
from tunewise.report.table import out_of_domain_table


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


@pytest.mark.parametrize("n", [1, 9])
def test_a_terminal_has_a_row_an_arm_or_where_sets_are_more_a_row_a_set(tmp_path, n):
    names = [f"set-{k}-of-those-from-elsewhere" for k in range(n)]
    arms = read_arms(with_sets(tmp_path, lambda own: {name: {"accuracy": 50.0} for name in names}))
    console = Console(width=200, record=True, file=open("/dev/null", "w"), color_system=None)  # noqa: SIM115
    console.print(out_of_domain_table(arms))
    lines = console.export_text().splitlines()
    by_set = n > len(arms)
    assert [line.split("  ")[0].strip() for line in lines[1:]] == (
        ["in domain", *names] if by_set else [arm.label for arm in arms]
    )
    assert all(arm.label in lines[0] for arm in arms) == by_set
    assert sum(line.count("50.0 ± 0.0") for line in lines) == n * sum(arm.label != "bitfit" for arm in arms)


def test_nothing_is_said_where_nothing_was_asked(tmp_path):
    write_runs(tmp_path)
    assert set_rows(read_arms(tmp_path)) == []
    assert "elsewhere" not in render(read_runs(tmp_path))
