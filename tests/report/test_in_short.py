"""A way in a few facts, and by which names runs are talked to."""

from pathlib import Path

import pytest

from tests.report.runs import write_runs
from tunewise.report.decision import decide
from tunewise.report.in_short import in_short
from tunewise.report.named import holds_runs, named


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_runs(tmp_path / "runs")


def test_an_arm_has_its_interval_and_its_place_in_the_report(root: Path) -> None:
    found = named([root])
    arms = [one.arm for one in found.values() if one.arm is not None]
    told = in_short(found, decide(arms))
    assert list(told) == ["base", *found]
    lora = told["lora"]
    assert {name: figure.replace("\u00a0", " ") for name, figure in lora.facts.items()} == {
        "method": "lora", "accuracy": "90.2 ± 1.5 %", "trained": "49,152 parameters", "adapter": "201 kB",
        "forgot": "+0.062 ± 0.015 nats/token", "seed": "1, the middle of 3",
    }  # fmt: skip
    order = list(found)
    assert (lora.mark, lora.tone) == ("●■◆▲▼✚✖⬟⬢★"[order.index("lora")], order.index("lora"))
    assert [name for name, one in told.items() if one.badge] == [decide(arms).pick.label]
    assert told["base"] == told["frozen (shots=0)"]  # which trained nothing and shows nothing
    assert told["frozen (shots=8)"].facts["method"].replace("\u00a0", " ") == "frozen, 8 shots"


def test_a_run_of_its_own_has_no_interval(root: Path) -> None:
    run = next(root.glob("*/bitfit-*/seed0"))
    found = named([run, run.parent.parent / "lora-1c" / "seed0"])
    assert list(found) == ["seed0", str(run.parent.parent / "lora-1c" / "seed0")]
    assert not holds_runs(run)
    told = in_short(found)
    assert told["seed0"].facts["accuracy"].replace("\u00a0", " ") == "85.2 %"
    assert "seed" not in told["seed0"].facts
    assert told["base"].facts == {"trained": "nothing"}


def test_an_adapter_and_a_run_without_an_end_have_no_figures(root: Path, tmp_path: Path) -> None:
    run = next(root.glob("*/bitfit-*/seed0"))
    (run / "DONE").unlink()
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}", "utf-8")
    told = in_short(named([run, tmp_path / "adapter"]))
    assert [dict(one.facts) for one in told.values()] == [{"trained": "nothing"}, {}, {}]
