"""`tunewise data generate` as it is typed: a server on loopback, a small base, bad input."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.command import Outcome, tunewise
from tests.teacher.server import Server, writes
from tunewise.data.config import DataConfig
from tunewise.data.load import load_task
from tunewise.files import read_jsonl

SEEDS = Path(__file__).resolve().parents[2] / "recipes" / "seed_tasks.jsonl"


def generated(*words: str | Path, seeds: Path = SEEDS) -> Outcome:
    return tunewise("data", "generate", "--seeds", seeds, *words)


def test_a_set_that_can_be_trained_on(tmp_path: Path) -> None:
    with Server(writes) as server:
        found = generated(
            "--teacher", server.url, "-n", "30", "--out", tmp_path, "--price-in", "2", "--price-out", "10"
        )
    assert found.code == 0, found.err
    summary = json.loads((tmp_path / "summary.json").read_text("utf-8"))
    cost = (2 * summary["prompt_tokens"] + 10 * summary["completion_tokens"]) / 1e6
    assert summary["cost"] == pytest.approx(cost, abs=1e-6)
    assert f"cost {cost:.4f}" in found.out
    assert f"writer: {server.n_arrived} answers, 0 requests sent again" in found.out
    for what, row in summary["proposals"].items():
        assert all(word in found.out for word in (what, *row["rejected"]))
    assert f"wrote {tmp_path}/rows.jsonl: 30 of 30 rows" in found.out
    task = load_task(DataConfig(path=str(tmp_path / "rows.jsonl")))
    assert task.kind == "generation"
    row = read_jsonl(tmp_path / "rows.jsonl")[0]
    examples = [example for split in (task.train, task.dev, task.test) for example in split]
    assert len(examples) == 30
    assert f"Human: {row['instruction']}\n{row['input']}\nAssistant:" in {example.prompt for example in examples}


def test_json_and_a_cap(tmp_path: Path) -> None:
    with Server(writes) as server:
        found = generated("--teacher", server.url, "--max-requests", "3", "--out", tmp_path, "--json")
        assert server.n_arrived == 3
    assert found.code == 0, found.err
    assert json.loads(found.out)["stopped"] == "3 requests were sent, and no more than 3 were to be"


def test_an_endpoint_that_fails_is_told(tmp_path: Path) -> None:
    with Server(writes, lambda digest, arrival: '!401 {"message": "no key"}') as server:
        found = generated("--teacher", server.url, "--out", tmp_path)
    assert found.code == 2
    assert f"error: {server.url} did not answer: it answered 401: no key" in found.err
    assert "\nhint: put a key that is valid there into the environment variable that --key names" in found.err


def test_a_base_here(tmp_path: Path, base: Path) -> None:
    found = generated("--teacher", base, "--max-requests", "4", "--one-step", "--out", tmp_path)
    assert found.code == 0, found.err
    assert "4 answers" in found.out
    assert len(read_jsonl(tmp_path / "journal.jsonl")) == 4


def test_keywords_are_chosen(tmp_path: Path) -> None:
    with Server(writes) as server:
        generated("--teacher", server.url, "-n", "20", "--keywords", "", "--out", tmp_path)
    assert any("picture" in row["instruction"] for row in read_jsonl(tmp_path / "rows.jsonl"))


def test_a_second_signal_waits_for_nobody(tmp_path: Path) -> None:
    with Server(writes, lambda digest, arrival: "hang") as server:
        words = ["data", "generate", "--teacher", server.url, "--seeds", str(SEEDS), "--out", str(tmp_path), "-n", "20"]
        process = subprocess.Popen([sys.executable, "-m", "tunewise", *words], stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        while server.n_arrived < 3:
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        assert "waiting for the answers under way" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130, "threads that wait for an answer, half a minute, do not hold it"
        assert "To go on:" in process.stderr.read()
        assert not (tmp_path / "RUNNING").exists()


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (["--teacher", "tiny"], "give either seed tasks or prompts", "--seeds"),
        (["--teacher", "tiny", "--seeds", SEEDS, "--outputs-only", SEEDS], "give either seed tasks or prompts", ""),
        (["--teacher", "tiny", "--seeds", "seed.jsonl"], "no such file: seed.jsonl", ""),
        (["--teacher", "tiny", "--seeds", SEEDS, "--api", "chats"], "no kind of endpoint named 'chats'", "chat"),
        (["--teacher", "http://x/v1", "--seeds", SEEDS, "--key", "NO_KEY"], "no environment variable NO_KEY", "export"),
        (["--teacher", "./none", "--seeds", SEEDS], "no model folder none", ""),
    ],
)
def test_bad_input(tmp_path: Path, words: list[str], message: str, hint: str) -> None:
    found = tunewise("data", "generate", "--out", tmp_path / "out", *words)
    assert found.code == 2
    assert message in found.err
    assert hint in found.err[found.err.index("hint: ") :]
    assert not (tmp_path / "out").exists()
