"""The page from hand-written run folders: complete, self-contained, well-formed, safe against what a model writes."""

import json
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from tests.report.runs import ARMS, write_runs
from tunewise.cli.console import results
from tunewise.cli.progress import RunsProgress
from tunewise.comparison.following import Planned
from tunewise.errors import UserError
from tunewise.report.arms import Arm, diverged_of, gather_arms, read_arms
from tunewise.report.calibration_figure import calibration_figure, calibration_of
from tunewise.report.decision import decide
from tunewise.report.folders import read_runs
from tunewise.report.page import render, write_page
from tunewise.report.samples import Sample, write_samples
from tunewise.report.table import print_comparison, print_run, print_samples
from tunewise.report.words import average, count, duration, in_unit, on_axis, size
from tunewise.stats import mean_interval

VOID = {"meta", "br", "img", "link", "hr", "input"}


class Nesting(HTMLParser):
    """Fails on an element that is closed out of turn; keeps what is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_runs(tmp_path_factory.mktemp("report") / "runs")


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing is most of a page's time; tests of the text do without."""
    monkeypatch.setattr("tunewise.report.figure.available", lambda: False)


def test_the_page_is_one_well_formed_file_that_needs_nothing_else(root: Path, tmp_path: Path) -> None:
    page = write_page(root, tmp_path / "report.html", commands=["tunewise demo --out demo"]).read_text("utf-8")
    parser = Nesting()
    parser.feed(page)
    assert parser.open == []
    assert len(parser.seen) > 200
    for tag, attributes in parser.seen:
        assert tag not in ("script", "link", "img", "iframe"), tag
        for name, value in attributes.items():
            if name in ("src", "href", "xlink:href"):
                assert (value or "").startswith("#"), (tag, name, value)
    assert not re.search(r"url\((?!#)", page)
    assert "@import" not in page
    assert "#0400" not in page, "a stand-in colour was left in a figure"
    assert "prefers-color-scheme: dark" in page


@pytest.mark.usefixtures("no_figures")
def test_the_page_shows_every_arm_its_interval_and_its_proofs(root: Path) -> None:
    page = render(read_runs(root), labels={"LoRA": "lora-1c", "full": "full-6b"})
    for method in (
        "frozen (shots=0)",
        "frozen (shots=8)",
        "LoRA",
        "bitfit",
        "bottleneck",
        "prompt_tuning",
        "top_layers",
        "full",
    ):
        assert page.count(f">{method}<") + page.count(f"{method}\n") + page.count(f"{method} ") >= 1, method
    assert "90.2 ± 1.5" in page  # t(2) = 4.303: 4.303 · 0.006 / √3 = 0.0149
    assert "54 of 54 passed" in page
    assert "most frequent answer would score 50.0" in page
    table = page[page.index('<table class="ways">') : page.index("</table>")]
    assert table.index(">LoRA") < table.index(">full") < table.index(">bitfit"), "labels give the order"
    assert "torch" in page
    assert "2.13.0" in page


@pytest.mark.usefixtures("no_figures")
def test_text_of_a_model_cannot_become_markup(root: Path) -> None:
    sample = Sample("<script>alert(1)</script>", "<b>", (("base", "</pre><img src=x>", None),))
    page = render(read_runs(root), samples=[sample])
    assert "<script" not in page
    assert "<img" not in page
    assert "&lt;script&gt;" in page


@pytest.mark.usefixtures("no_figures")
def test_samples_beside_the_runs_are_shown(tmp_path: Path) -> None:
    root = write_runs(tmp_path, seeds=(0,))
    write_samples(root, [Sample("Was the soup good?", "yes", (("base", "", False), ("LoRA", "yes", True)))])
    page = write_page(root, tmp_path / "page.html").read_text("utf-8")
    assert "Was the soup good?" in page
    assert "(nothing)" in page
    assert "One seed a method" in page
    assert "Not settled by one seed; so far take" in page
    assert "take this" not in page


@pytest.mark.usefixtures("no_figures")
def test_every_way_answers_the_same_items_and_disagreements_come_first(root: Path) -> None:
    page = render(read_runs(root))
    items = page.split('<details class="item"')[1:]
    assert len(items) == 4
    assert "Of 4 test items the ways answer 2 differently." in page
    for place, (text, n_right) in enumerate((("cold soup", 5), ("Two hours", 5), ("waffles", 8), ("boat trip", 8))):
        item = items[place][: items[place].index("</details>")]
        assert text in item
        assert item.count("<h3>") == len(ARMS)
        assert item.count("<span>✓</span>") == n_right
    assert items[0].startswith(" open>")


def test_the_decision_takes_the_cheapest_of_the_equally_good(root: Path) -> None:
    arms = gather_arms(read_runs(root))
    found = decide(arms)
    assert (found.best.label, found.pick.label) == ("full", "lora")
    # prompt tuning scatters so widely that no test tells it apart, yet it is sixteen points worse
    assert "prompt_tuning" in found.verdict.open
    for group, opening in ((found.verdict.open, "Not settled"), (found.verdict.worse, "Reliably worse than full: ")):
        assert all(f"{label} by " in found.reason.split(opening)[1].split("). ")[0] for label in group)
    assert not found.takes
    assert found.headline.startswith("Not settled by 3 seeds; so far take lora: accuracy ")
    settled = decide([arm for arm in arms if arm.label not in found.verdict.open])
    assert settled.takes
    assert settled.headline.startswith("Take lora: accuracy ")
    assert "As good, within 2 points of the best mean: full and bottleneck." in found.reason
    shown = "Two one-sided tests show it of lora; so few seeds leave it open of bottleneck."
    assert shown in found.reason
    assert "Beside full it costs less: adapter " in found.reason
    assert "(Welch's t, Holm over 28 pairs; 80 % power)" in found.reason


def test_a_verdict_over_ways_that_learnt_nothing_says_so(root: Path) -> None:
    """The items are half of one class: what scores no more than that has learnt nothing."""
    arms = read_arms(root)
    assert "has learnt the task" not in decide(arms).reason
    weak = [arm for arm in arms if arm.n_trainable == 0]
    flat = [scoring(arm, (50.0,) * 3) for arm in weak]
    found = decide(flat)
    assert (found.learnt, found.takes, found.badge) == (False, False, "")
    assert found.headline == "Take none yet: no way is better than always giving the most frequent answer, 50.0 %."
    assert f"{found.best.label} has the best mean, accuracy 50.0 ± 0.0 %: none has learnt the task." in found.reason
    scattered = scoring(flat[0], (51.0, 49.0, 52.0))
    found = decide([scattered, *flat[1:]])
    assert found.learnt
    reaches = (
        f"But the interval of {scattered.label} reaches down to the 50.0 % of always giving the most frequent answer."
    )
    assert reaches in found.reason


def test_of_many_ways_that_are_as_good_not_each_is_named(root: Path) -> None:
    one = next(arm for arm in read_arms(root) if arm.n_trainable)
    scores = [(90.0, 90.4, 90.2)] * 6 + [(86.0, 94.0, 90.0)]
    reason = decide([replace(scoring(one, each), label=f"way {n}") for n, each in enumerate(scores)]).reason
    assert "As good, within 2 points of the best mean: all others." in reason
    assert "Two one-sided tests show it of all but way 6, of which so few seeds leave it open." in reason


def scoring(arm: Arm, scores: tuple[float, ...]) -> Arm:
    """The same with these accuracies of its seeds."""
    tests = [
        {**run.metrics, "test": {**run.metrics["test"], "accuracy": score}} for run, score in zip(arm.runs, scores)
    ]
    runs = tuple(replace(run, metrics=metrics) for run, metrics in zip(arm.runs, tests))
    return replace(arm, runs=runs, scores=scores, quality=mean_interval(scores))


def test_an_unfinished_run_is_not_read(tmp_path: Path) -> None:
    root = write_runs(tmp_path)
    assert len(read_runs(root)) == 3 * len(ARMS)
    next(root.rglob("DONE")).unlink()
    assert len(read_runs(root)) == 3 * len(ARMS) - 1
    with pytest.raises(UserError, match="no finished run"):
        read_runs(tmp_path.joinpath("empty").mkdir() or tmp_path / "empty")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "recipe.yaml").write_text("model: tiny\n")
    with pytest.raises(UserError, match="no finished run") as error:
        read_runs(tmp_path / "begun")
    assert "tunewise train " in error.value.hint and "recipe.yaml --out " in error.value.hint
    with pytest.raises(UserError, match="no such folder"):
        read_runs(tmp_path / "nowhere")


@pytest.mark.usefixtures("no_figures")
def test_a_comparison_shows_its_own_runs_under_its_own_names(tmp_path: Path) -> None:
    root = write_runs(tmp_path)
    chosen = [
        {"label": "everything", "folder": "tiny-sentiment/full-6b", "seeds": [0, 1]},
        {"label": "low rank", "folder": "tiny-sentiment/lora-1c", "seeds": [0, 1]},
    ]
    (root / "comparison.json").write_text(json.dumps({"arms": chosen}))
    assert [(arm.label, arm.seeds) for arm in read_arms(root)] == [("everything", (0, 1)), ("low rank", (0, 1))]
    page = write_page(root, tmp_path / "page.html").read_text("utf-8")
    table = page[page.index('<table class="ways">') : page.index("</table>")]
    assert table.index("</i>everything") < table.index("</i>low rank")
    assert "bitfit" not in page


@pytest.mark.usefixtures("no_figures")
def test_seeds_that_diverged_are_shown_and_their_arm_is_not_taken(tmp_path: Path) -> None:
    root = write_runs(tmp_path)
    lost = [
        {"seed": seed, "reason": f"the loss is not finite at step {seed + 3} of 9", "hint": ""} for seed in range(3)
    ]
    chosen = [
        {"label": "everything", "folder": "tiny-sentiment/full-6b", "seeds": [2], "failed": lost[:2]},
        {"label": "low rank", "folder": "tiny-sentiment/lora-1c", "seeds": [0, 1, 2], "failed": []},
        {"label": "too hot", "folder": "tiny-sentiment/none", "seeds": [], "failed": lost},
    ]
    (root / "comparison.json").write_text(json.dumps({"arms": chosen}))
    arms, diverged = read_arms(root), diverged_of(root)
    assert [(arm.label, arm.n_diverged) for arm in arms] == [("everything", 2), ("low rank", 0)]
    assert max(arms, key=lambda arm: arm.quality.mean).label == "everything"
    found = decide(arms)
    assert (found.pick.label, found.best.label) == ("low rank", "low rank")
    console = Console(width=110, record=True, file=open("/dev/null", "w"), color_system=None)  # noqa: SIM115
    print_comparison(console, arms, diverged)
    text = console.export_text()
    page = write_page(root, tmp_path / "page.html").read_text("utf-8")
    for told in (
        "everything: 2 of 3 seeds diverged; the first: the loss is not finite at step 3 of 9",
        "too hot: 3 of 3 seeds diverged; the first: the loss is not finite at step 3 of 9",
    ):
        assert told in text
        assert told in page
    assert "everything (2 of 3 lost)" in text
    assert "too hot (3 of 3 lost)" in text


def test_the_page_says_it_without_matplotlib(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    page = render(read_runs(root))
    assert "<svg" not in page
    assert "90.2 ± 1.5" in page
    assert "tunewise[plot]" in page


def test_terminal_tables(root: Path) -> None:
    console = Console(width=110, record=True, file=open("/dev/null", "w"), color_system=None)  # noqa: SIM115
    runs = read_runs(root)
    arms = gather_arms(runs)
    print_comparison(console, arms)
    print_run(console, runs[-1].folder, runs[-1].metrics)
    print_samples(console, [Sample("a prompt", "yes", (("base", " on and on", False), ("LoRA", "yes", True)))])
    text = console.export_text()
    assert "90.2 ± 1.5" in text
    assert "so far take lora" in text
    assert "passed" in text
    assert "on and on" in text
    assert max(map(len, text.splitlines())) <= 110


@pytest.mark.usefixtures("no_figures")
def test_a_loss_is_told_in_its_own_digits_and_not_in_points(tmp_path: Path) -> None:
    root = write_runs(tmp_path)
    for path in root.rglob("metrics.json"):
        metrics = json.loads(path.read_text())
        loss = {"loss": 5 - metrics["test"]["accuracy"] / 25}
        path.write_text(json.dumps({**metrics, "test": loss, "dev": loss}))
    page = render(read_runs(root))
    assert "<dd>−0.828</dd><dt>beside the best without training" in page
    assert "points" not in page[page.index("<main>") : page.index("<nav>")]


@pytest.mark.parametrize(
    ("file", "old", "new"), [("metrics.json", '"sentiment"', '"other"'), ("recipe.yaml", "tiny", "big")]
)
def test_runs_of_several_tasks_or_bases_are_not_compared(file: str, old: str, new: str, tmp_path: Path) -> None:
    write_runs(tmp_path, seeds=(0,))
    assert read_arms(tmp_path)
    path = next(tmp_path.rglob("lora-1c/seed0")) / file
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(UserError, match=r"are of 2 (tasks|bases)"):
        read_arms(tmp_path)


def test_a_label_is_shown_as_it_is_written(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No formula in a figure, no style in a terminal, no tag on a page."""
    label = "pay $x_{$ [/r=8] <b>"
    arms = gather_arms(read_runs(root), {label: "lora-1c"})
    print_comparison(results(), arms)
    assert "pay $x_{$" in capsys.readouterr().out
    with RunsProgress() as progress:
        progress.planned([Planned(f"{label} seed 0", label)], 1)
        progress.ends(0, {"test": {"accuracy": 80.0}, "seconds": 1.0})
    assert "[/r=8] <b> seed 0" in capsys.readouterr().err
    calibration = calibration_of([{"scores": {"a": 0.0, "b": -1.0}, "correct": True}])
    assert calibration is not None
    assert "pay $x_{$ [/r=8] &lt;b&gt;" in calibration_figure(arms, [(arms[0], calibration)])


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (count(0), "0"), (count(99_999), "99,999"), (count(106_848), "0.11 M"), (count(2_500_000_000), "2.50 B"),
        (size(0), "–"), (size(999), "999 B"), (size(201_344), "201 kB"), (size(6_335_900), "6.3 MB"),
        (average(36.0), "36"), (average(146 / 3), "48.7"), (average(0.0), "0"),
        (duration(0.44), "0.4 s"), (duration(59), "59 s"), (duration(185), "3 min 05 s"),
        (duration(7620), "2 h 07 min"),
    ],
)  # fmt: skip
def test_numbers_read_well(text: str, wanted: str) -> None:
    assert text == wanted


def test_a_verdict_for_a_way_that_failed_its_proofs_says_so(root: Path) -> None:
    arms = read_arms(root)
    pick = decide(arms).pick
    assert "proofs of" not in decide(arms).reason
    lost = replace(pick.runs[1], metrics=pick.runs[1].metrics | {"proofs": {"has_an_effect": {"passed": False}}})
    doubted = [arm if arm is not pick else replace(arm, runs=(arm.runs[0], lost, arm.runs[2])) for arm in arms]
    assert decide(doubted).reason.startswith("But proofs of lora failed (has an effect): do not rely on it")


def test_a_metric_in_a_heading_and_on_an_axis_has_its_unit() -> None:
    assert [in_unit(name) for name in ("accuracy", "ece", "reviews.f1")] == [
        "accuracy %", "calibration error", "F1 of reviews %",
    ]  # fmt: skip
    assert (on_axis("accuracy"), on_axis("accuracy", " on dev"), on_axis("rmse", " on dev")) == (
        "accuracy, %", "accuracy on dev, %", "RMSE on dev",
    )  # fmt: skip
