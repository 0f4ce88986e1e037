"""What a person sees of a comparison, by a clock that the test winds."""

import io

import pytest
from rich.console import Console

from tunewise.cli.progress import SECONDS_BETWEEN_LINES, RunsProgress
from tunewise.comparison.following import Planned
from tunewise.training.lane import Diverged
from tunewise.training.progress import Silent


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def planned(done=()):
    arms = [("frozen", 0.0), ("lora", 90.0), ("frozen", 0.0), ("lora", 90.0)]
    return [
        Planned(f"{arm} seed {number // 2}", arm, number in done, training, 10.0)
        for number, (arm, training) in enumerate(arms)
    ]


def outcome(seconds):
    return {"test": {"accuracy": 80.0}, "seconds": seconds}


@pytest.fixture
def watched():
    """Lines as in a file or a pipe, the clock, and who follows."""
    stream, clock = io.StringIO(), Clock()
    with RunsProgress(Console(file=stream, width=60), clock) as progress:
        yield (lambda: stream.getvalue().splitlines()), clock, progress


def test_a_line_a_run_with_what_is_left(watched):
    lines, clock, progress = watched
    progress.planned(planned(), 1)
    progress.begins([0])
    clock.now = 2.0
    progress.ends(0, outcome(2.0))  # 0.2 s a row
    watcher = progress.begins([1])
    watcher.started("lora", 0, 8)
    clock.now = 12.0
    watcher.stepped(4, 0.5, 100)
    progress.ends(1, outcome(30.0))
    progress.ends(2, Diverged("the loss is not finite"))
    progress.ends(3, outcome(30.0))
    assert lines() == [
        "1/4  frozen seed 0            accuracy 80.0  2.0 s  about 42 s left",
        "2/4  lora seed 0              accuracy 80.0  30.0 s  about 32 s left",
        "3/4  frozen seed 1            diverged: the loss is not finite  about 30 s left",
        "4/4  lora seed 1              accuracy 80.0  30.0 s",
    ]


def test_a_long_run_is_heard_of_now_and_then(watched):
    lines, clock, progress = watched
    progress.planned(planned(), 1)
    watcher = progress.begins([1, 3])
    watcher.started("lora", 0, 1000)
    for step in range(1, 101):
        clock.now = step * 0.9
        watcher.stepped(step, 0.5, 100)
    assert lines() == [  # 34 of 1000 steps, 0.9 s each: 30.6 s for 6.12 of 220 rows
        "0/4  lora seed 0 + 1 more     step 34/1000  loss 0.500  about 17 min 49 s left",
        "0/4  lora seed 0 + 1 more     step 68/1000  loss 0.500  about 17 min 19 s left",
    ]
    clock.now += SECONDS_BETWEEN_LINES
    watcher.evaluated(100, 75.0, True)
    assert lines()[2].startswith("0/4  lora seed 0 + 1 more     step 100/1000  dev 75.0 (best)  about 2")


def test_runs_that_were_done_are_said_to_be_so(watched):
    lines, _, progress = watched
    progress.planned(planned(done=(0, 1)), 1)
    for number in (0, 1):
        progress.ends(number, outcome(1e6))
    assert lines() == [
        "1/4  frozen seed 0            accuracy 80.0  1000000.0 s  (done before)",
        "2/4  lora seed 0              accuracy 80.0  1000000.0 s  (done before)",
    ]


def test_a_terminal_has_a_bar_for_all_and_one_for_each_batch_under_way():
    console, clock = Console(file=io.StringIO(), force_terminal=True, width=120), Clock()

    def shown():
        printed = Console(file=io.StringIO(), width=120, record=True)
        printed.print(progress._bars.get_renderable())
        return printed.export_text()

    with RunsProgress(console, clock) as progress:
        progress.planned(planned(), 2)
        progress.begins([0])
        lora = progress.begins([1, 3])
        lora.started("lora", 0, 40)
        clock.now = 5.0
        lora.stepped(8, 0.25, 100)
        text = shown()
        for part in ("all runs", "run 0/4", "frozen seed 0", "lora seed 0 + 1 more", "step 8/40", "loss 0.250"):
            assert part in text, part
        assert text.count("left") == 1
        progress.ends(0, outcome(2.0))
        progress.puts_off([1, 3])
        assert "lora seed 0" not in shown()
        lora.stepped(9, 0.25, 100)  # said too late
        assert isinstance(progress.begins([0]), Silent), "what is over does not begin"
        progress.ends(1, outcome(30.0))
        text = shown()
        assert "run 2/4" in text
        assert "about 30 s left" in text, "one more of each arm, on two workers"
