"""`pytest tests/methods --write-matrix` keeps what the contract's cases came to, for the command line.

The result stands in tunewise/methods/matrix.json: method -> kind of model, or quantised -> how many of its cases passed
and failed, or why it was refused.
"""

from collections import Counter
from importlib.metadata import version

import pytest

from tunewise.files import read_json, write_json
from tunewise.methods import METHODS
from tunewise.methods.matrix import COLUMNS, FILE

CONTRACTS = ("test_contract.py", "test_quantised.py")  # each says in KINDS which column its cases belong to
OUTCOMES: Counter[tuple[str, str, str]] = Counter()  # (method, kind, passed | failed)
REFUSED: dict[tuple[str, str], str] = {}  # (method, kind) -> why a quantised base is refused


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-matrix", action="store_true", help="write tunewise/methods/matrix.json")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    report = yield
    case = item.callspec.params.get("case") if isinstance(item, pytest.Function) and hasattr(item, "callspec") else None
    if case is not None and report.when == "call" and item.path.name in CONTRACTS and case[0] in item.module.KINDS:
        kind = item.module.KINDS[case[0]]
        OUTCOMES[case[1], kind, report.outcome] += 1
        for told, why in item.user_properties:
            if told == "refused":
                REFUSED[case[1], kind] = str(why)
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    if not session.config.getoption("--write-matrix"):
        return
    before = read_json(FILE) if FILE.exists() else {}
    found = before.get("methods", {}) if isinstance(before, dict) else {}
    for name, kind in dict.fromkeys((method, kind) for method, kind, _ in OUTCOMES):  # with -k, only those that ran
        counts = {outcome: OUTCOMES[name, kind, outcome] for outcome in ("passed", "failed")}
        refused = (name, kind) in REFUSED and not counts["failed"]
        found.setdefault(name, {})[kind] = {"refused": REFUSED[name, kind]} if refused else counts
    kinds = COLUMNS
    found = {
        name: {kind: found[name][kind] for kind in kinds if kind in found[name]} for name in METHODS if name in found
    }
    versions = {name: version(name) for name in ("torch", "transformers", "bitsandbytes")}
    write_json(FILE, {"versions": versions, "methods": found})
