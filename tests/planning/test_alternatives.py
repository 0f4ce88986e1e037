"""What would fit instead: it fits when applied, holds no smaller change that does, and the cheapest comes first."""

from dataclasses import replace

import pytest

from tests.planning.made_up import MB, made_up, made_up_rehearsals
from tunewise.methods import METHODS, parse_method
from tunewise.planning.alternatives import GIVEN_UP, Alternative, alternatives
from tunewise.planning.work import Work

LORA = parse_method("lora")  # of rank 8: 24 MB
WORK = Work(rows=8, tokens=100, labels=100)  # 800 tokens: 40 MB of activations, 0.8 of pairs, 0.8 of logits


def found_in(memory: int, method=LORA, work: Work = WORK, others=(), **options) -> list[Alternative]:
    with made_up_rehearsals(memory, **options) as (known, _):
        assert not known.fits(method, work)
        found = alternatives(known, method, work, others=others)
        for each in found:
            assert made_up(known.shell, each.method, each.work).memory.total <= memory, each.typed
            assert each.work.rows * each.accumulation == work.rows
        return found


def typed(found: list[Alternative]) -> list[str]:
    return [" ".join(each.typed) for each in found]


def test_a_little_too_much_is_saved_in_several_ways_each_of_one_change() -> None:
    # 124 MB fixed and 41.6 of rows; the others give up something or take a third more time
    assert typed(found_in(160 * MB)) == [
        "train.batch_size=4 train.accumulation=2",
        "train.optimiser=adamw_8bit",
        "quantise=nf4",
        "method.rank=4",
        "train.checkpointing=true",
    ]


@pytest.mark.parametrize("optimiser", ["lion", "adafactor", "muon", "sgd"])
def test_another_rule_is_no_smaller_form_of_one(optimiser) -> None:
    found = typed(found_in(160 * MB, work=replace(WORK, optimiser=optimiser)))
    assert found
    assert not [one for one in found if "optimiser" in one]


def test_what_is_too_little_alone_is_combined() -> None:
    # no row fits in 16 bits; in 4 bits 49 MB are fixed, and 8-bit moments save 12 of them
    found = typed(found_in(52 * MB))
    assert "quantise=nf4 train.batch_size=1 train.accumulation=8" not in found, "5.2 MB a row are too much"
    assert "train.optimiser=adamw_8bit quantise=nf4 train.batch_size=2 train.accumulation=4" in found
    assert all("quantise=nf4" in one for one in found)


def test_nothing_holds_a_smaller_change_that_does() -> None:
    for memory in range(50, 165, 5):
        sets = [{word.partition("=")[0] for word in each.typed} for each in found_in(memory * MB)]
        plain = [names for names in sets if not any(name.startswith("method") for name in names)]
        assert not [(a, b) for a in plain for b in plain if a < b], memory


def test_the_cheapest_comes_first_in_time_and_then_in_what_is_given_up() -> None:
    found = found_in(160 * MB, others=("prompt_tuning",))
    assert [each.rank for each in found] == sorted(each.rank for each in found)
    assert {each.gives_up for each in found} <= set(GIVEN_UP)
    by_name = {" ".join(each.typed): each for each in found}
    assert by_name["train.checkpointing=true"].time == pytest.approx(4 / 3, rel=0.05)
    assert by_name["quantise=nf4"].gives_up == "precision of the base"


def test_accumulation_goes_on_from_what_was_asked_for() -> None:
    with made_up_rehearsals(150 * MB) as (known, _):
        (first, *_) = alternatives(known, LORA, WORK, 3, others=())
        rows = first.work.rows
        assert first.typed == (f"train.batch_size={rows}", f"train.accumulation={24 // rows}")


def test_a_rank_is_lowered_where_the_trained_part_is_what_is_too_much() -> None:
    found = found_in(290 * MB, parse_method({"name": "lora", "rank": 64}))  # 192 MB for it
    assert "method.rank=32" in typed(found)
    assert next(each for each in found if each.typed == ("method.rank=32",)).gives_up == "rank"


def test_levers_on_what_is_small_are_left_alone() -> None:
    small = parse_method({"name": "lora", "rank": 1})  # 2 MB of moments
    assert not [one for one in typed(found_in(110 * MB, small)) if "optimiser" in one]


def test_another_method_where_all_of_the_base_is_too_much() -> None:
    found = found_in(200 * MB, METHODS["full"](), others=("lora", "prompt_tuning"))
    assert {"method=lora", "method=prompt_tuning"} == set(typed(found))
    assert all(each.gives_up == "the method" for each in found)


def test_a_method_that_does_not_act_on_a_quantised_base_is_not_offered_on_one() -> None:
    with made_up_rehearsals(70 * MB) as (known, _):
        found = alternatives(known, LORA, replace(WORK, quantise="nf4"), others=("full",))
    assert found
    assert not [one for one in typed(found) if "method=full" in one]


def test_of_a_base_in_nf4_the_ends_are_what_is_left_to_quantise() -> None:
    # 49 MB fixed and 41.6 of rows; with the ends 12.5 less
    with made_up_rehearsals(80 * MB) as (known, _):
        offered = [typed(alternatives(known, LORA, replace(WORK, quantise=form))) for form in ("nf4", "nf4-ends8")]
    assert "quantise=nf4-ends8" in offered[0]
    assert not any("quantise=nf4-ends8" in one for one in typed(found_in(80 * MB)))
    assert not any("quantise" in one for one in offered[1])


def test_rows_are_cut_only_where_nothing_else_helps() -> None:
    long = replace(WORK, rows=1, tokens=4000, labels=4000)  # 160 MB of pairs
    (only,) = found_in(100 * MB, work=long)
    assert only.typed[:3] == ("train.checkpointing=true", "train.optimiser=adamw_8bit", "quantise=nf4")
    assert only.typed[3] == f"train.max_length={only.work.tokens}"
    assert 32 <= only.work.tokens < 4000
    assert only.gives_up == "the ends of long rows"


def test_nothing_is_offered_where_nothing_fits() -> None:
    assert found_in(2 * MB) == []


def test_without_speeds_what_is_given_up_decides() -> None:
    found = found_in(160 * MB, is_fast=False)
    assert all(each.time is None for each in found)
    assert [GIVEN_UP.index(each.gives_up) for each in found] == sorted(GIVEN_UP.index(each.gives_up) for each in found)
