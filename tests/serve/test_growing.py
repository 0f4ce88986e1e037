"""What was told of a text that grows is never taken back, and together it is the text."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunewise.serve.growing import Growing


def told(pieces, stops=(), is_stripped=False, upto=None):
    """What is told of a text that grows by these pieces and ends before a stop, piece by piece."""
    growing, found = Growing(stops, is_stripped), []
    for n in range(1, len(pieces) + 1):
        found.append(growing.piece("".join(pieces[:n])))
    whole = "".join(pieces) if upto is None else upto
    return [*found, growing.last(whole)]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text("ab \n", max_size=3), max_size=8), st.booleans())
def test_the_pieces_are_the_text(pieces, is_stripped):
    whole = "".join(pieces)
    assert "".join(told(pieces, is_stripped=is_stripped)) == (whole.strip() if is_stripped else whole)


def test_white_space_at_the_ends_is_not_told_where_it_is_stripped():
    assert told([" a", " ", "b", "\n"], is_stripped=True) == ["a", "", " b", "", ""]


def test_what_may_become_a_stop_is_held_back():
    assert told(["a", "\n", "b", "\n", "\n"], stops=("\n\n",), upto="a\nb") == ["a", "", "\nb", "", "", ""]
    assert told(["ab", "c", "x"], stops=("bcd", "ce")) == ["a", "", "bcx", ""]


@pytest.mark.parametrize("unfinished", ["\ufffd", "\ufffd\ufffd"])
def test_a_character_of_which_bytes_are_missing_waits_for_them(unfinished):
    growing = Growing((), False)
    assert [growing.piece(f"a{unfinished}"), growing.piece("aé"), growing.last("aé\ufffd")] == ["a", "é", "\ufffd"]
