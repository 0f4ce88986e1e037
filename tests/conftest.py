"""The environment every test runs in, set before torch is imported: one thread, no spinning, no network, the CPU."""

import gc
import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OMP_WAIT_POLICY"] = "passive"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("TUNEWISE_DEVICE", "cpu")  # which most tests are about
# a shell starts background jobs with Ctrl-C ignored, and Python keeps that; the tests of Ctrl-C need it heard
signal.signal(signal.SIGINT, signal.default_int_handler)


BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
# a browser in a container is often root, and is asked here to leave the network alone
ARGUMENTS = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The pages first: each takes as long as hundreds of others, and none should be alone at the end."""
    items.sort(key=lambda item: item.path.name != "test_docs.py")


def pytest_collection_finish() -> None:
    _leave_out_what_stays()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    yield
    if nextitem is not None and nextitem.path != item.path:
        _leave_out_what_stays()  # what the tests of a file import for themselves


def _leave_out_what_stays() -> None:
    """What was imported and collected by now stays. To look through it for garbage again and again took a third of the
    tests' time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def embedded_in_short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded tasks with the first rows of dev and test alone, for tests of something else than their scores."""
    from tunewise.data.found import EMBEDDED

    folder = shutil.copytree(EMBEDDED, tmp_path_factory.mktemp("short") / "embedded")
    for name, n_rows in (("dev", 16), ("test", 32)):
        for path in folder.glob(f"*/{name}.jsonl"):
            path.write_text("".join(path.read_text("utf-8").splitlines(keepends=True)[:n_rows]), "utf-8")
    return folder


@pytest.fixture
def few_embedded_rows(embedded_in_short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`tiny:sentiment` and its like are answered in a moment, in this process."""
    monkeypatch.setattr(import_module("tunewise.data.found"), "EMBEDDED", embedded_in_short)


@pytest.fixture
def without_a_fresh_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the reload of adapters in a fresh process, which takes seconds a run; for tests of something else."""
    leave_out_fresh_processes(monkeypatch)


@pytest.fixture
def reloads_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adapters are reloaded and checked as ever, on a base that is loaded anew, but without another import of torch.

    That a fresh process does the same is held by the first run of test_run.py, test_quantised_run.py and
    test_run_on_other_kinds.py.
    """
    reload = import_module("tunewise.training.reload")

    here = SimpleNamespace(
        ask_each=lambda each, device: [reload.check(list(words)) for words in each],
        stand_by=lambda: None,
        come_from=lambda server: None,
        import_meanwhile=lambda: None,
    )
    monkeypatch.setattr(reload, "FRESH", here)


def leave_out_fresh_processes(patch: pytest.MonkeyPatch) -> None:
    """The same, for fixtures of a whole module."""

    def passed(folders: Sequence[object], *_: object) -> list[dict[str, object]]:
        return [{"passed": True, "value": 0.0, "tolerance": 0.0} for _ in folders]

    # by module, not by dotted path: the package's root has functions under the names of these rooms
    patch.setattr(import_module("tunewise.run.reloads"), "prove_in_fresh_process", passed)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, told to leave the network alone; skipped where there is none."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"no browser on this machine: none of {', '.join(BROWSERS)} (Debian: apt-get install chromium)")
    arguments = [*ARGUMENTS, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=arguments)
        yield found
        found.close()
