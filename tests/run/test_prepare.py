"""A run's base goes where TUNEWISE_DEVICE says."""

import pytest

from tunewise.data.config import DataConfig
from tunewise.errors import UserError
from tunewise.models.load import load_base
from tunewise.run.prepare import load_for

DATA = DataConfig(path="tiny:sentiment")


def test_the_device_of_the_environment_is_that_of_a_run(monkeypatch) -> None:
    monkeypatch.setenv("TUNEWISE_DEVICE", "cuda:99")
    with pytest.raises(UserError, match="no device cuda:99"):
        load_for(DATA, "tiny")


def test_a_base_that_needs_another_head_stays_where_it_was(monkeypatch) -> None:
    base = load_base("tiny", device="cpu")
    monkeypatch.setenv("TUNEWISE_DEVICE", "cuda:99")
    again, _ = load_for(DATA, "tiny", head="classifier", base=base)
    assert (again.head.kind, again.model.device.type) == ("classes", "cpu")
