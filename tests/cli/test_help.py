"""Help that can be read in a window of 80 columns, and words that were not meant so."""

import pytest

from tests.cli.command import tunewise
from tunewise.cli import VERBS, adapter, data

OF_GROUPS = [
    f"{group} {command.name or command.callback.__name__}"
    for group, app in (("adapter", adapter.app), ("data", data.app))
    for command in app.registered_commands
]


@pytest.mark.parametrize("verb", ["", *VERBS, "adapter", "data", *OF_GROUPS])
def test_nothing_of_a_help_is_cut_at_80_columns(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERMINAL_WIDTH", "80")
    found = tunewise(*verb.split(), "--help")
    assert found.code == 0
    cut = [line for line in found.out.splitlines() if "…" in line]
    assert not cut, cut
    assert max(map(len, found.out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("words", "meant"),
    [(("trian",), "train"), (("adapter", "mrege"), "merge"), (("data", "chekc"), "check"), (("compere",), "compare")],
)
def test_a_verb_that_is_none_is_told_with_the_nearest(words: tuple[str, ...], meant: str) -> None:
    found = tunewise(*words)
    assert found.code == 2
    assert f"Did you mean '{meant}'?" in " ".join(found.err.split())
