"""`pytest tests/methods/test_contract.py --write-matrix` keeps what the contract's cases came to, for the command line.

The result stands in tunewise/methods/matrix.json: method -> kind of model -> how many of its cases passed and failed.
"""

from collections import Counter
from importlib.metadata import version
from pathlib import Path

import pytest

from tunewise.files import read_json, write_json
from tunewise.methods import METHODS
from tunewise.methods.matrix import FILE

OUTCOMES: Counter[tuple[str, str, str]] = Counter()  # (method, kind, passed | failed)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-matrix", action="store_true", help="write tunewise/methods/matrix.json")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    report = yield
    case = item.callspec.params.get("case") if isinstance(item, pytest.Function) and hasattr(item, "callspec") else None
    if case is not None and report.when == "call" and item.path == Path(__file__).with_name("test_contract.py"):
        OUTCOMES[case[1], item.module.KINDS[case[0]], report.outcome] += 1
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    if not session.config.getoption("--write-matrix"):
        return
    before = read_json(FILE) if FILE.exists() else {}
    found = before.get("methods", {}) if isinstance(before, dict) else {}
    for name in dict.fromkeys(method for method, _, _ in OUTCOMES):  # with -k, only those that ran
        found[name] = {
            kind: {outcome: OUTCOMES[name, kind, outcome] for outcome in ("passed", "failed")}
            for kind in dict.fromkeys(kind for method, kind, _ in OUTCOMES if method == name)
        }
    found = {name: found[name] for name in METHODS if name in found}
    versions = {name: version(name) for name in ("torch", "transformers")}
    write_json(FILE, {"versions": versions, "methods": found})
