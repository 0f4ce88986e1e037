"""What one measured step makes of a plan."""

from dataclasses import replace

import pytest

from tunewise.planning.correction import Correction, in_warm_process
from tunewise.planning.process import FIXED_BYTES
from tunewise.planning.work import Memory

PLANNED = Memory(
    weights=1000, constants=10, gradients=20, optimiser=70, activations=300, logits=40, cache=0, workspace=60
)


def measured(n_bytes: int | None, seconds: float = 3.0) -> Correction:
    return Correction("lora", PLANNED, n_bytes, planned_seconds=2.0, seconds=seconds, n_steps=3)


def test_what_a_batch_takes_is_corrected_and_what_is_counted_is_not():
    found = measured(1100 + 500)  # 400 were planned beside weights, constants, gradients and moments
    assert found.of_batch == 1.25
    assert found.of_seconds == 1.5
    assert found.corrected(PLANNED).total == 1600
    other = Memory(5000, 0, 5000, 10000, activations=100, logits=8, cache=4, workspace=0)
    assert found.corrected(other) == Memory(5000, 0, 5000, 10000, activations=125, logits=10, cache=4, workspace=0)


def test_what_a_process_brings_in_at_once_is_no_part_of_a_step():
    on_cpu = replace(PLANNED, process=FIXED_BYTES + 200)
    assert in_warm_process(on_cpu) == replace(PLANNED, process=200)
    assert in_warm_process(PLANNED) == PLANNED
    assert measured(1600).corrected(on_cpu).process == FIXED_BYTES + 250


def test_less_than_the_weights_corrects_to_nothing_and_an_unknown_peak_changes_nothing():
    assert measured(900).corrected(PLANNED).total == 1100
    assert measured(None).corrected(PLANNED) == PLANNED


def test_all_of_it_is_told_as_data():
    told = measured(1600).as_data()
    assert told["of_batch"] == pytest.approx(1.25)
    assert (told["planned_bytes"], told["bytes"], told["seconds"], told["n_steps"]) == (1500, 1600, 3.0, 3)
