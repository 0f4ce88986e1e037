"""The table of all pairs against Welch's test of scipy and Holm's correction of statsmodels."""

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
from scipy.stats import ttest_ind
from statsmodels.stats.multitest import multipletests

from tests.report.runs import write_runs
from tunewise.report.arms import Arm, read_arms
from tunewise.report.decision import decide
from tunewise.report.matrix import Cell, matrix_of
from tunewise.report.words import probability


@pytest.fixture(scope="module")
def arms(tmp_path_factory: pytest.TempPathFactory) -> list[Arm]:
    # two constant arms would have no variance, which is no case for scipy
    return [arm for arm in read_arms(write_runs(tmp_path_factory.mktemp("runs"))) if arm.quality.half_width > 0]


def test_every_pair_says_what_scipy_and_statsmodels_say(arms: list[Arm]) -> None:
    found = matrix_of(arms, decide(arms).verdict)
    assert found is not None
    means = [arm.quality.mean for arm in found.arms]
    assert means == sorted(means, reverse=True)
    pairs = list(combinations(found.arms, 2))
    tests = [ttest_ind(one.scores, other.scores, equal_var=False) for one, other in pairs]
    corrected = multipletests([test.pvalue for test in tests], method="holm")[1]
    n_seen = 0
    for (one, other), test, p in zip(pairs, tests, corrected, strict=True):
        i, j = found.arms.index(one), found.arms.index(other)
        cell, back = found.rows[i][j], found.rows[j][i]
        assert isinstance(cell, Cell)
        assert isinstance(back, Cell)
        low, high = test.confidence_interval(0.95)
        assert cell.gap == f"{one.quality.mean - other.quality.mean:+.1f}".replace("-", "−")
        assert float(cell.half_width) == pytest.approx((high - low) / 2, abs=0.051)
        assert cell.p == back.p == probability(p)
        assert cell.strength == sum(p < level for level in (0.05, 0.01, 0.001))
        assert (cell.is_better, back.is_better) == ((True, False) if p < 0.05 else (None, None))
        n_seen += p < 0.05
    assert found.levels == pytest.approx((0.05, 0.01, 0.001))
    assert 0 < n_seen < len(pairs)
    assert all(row[i] is None for i, row in enumerate(found.rows))


def test_less_of_a_loss_is_better(arms: list[Arm]) -> None:
    losses = [replace(arm, metric="loss", scores=tuple(2 - s / 100 for s in arm.scores)) for arm in arms]
    losses = [replace(arm, quality=replace(arm.quality, mean=sum(arm.scores) / 3)) for arm in losses]
    found = matrix_of(losses, decide(arms).verdict)
    assert found is not None
    assert found.arms[0].quality.mean == min(arm.quality.mean for arm in losses)


def test_one_seed_has_no_matrix(tmp_path: Path) -> None:
    alone = read_arms(write_runs(tmp_path, seeds=(0,)))
    assert matrix_of(alone, decide(alone).verdict) is None
