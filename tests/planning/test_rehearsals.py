"""What follows from three rehearsals, against the formula and against rehearsals of the works themselves."""

from dataclasses import replace

import pytest
import torch

from tests.planning.made_up import MB, made_up, made_up_rehearsals
from tunewise.methods import parse_method
from tunewise.planning.devices import device_named
from tunewise.planning.rehearsal import rehearse
from tunewise.planning.rehearsals import Rehearsals
from tunewise.planning.seconds import step_seconds
from tunewise.planning.shell import shell_of
from tunewise.planning.work import Work

LORA = parse_method("lora")


@pytest.mark.parametrize(("rows", "tokens"), [(8, 512), (1, 512), (100, 512), (3, 100), (2, 2048), (64, 64), (1, 1)])
def test_any_work_follows_from_three_rehearsals(rows: int, tokens: int) -> None:
    with made_up_rehearsals(10**12) as (known, asked):
        known.of(LORA, Work())
        wanted = Work(rows=rows, tokens=tokens, labels=tokens)
        found, right = known.of(LORA, wanted), made_up(known.shell, LORA, wanted)
        assert found.memory.total == pytest.approx(right.memory.total, abs=4)
        assert found.flops[torch.bfloat16] == pytest.approx(right.flops[torch.bfloat16])
        assert found.n_operations == right.n_operations
        assert len(asked) <= 3


def test_no_more_rows_are_rehearsed_than_need_be() -> None:
    with made_up_rehearsals(10**12) as (known, asked):
        found = known.of(LORA, Work(rows=1024))
        assert found.memory.total == pytest.approx(made_up(known.shell, LORA, Work(rows=1024)).memory.total, abs=4)
        assert max(work.rows for work in asked) == 8


def test_what_the_weights_rule_out_is_not_rehearsed() -> None:
    with made_up_rehearsals(1000) as (known, asked):
        assert not known.fits(LORA, Work())
        assert known.least(Work()) == 2 * known.shell.n_parameters
        assert known.least(Work(quantise="nf4")) == known.shell.n_parameters // 2
        assert asked == []


@pytest.mark.parametrize(("method", "device"), [("lora", "24GB"), ("full", "cpu")])
def test_the_real_rehearsals_go_as_is_said(method: str, device: str) -> None:
    shell, chosen = shell_of("tiny"), parse_method(method)
    known, first = Rehearsals(shell, device_named(device)), Work(rows=4, tokens=64, labels=64)
    known.of(chosen, first)
    for wanted in (replace(first, rows=7), replace(first, tokens=160, labels=160, rows=3)):
        right = rehearse(shell, chosen, wanted, known.device.type)
        found = known.of(chosen, wanted)
        assert found.memory.total == pytest.approx(right.memory.total, rel=0.04)  # kernels pad odd lengths
        assert sum(found.flops.values()) == pytest.approx(sum(right.flops.values()), rel=0.02)


def test_a_step_takes_its_products_and_its_traffic_and_on_a_cpu_its_calls() -> None:
    with made_up_rehearsals(10**12) as (known, _):
        work = Work(rows=2, tokens=100, labels=100)
        rehearsed = known.of(LORA, work)
        products, traffic, calls = 200 * 3e9 / 1e13, 2000 / 1e11, 1000 * 1e-7
        assert step_seconds(rehearsed, known.device) == pytest.approx(products + traffic)
        assert known.row_seconds(LORA, work) == pytest.approx((products + traffic) / 2)
        slow = replace(known.device, bytes_per_second=1000.0)
        assert step_seconds(rehearsed, slow) == pytest.approx(products + 2.0)
        assert step_seconds(rehearsed, replace(slow, type="cpu")) == pytest.approx(products + 2.0 + calls)
        assert step_seconds(rehearsed, replace(known.device, operation_seconds=1.0)) == pytest.approx(1000.0)
    with made_up_rehearsals(100 * MB, is_fast=False) as (known, _):
        assert known.row_seconds(LORA, Work()) is None
