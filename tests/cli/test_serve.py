"""`tunewise serve` as it is typed: what it prints, that it answers until Ctrl-C, and what it refuses."""

import os
import signal
import socket
import threading
from pathlib import Path

import openai
import pytest

from tests.cli.command import tunewise


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


def test_a_base_is_served_until_ctrl_c(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEWISE_API_KEY", "secret")
    port, told, has_ended = free_port(), [], threading.Event()

    def ask() -> None:
        try:
            with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="secret", max_retries=8) as client:
                told.append(client.completions.create(model="base", prompt="the soup", max_tokens=3).usage)
                stream = client.completions.create(model="base", prompt="the", max_tokens=100, stream=True)
                next(iter(stream))
        finally:
            if not has_ended.wait(0.1):
                os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=ask)
    thread.start()
    found = tunewise("serve", "--model", base, "--port", port)
    has_ended.set()
    thread.join()
    assert found.code == 0, found.err
    assert found.out == f"serving base at http://127.0.0.1:{port}/v1 (Ctrl-C ends it)\n"
    assert told
    assert told[0].completion_tokens <= 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "nobody to talk to"),
        (("nowhere",), "nowhere"),
        (("--model", "tiny", "train.steps=3"), "changes nothing"),
        (("--model", "tiny", "--host", "no.such.host.invalid"), "cannot listen at no.such.host.invalid:8000"),
    ],
)
def test_what_cannot_be_served_is_told(words: tuple[str, ...], message: str) -> None:
    found = tunewise("serve", *words)
    assert found.code == 2
    assert message in found.err
