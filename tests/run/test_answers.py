"""Which look at dev is told at the end of a run: that of the state which was kept, and no other."""

from types import SimpleNamespace

import pytest

from tunewise.run.answers import Answers
from tunewise.run.record import Spent

LOOKS = ("at 2", "at 4", "at 6")


@pytest.mark.parametrize(
    ("n_seen", "best_step", "told"),
    [
        (3, 4, "at 4"),
        (3, 6, "at 6"),
        (2, 4, "at 4"),  # the first look was made by a process that was stopped
        (2, 2, None),  # as was this one: dev is asked again
        (0, 6, None),
    ],
)
def test_dev_is_told_as_the_kept_state_had_it(n_seen, best_step, told):
    answers = Answers(None, None, None, None, (), Spent(), _on_dev=list(LOOKS[len(LOOKS) - n_seen :]))
    result = SimpleNamespace(scores=[(2, 50.0), (4, 70.0), (6, 60.0)], best_step=best_step)
    assert answers._seen(result) == told
    assert answers._seen(None) is None
