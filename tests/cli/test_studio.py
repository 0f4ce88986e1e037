"""`tunewise studio`: served until Ctrl-C, and what is refused."""

import os
import signal
import socket
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest

from tests.cli.command import tunewise
from tunewise.run import build_recipe, run


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory, base: Path, reviews: Path) -> Path:
    """A run of a base."""
    folder = tmp_path_factory.mktemp("studio") / "lora"
    asked = {"model": str(base), "data": str(reviews), "method": "lora", "retention": None}
    run(build_recipe(asked, {"train.steps": 2}), folder, prove=False)
    return folder


def test_the_verb_serves_until_ctrl_c(adapted: Path) -> None:
    pytest.importorskip("gradio", reason="the page needs gradio: pip install 'tunewise[ui]'")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = tunewise("studio", adapted, "--port", str(port))
        assert refused.code == 2
        assert f"cannot listen at 127.0.0.1:{port}" in refused.err
    pages: list[str] = []

    def visit() -> None:
        for _ in range(400):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
                    pages.append(answer.read().decode())
                break
            except OSError:
                time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    visitor = threading.Thread(target=visit)
    visitor.start()
    found = tunewise("studio", adapted, "--port", str(port))
    visitor.join()
    assert found.code == 0
    assert f"http://127.0.0.1:{port}" in found.out
    assert "Traceback" not in found.err
    assert "model and what was made of it" in pages[0]
    assert "fonts.googleapis" not in pages[0]


def test_without_gradio_it_says_what_to_install(adapted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("page", "serving", "theme"):
        monkeypatch.delitem(sys.modules, f"tunewise.studio.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "gradio", None)
    found = tunewise("studio", adapted)
    assert found.code == 2
    assert "pip install 'tunewise[ui]'" in found.err
    assert tunewise("studio").code == 2
