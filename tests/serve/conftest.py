"""The runs that are served, made once."""

from pathlib import Path

import pytest

from tests.serve.place import write_runs


@pytest.fixture(scope="package")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_runs(tmp_path_factory.mktemp("serve"))
