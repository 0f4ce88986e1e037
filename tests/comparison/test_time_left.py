"""The time left, by a clock that the test winds."""

import pytest

from tests.small_base import write_base, write_reviews
from tunewise.comparison.following import Planned, work_of
from tunewise.comparison.time_left import TimeLeft
from tunewise.data.config import DataConfig
from tunewise.data.load import load_task
from tunewise.models.load import load_base
from tunewise.run import build_recipe


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def planned(*arms, done=()):
    """Runs that read 90 rows in training and 10 for answers; those of `frozen` only answer."""
    runs = enumerate(arms)
    return [
        Planned(f"{arm} {number}", arm, number in done, 0.0 if arm == "frozen" else 90.0, 10.0) for number, arm in runs
    ]


def test_before_the_first_run_has_ended_its_steps_tell():
    clock = Clock()
    left = TimeLeft(planned("frozen", "full"), 1, clock)
    assert left.seconds() is None
    left.begins([1])
    left.trained([1], 0.0, first=True)
    assert left.seconds() is None
    clock.now += 9
    left.trained([1], 0.5)  # 45 rows in 9 s: 0.2 s a row
    assert left.seconds() == pytest.approx(0.2 * (45 + 10) + 0.2 * 10)
    clock.now += 3  # nothing is told meanwhile, and time goes on
    assert left.seconds() == pytest.approx(0.2 * 55 - 3 + 0.2 * 10)
    clock.now += 1000
    assert left.seconds() == pytest.approx(0.2 * 10)


def test_a_run_takes_what_its_arm_took_and_else_what_a_row_took():
    clock = Clock()
    left = TimeLeft(planned("frozen", "lora", "frozen", "lora", "full"), 1, clock)
    left.ends(0, 4.0)  # 10 rows, 0.4 s each
    assert left.seconds() == pytest.approx(0.4 * (100 + 10 + 100 + 100))
    left.ends(1, 20.0)  # 100 rows, 0.2 s each; all in all 24 s for 110
    assert left.seconds() == pytest.approx(4.0 + 20.0 + 24 / 110 * 100)
    left.begins([3])
    left.trained([3], 0.0, first=True)
    clock.now += 1
    left.trained([3], 0.5)
    assert left.seconds() == pytest.approx(4.0 + 0.2 * 55 + 24 / 110 * 100), "its arm tells more than its first steps"
    for number in (2, 3, 4):
        left.ends(number, 1.0)
    assert left.seconds() == 0.0


def test_runs_that_were_done_before_count_as_done_and_not_into_the_speed():
    clock = Clock()
    left = TimeLeft(planned("lora", "lora", "lora", done=(0,)), 1, clock)
    left.ends(0, 9000.0)
    assert left.seconds() is None
    left.begins([1])
    left.trained([1], 2 / 3, first=True)  # from its checkpoint: 30 rows are left, and 10 for answers
    clock.now += 5
    left.trained([1], 5 / 6)  # 15 rows in 5 s
    assert left.seconds() == pytest.approx((15 + 10 + 100) / 3)
    left.ends(1, 20.0)  # 40 rows
    assert left.seconds() == pytest.approx(50.0)
    assert TimeLeft(planned("lora", done=(0,)), 1, clock).seconds() == 0.0


def test_several_runs_of_one_batch_and_several_workers():
    clock = Clock()
    left = TimeLeft(planned(*["lora"] * 6), 2, clock)
    left.begins([0, 1, 2])
    left.begins([3])
    left.trained([0, 1, 2], 0.0, first=True)
    clock.now += 27
    left.trained([0, 1, 2], 0.5)  # 135 rows in 27 s
    assert left.seconds() == pytest.approx(max(0.2 * 165, (0.2 * 165 + (0.2 * 100 - 27) * 0 + 2 * 20) / 2))
    for number in (0, 1, 2):
        left.ends(number, 30.0)  # each run's share of the batch: 0.3 s a row
    assert left.seconds() == pytest.approx((3 + 2 * 30) / 2), "two at once"
    left.puts_off([3])  # another process was at it
    assert left.seconds() == pytest.approx(3 * 30 / 2)
    left.trained([3], 0.5)  # said too late
    left.ends(3, None)  # it diverged: that tells nothing
    assert left.seconds() == pytest.approx(2 * 30 / 2)
    left.ends(4, 30.0)
    assert left.seconds() == pytest.approx(30.0), "one run does not end sooner for two workers"


def test_what_a_run_reads_is_counted_in_rows(tmp_path):
    data = {"path": str(write_reviews(tmp_path / "reviews.csv")), "train": 16}
    base = load_base(str(write_base(tmp_path / "base")))
    task = load_task(DataConfig(**data), base.tokenizer)
    n_dev, n_test = len(task.dev), len(task.test)
    assert n_dev > 0
    assert n_test > 0

    def work(method, trains, **overrides):
        fields = {"model": base.name, "data": data, "method": method, "train": overrides}
        return work_of(build_recipe(fields), task, trains)

    few_shot = work({"name": "frozen", "shots": 3}, False)
    assert few_shot == {"training": 0.0, "evaluation": 4 * (n_dev + n_test)}
    steps = work("lora", True, steps=10, batch_size=4, accumulation=2, evaluate_every=None)
    assert steps == {"training": 3 * 80, "evaluation": n_dev + n_test}
    assert work("lora", True, epochs=2.5) == {"training": 3 * 40, "evaluation": 2.5 * n_dev + n_test}
