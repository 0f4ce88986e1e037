"""The environment every test runs in, set before torch is imported: one thread, no spinning, no network."""

import os
import signal
from collections.abc import Sequence
from importlib import import_module

import pytest

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OMP_WAIT_POLICY"] = "passive"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# a shell starts background jobs with Ctrl-C ignored, and Python keeps that; the tests of Ctrl-C need it heard
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The pages first: each takes as long as hundreds of others, and none should be alone at the end."""
    items.sort(key=lambda item: item.path.name != "test_docs.py")


@pytest.fixture
def without_a_fresh_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the reload of adapters in a fresh process, which takes seconds a run; for tests of something else."""

    def passed(folders: Sequence[object], *_: object) -> list[dict[str, object]]:
        return [{"passed": True, "value": 0.0, "tolerance": 0.0} for _ in folders]

    # by module, not by dotted path: the package's root has functions under the names of these rooms
    monkeypatch.setattr(import_module("tunewise.run.carry_out"), "prove_in_fresh_process", passed)
