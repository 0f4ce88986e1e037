import io

import torch
from rich.console import Console

from tunewise.training.memory import Peak
from tunewise.training.progress import AsOne, Bar, Lines, watcher_for


def follow(watcher):
    watcher.started("lora", 2, 10)
    for step in (3, 4):
        watcher.stepped(step, 1.5 / step, 100)
    watcher.evaluated(4, 0.75, True)
    watcher.finished()


def test_without_a_terminal_there_is_one_line_an_evaluation():
    stream = io.StringIO()
    watcher = watcher_for(stream)
    assert isinstance(watcher, Lines)
    follow(watcher)
    begun, line = stream.getvalue().splitlines()
    assert begun == "lora  goes on behind step 2 of 10"
    assert line.startswith("lora  step 4/10  loss 0.3750  dev 0.7500  (best)  ")
    assert line.endswith("tokens/s")


def test_several_runs_are_followed_as_one():
    stream = io.StringIO()
    one = AsOne(Lines(stream), 2)
    one.started("lora", 2, 10)
    one.started("bitfit", 0, 5)
    for step in (3, 1):
        one.stepped(step, 1.5 / step, 100)
    one.evaluated(1, 0.75, True)
    one.finished()
    one.finished()
    assert stream.getvalue().splitlines()[-1].startswith("lora + bitfit  step 4/15  loss 1.5000  dev 0.7500  (best)  ")


def test_the_bar_shows_steps_loss_score_and_time_left():
    console = Console(file=io.StringIO(), force_terminal=True, width=160, record=True)
    bar = Bar(console)
    bar.started("lora", 2, 10)
    bar.stepped(3, 0.5, 100)
    bar.evaluated(3, 0.75, True)
    console.print(bar._progress.get_renderable())
    text = console.export_text()
    assert "lora" in text
    assert "3/10" in text
    assert "loss 0.5000  dev 0.7500 (best)" in text
    assert "tokens/s" in text
    bar.finished()
    follow(bar)  # one bar serves several runs in turn


def test_sources_are_told_by_their_recent_losses_and_forgotten_by_the_next_run():
    stream = io.StringIO()
    lines = Lines(stream)
    lines.started("lora", 0, 10)
    for losses in ({"a": 2.0, "b": 3.0}, {"a": 1.0}):
        lines.stepped(1, 2.0, 10)
        lines.told_by_source(losses)
    lines.evaluated(2, 0.5, False)
    lines.told_by_source({f"s{number}": 1.0 for number in range(9)})
    lines.evaluated(3, 0.5, False)
    follow(lines)
    told, many, _, after = stream.getvalue().splitlines()
    assert "loss 2.0000  a 1.900  b 3.000  dev 0.5000" in told
    assert "s3 1.000  and 5 more  dev" in many
    assert "loss 0.3750  dev 0.7500" in after


def test_the_bar_shows_sources():
    console = Console(file=io.StringIO(), force_terminal=True, width=160, record=True)
    bar = Bar(console)
    bar.started("lora", 0, 10)
    bar.stepped(1, 0.5, 100)
    bar.told_by_source({"news": 1.25})
    console.print(bar._progress.get_renderable())
    assert "loss 0.5000  news 1.250  dev –" in console.export_text()
    bar.finished()


def test_the_peak_is_of_this_stretch_of_work():
    peak = Peak(torch.device("cpu"))
    before = peak.bytes()
    block = torch.ones(40_000_000)
    grown = peak.bytes()
    assert grown - before > 140e6
    del block
    assert peak.bytes() > grown - 5e6  # the kernel counts pages in batches
    if peak.measure.startswith("VmHWM"):
        assert Peak(torch.device("cpu")).bytes() < grown - 100e6
