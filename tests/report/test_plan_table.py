"""A plan as tables, as a last sentence and as a figure."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from tests.planning.made_up import made_up_rehearsals
from tunewise.errors import UserError
from tunewise.planning.base_plan import Plan
from tunewise.planning.trunk import TrunkPlan
from tunewise.planning.work import Memory
from tunewise.report import plan_figure, plan_table
from tunewise.report.plan_figure import memory_by_method, write_figure
from tunewise.report.plan_table import about, at_most, last_sentence, money, print_plan, quantity, share
from tunewise.run.estimate import plan


def planned(*methods, **options) -> Plan:
    with made_up_rehearsals(1):
        return plan("tiny", methods, **{"device": "h200", **options})


def printed(found: Plan, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False, markup=False)
    print_plan(console, found)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_plan_is_read_in_eighty_columns() -> None:
    text = printed(planned("full", "multitask_prompt", {"name": "lora", "rank": 99}, device="0.4GB", price=2.5))
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    for told in (
        "tiny, 3.38 M parameters, on 0.4 GB",
        "100 %",
        "activ.",
        "lora rank=99 does not fit, but would with",
        "gives up",
    ):
        assert told in text
    assert "full does not fit, but would with" in text
    assert "scales" not in text, "no method has any"


@pytest.mark.parametrize(("device", "where"), [("cpu", "in memory"), ("h200", "in the host's memory")])
def test_which_way_frozen_layers_go_is_told(device: str, where: str) -> None:
    found = planned("top_layers", "lora", device=device)
    assert "trunk" not in printed(found)
    top, lora = found.methods
    memory = Memory(**dict.fromkeys(Memory.__dataclass_fields__, 12_345_678))
    kept = replace(top, memory=memory, trunk_plan=TrunkPlan("", 3, 229_000_000, 50_000_000, 31_000_000))
    text = printed(replace(found, methods=(kept, lora)))
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    lines = text.splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("method"))
    assert [line.split()[-1] for line in lines[head : head + 3]] == ["trunk", "cached", "live"]
    told = "top_layers: 3 frozen layers run once for each row, and what leaves them is kept, 229 MB " + where
    assert f"{told} and 50.0 MB on the disk; for 10 % of the rows there is no room" in " ".join(text.split())


def test_what_nothing_helps_says_who_holds_it() -> None:
    text = " ".join(printed(planned("full", "lora", device="0.15GB")).split())
    assert "full does not fit, nor would with any change that was tried; t4 holds it" in text


def test_no_term_of_memory_is_left_out() -> None:
    fields = list(Memory.__dataclass_fields__)
    assert list(plan_table.TERMS) == fields
    assert list(plan_figure.TERMS) == fields


def test_every_term_adds_up_in_the_table() -> None:
    lines = printed(planned("lora"), 120).splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("memory, MB"))
    *terms, total = (float(cell.replace(",", "")) for cell in lines[head + 1].split()[1:] if cell != "–")
    assert sum(terms) == pytest.approx(total, rel=0.01)


def test_the_last_sentence_says_how_far_the_first_that_fits_goes() -> None:
    found = planned("full", "lora", price=3600.0)
    told = last_sentence(found)
    assert told.startswith("full fits with 145 GB to spare; batch up to 4,096, or rows of up to 512 tokens; 1,000 rows")
    assert told.endswith("; 1 more fits as well.")
    assert f"and cost {money(found.cost(found.methods[0]))}" in told


def test_the_last_sentence_names_the_nearest_change_where_nothing_fits() -> None:
    found = planned("lora", device="0.2GB")
    (best, *_) = [each for each in found.methods[0].alternatives if each.gives_up == "nothing"]
    assert last_sentence(found) == (
        f"Nothing fits as asked. The nearest that does: lora with {' '.join(best.typed)}, "
        f"in {best.memory.total / 1e6:.0f} MB."
    )
    none = last_sentence(planned("lora", device="0.001GB"))
    assert none.startswith("Nothing fits on 0.001 GB, nor would with what was tried: the smallest device that holds")


def test_numbers_as_a_reader_wants_them() -> None:
    assert [share(value) for value in (1.0, 0.0432, 0.0005, 1e-9)] == ["100 %", "4.3 %", "0.05 %", "<0.001 %"]
    assert [quantity(value) for value in (0, 0.001, 1.234, 12.34, 1234)] == ["–", "<0.01", "1.23", "12.3", "1,234"]
    seconds = (0.42, 12.3, 89.0, 190.0, 1202.0, 19_000.0, 1e6)
    assert [about(each) for each in seconds] == ["0.4 s", "12 s", "89 s", "3.2 min", "20 min", "5.3 h", "12 days"]
    assert [at_most(0), at_most(12, 4096), at_most(4096, 4096)] == ["–", "12", "4,096+"]
    assert [money(value) for value in (1234.4, 1.234, 0.01234)] == ["1,234", "1.23", "0.012"]


def test_the_figure_stacks_every_term_and_draws_the_device(tmp_path: Path) -> None:
    found = planned("full", "lora", device="0.4GB")
    (axis,) = memory_by_method(found).axes
    for place, each in enumerate(found.methods):
        widths = [bar.get_width() for bar in axis.patches if abs(bar.get_y() + bar.get_height() / 2 - place) < 0.1]
        assert sum(widths) == pytest.approx(each.memory.total / 1e6, rel=1e-6)
    assert [line.get_xdata()[0] for line in axis.lines] == [400.0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["full", "lora"]
    for suffix, begins in (("svg", b"<?xml"), ("png", b"\x89PNG"), ("pdf", b"%PDF")):
        write_figure(found, tmp_path / f"memory.{suffix}")
        assert (tmp_path / f"memory.{suffix}").read_bytes().startswith(begins)


def test_a_figure_that_cannot_be_drawn_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="cannot draw to"):
        write_figure(planned("lora"), tmp_path / "memory.docx")
    monkeypatch.setattr(plan_figure, "available", lambda: False)
    with pytest.raises(UserError, match="matplotlib") as caught:
        write_figure(planned("lora"), tmp_path / "memory.png")
    assert caught.value.hint == "pip install 'tunewise[plot]'"
