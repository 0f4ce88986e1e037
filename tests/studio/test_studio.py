"""What is under the page of a studio: what is asked and answered, and how it is shown."""

import re
from pathlib import Path

import pytest

import tunewise
from tunewise.data.drawn import Drawn
from tunewise.errors import UserError
from tunewise.report.named import named
from tunewise.run.showcase import Writing, showcase
from tunewise.run.speakers import BASE, Said
from tunewise.studio.showing import Column, before_html, columns_html, error_html, shares_of
from tunewise.studio.sitting import AS_IN_ITS_RUN, FREE, Sitting, Turn, written_by

PACKAGE = Path(tunewise.__file__).parent


def _folders(place: Path) -> dict[str, Path]:
    return {name: each.folder for name, each in named([place / "runs"]).items()}


def test_in_both_ways_all_are_asked_and_a_drawn_row_says_who_is_right(studio_place: Path) -> None:
    with showcase(_folders(studio_place)) as shown:
        sitting = Sitting(shown)
        assert sitting.ways == (AS_IN_ITS_RUN, FREE)
        assert sitting.writing(AS_IN_ITS_RUN) is None
        drawn = sitting.drawn(3)
        assert drawn is not None
        (turn,) = sitting.ask(AS_IN_ITS_RUN, drawn.told, (), drawn=drawn)
        assert [one.speaker for one in turn.said] == [BASE, "frozen", "lora"]
        assert turn.marks() == {one.speaker: one.text == drawn.right[0] for one in turn.said}
        first, other = sitting.ask(AS_IN_ITS_RUN, {"text": "the soup was good"}, (turn,), drawn=drawn)
        assert first is turn
        assert other.drawn is None
        assert set(other.marks().values()) == {None}
        with pytest.raises(UserError, match="nothing is asked"):
            sitting.ask(AS_IN_ITS_RUN, {"text": " "}, ())

        (freely,) = sitting.ask(FREE, {"text": "the soup"}, (), Writing(4))
        with showcase(_folders(studio_place), free=True, max_new_tokens=4) as alone:
            assert sitting.names(FREE) == alone.names == (BASE, "lora")
            assert list(freely.said) == alone.ask("the soup")


def test_each_tab_goes_on_from_its_own_conversation(studio_place: Path) -> None:
    with showcase({"chat": studio_place / "chat"}, max_new_tokens=4) as shown:
        sitting = Sitting(shown)
        (one,) = sitting.ask(AS_IN_ITS_RUN, {"text": "a"}, ())
        sitting.ask(AS_IN_ITS_RUN, {"text": "c"}, ())  # in another tab
        _, second = sitting.ask(AS_IN_ITS_RUN, {"text": "b"}, (one,))
        row = Drawn("dev", {"text": "a"}, ("x",), is_chosen=False)
        (again,) = sitting.ask(AS_IN_ITS_RUN, {"text": "a"}, (one, second), drawn=row)  # a row is asked as in its run
        assert (again.said, again.drawn) == (one.said, row)
        shown.begin_again()
        assert tuple(shown.ask("a")) == one.said
        assert tuple(shown.ask("b")) == second.said
        hot = [sitting.ask(AS_IN_ITS_RUN, {"text": "a"}, (), written_by(Writing(4), 12, 1.9, n)) for n in range(4)]
        assert len({turns[0].said[0].text for turns in hot}) > 1  # each question draws its tokens anew


def test_settings_count_only_once_they_were_changed() -> None:
    assert written_by(Writing(10), 10, 0.0, 3) is None
    assert written_by(None, 10, 0.0, 3) is None
    assert written_by(Writing(10), None, 0.0, 3) is None
    assert written_by(Writing(10), 20, 0.0, 3) == Writing(20)
    changed = written_by(Writing(10), 10, 0.5, 3)
    assert changed is not None
    assert changed.sampling is not None
    assert (changed.sampling.temperature, changed.sampling.seed) == (0.5, 3)


def test_of_many_options_the_most_probable_and_the_right_one_are_shown() -> None:
    said = Said("base", "c9", {f"c{i}": (i + 1) / 55 for i in range(10)})
    shares, n_more = shares_of(said, ["c1"])
    assert [share.option for share in shares] == ["c1", "c4", "c5", "c6", "c7", "c8", "c9"]
    assert (n_more, shares[0].is_right, shares[-1].is_answer) == (3, True, True)
    assert shares[-1].percent == pytest.approx(100 * 10 / 55)


def test_what_was_typed_and_said_is_escaped() -> None:
    drawn = Drawn("d<1", {"text": "<i>a"}, ("<u>",), is_chosen=True)
    turns = tuple(Turn({"text": f"<i>{n}"}, (Said("<b>", "<u>", {"<u>": 1.0}),), drawn) for n in range(3))
    columns = [Column("<b>", facts={"<s>": "<s>"})]
    for html in (
        columns_html(columns, turns, is_conversation=False),
        columns_html(columns, turns, is_conversation=True),
        before_html(columns, turns),
        error_html(UserError("no <b>", "<b>")),
    ):
        assert not re.search(r"<(?:b|s|u)>(?!\w)|<i>\d", html.replace("<b>100.0 %", "").replace("<b>&lt;", "")), html
    assert "3 of 3 right" in columns_html(columns, turns, is_conversation=False)


def test_the_colours_are_those_of_the_report() -> None:
    pytest.importorskip("gradio", reason="the page needs gradio: pip install 'tunewise[ui]'")
    from tunewise.studio.theme import PALETTE, STYLE

    def blocks(css: str) -> list[dict[str, str]]:
        found = [dict(re.findall(r"--([\w-]+): (#\w+);", block)) for block in re.findall(r"\{([^{}]*)\}", css)]
        return [block for block in found if block][:2]

    light, dark = blocks(STYLE)
    assert [light, dark] == blocks((PACKAGE / "report/templates/page.css").read_text("utf-8"))
    assert len(light) == 19
    assert all((light[name], dark[name]) == pair for name, pair in PALETTE.items())
