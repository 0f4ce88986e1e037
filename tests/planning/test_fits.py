"""The largest numbers that fit: each fits, and one more does not."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.planning.made_up import MB, made_up, made_up_rehearsals
from tunewise.methods import parse_method
from tunewise.planning.fits import at_length, largest, largest_rows, largest_tokens
from tunewise.planning.work import Work

LORA = parse_method("lora")


@settings(max_examples=150, deadline=None)
@given(
    st.floats(0, 1e6), st.floats(0, 1e5), st.floats(0, 1e3), st.integers(1, 10**9), st.integers(1, 131_072),
    st.integers(1, 2048), st.integers(0, 10**6),
)  # fmt: skip
def test_it_fits_and_one_more_does_not(a, b, c, memory, ceiling, start, step) -> None:
    asked = []

    def bytes_at(n: int) -> int:
        asked.append(n)
        return int(a + b * n + c * n * n + (step if n > 777 else 0))

    found = largest(bytes_at, memory, ceiling, min(start, ceiling), int(a))
    assert 0 <= found <= ceiling
    assert found == 0 or bytes_at(found) <= memory
    assert found == ceiling or bytes_at(found + 1) > memory
    assert len(asked) <= 50  # a step is worse than any curve; two are of this test


def test_a_line_takes_three_questions() -> None:
    asked = []

    def bytes_at(n: int) -> int:
        asked.append(n)
        return 1000 + 10 * n

    assert largest(bytes_at, 10_004, 4096, start=8, at_zero=1000) == 900
    assert len(asked) == 3


@pytest.mark.parametrize("memory", [150 * MB, 400 * MB, 3000 * MB, 90_000 * MB])
def test_batches_and_rows(memory: int) -> None:
    with made_up_rehearsals(memory) as (known, asked):
        rows = largest_rows(known, LORA, Work(), 4096)
        tokens = largest_tokens(known, LORA, Work(), 100_000)

        def fits(work: Work) -> bool:
            return made_up(known.shell, LORA, work).memory.total <= memory

        assert rows == 0 or fits(replace(Work(), rows=rows))
        assert rows == 4096 or not fits(replace(Work(), rows=rows + 1))
        assert tokens == 0 or fits(at_length(Work(), tokens))
        assert not fits(at_length(Work(), tokens + 1))
        assert len(asked) <= 3


def test_labels_go_with_the_length_and_a_class_is_one_a_row() -> None:
    assert at_length(Work(tokens=512, labels=128), 1024).labels == 256
    assert at_length(Work(tokens=512, labels=1), 1024).labels == 1
    assert at_length(Work(tokens=10, labels=10), 1).labels == 1
