"""Whole runs against a real server that misbehaves: nothing lost, nothing twice, killed or not."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.teacher.server import Server, faults_at_first, writes
from tunewise.errors import UserError
from tunewise.files import read_jsonl
from tunewise.teacher import Address, Endpoint, Extent, Wanted, generate
from tunewise.teacher.novelty import Kept
from tunewise.teacher.teacher import Unanswered
from tunewise.training.interrupt import Interrupted

SEEDS = [
    ("greet", "Write a greeting for a friend.", "a birthday", "Happy birthday!", False),
    ("colour", "Which colour is named?", "the red house", "red", True),
    ("sum", "Add the two numbers.", "2 and 3", "5", False),
    ("mood", "Is the sentence glad or sad?", "I lost my hat.", "sad", True),
    ("town", "Name a town by the sea.", "", "Bergen", False),
    ("past", "Put the verb into the past tense.", "go", "went", False),
    ("short", "Shorten the sentence as far as you can.", "The boat was very late again.", "The boat was late.", False),
    ("rhyme", "Find a word that rhymes.", "boat", "coat", False),
    ("animal", "Does the text speak of an animal?", "The cat sleeps.", "yes", True),
    ("why", "Explain why it happens.", "ice floats", "It is lighter than water.", False),
    ("list", "List three things that belong to it.", "kitchen", "oven, sink, table", False),
    ("polite", "Ask for the same thing politely.", "salt!", "Could you pass the salt, please?", False),
]
QUICK = {"timeout_seconds": 2.0, "backoff_seconds": 0.005, "retries": 8, "model": "writer"}


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("seeds") / "seed_tasks.jsonl"
    rows = [
        {"id": name, "instruction": text, "instances": [{"input": given, "output": output}], "is_classification": label}
        for name, text, given, output, label in SEEDS
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def carried_out(server: Server, seeds: Path, out: Path, n: int = 40, **fields: Any) -> dict[str, Any]:
    """A run; `concurrency` goes to the endpoint, caps to the extent, the rest to what is wanted."""
    endpoint = Endpoint(Address(server.url, concurrency=fields.pop("concurrency", 6), **QUICK))
    caps = {name: fields.pop(name) for name in ("max_requests", "max_tokens") if name in fields}
    return generate(endpoint, seeds, out, Wanted(**fields), Extent(n, **caps))


@pytest.fixture(scope="module")
def undisturbed(seeds: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """The rows that come of it where nothing goes wrong."""
    out = tmp_path_factory.mktemp("undisturbed")
    with Server(writes) as server:
        summary = carried_out(server, seeds, out, concurrency=1)
    assert summary["requests"] == summary["answered"] == server.n_arrived
    rows = read_jsonl(out / "rows.jsonl")
    assert len(rows) == 40
    return rows


def test_the_rows_of_a_run(undisturbed: list[Any], seeds: Path) -> None:
    kept = Kept(0.7)
    for _, text, *_ in SEEDS:
        kept.add(text)
    instructions = list(dict.fromkeys(row["instruction"] for row in undisturbed))
    assert len(instructions) >= 25
    for text in instructions:
        assert kept.nearest(text) is None
        assert "picture" not in text
        kept.add(text)
    assert {row["origin"]["is_classification"] for row in undisturbed} == {True, False}
    for row in undisturbed:
        assert row.keys() == {"instruction", "input", "output", "origin"}
        assert row["output"]
        assert row["origin"]["teacher"] == "writer"
        assert len(row["origin"]["shown"]) == 8
    shown = Counter(name for row in undisturbed for name in row["origin"]["shown"])
    assert set(shown) >= {name for name, *_ in SEEDS}
    assert max(Counter((row["instruction"], row["input"]) for row in undisturbed).values()) == 1


def test_a_server_that_misbehaves_changes_nothing(undisturbed: list[Any], seeds: Path, tmp_path: Path) -> None:
    with Server(writes, faults_at_first) as server:
        summary = carried_out(server, seeds, tmp_path)
    assert read_jsonl(tmp_path / "rows.jsonl") == undisturbed
    assert set(server.answered.values()) == {1}, "no request is answered twice"
    assert server.answered.total() == summary["answered"] == len(read_jsonl(tmp_path / "journal.jsonl"))
    assert server.n_arrived == summary["requests"]
    assert len(server.faults) == 10, f"every fault was met: {server.faults}"
    assert summary["sent_again"] == server.faults.total()
    table = summary["proposals"]["instructions"]
    assert table["proposed"] == table["kept"] + sum(table["rejected"].values())
    assert len(read_jsonl(tmp_path / "rejected.jsonl")) == sum(
        sum(row["rejected"].values()) for row in summary["proposals"].values()
    )
    assert {"instruction like another", "instruction under 3 words"} <= table["rejected"].keys()


def test_a_run_goes_on_from_any_cap_with_other_threads(undisturbed: list[Any], seeds: Path, tmp_path: Path) -> None:
    drawn = random.Random(4)
    with Server(writes, faults_at_first) as server:
        sizes, cap = [], 0
        while len(sizes) < 40 and (not sizes or sizes[-1] < 40):
            cap += drawn.randint(5, 40)
            found = carried_out(server, seeds, tmp_path, max_requests=cap, concurrency=drawn.randint(1, 8))
            assert server.n_arrived == found["requests"] <= cap, "the cap holds over all processes"
            sizes.append(found["rows"])
            assert read_jsonl(tmp_path / "rows.jsonl") == undisturbed[: sizes[-1]]
            if found["rows"] < 40:
                assert found["requests"] == cap
                assert "requests were sent, and no more than" in found["stopped"]
        assert len(set(sizes)) >= 4, sizes
        assert sizes == sorted(sizes)
        carried_out(server, seeds, tmp_path)  # where a cap fell behind the last row, in the midst of what was asked
        assert set(server.answered.values()) == {1}
        before = server.n_arrived
        carried_out(server, seeds, tmp_path)
        assert server.n_arrived == before, "a finished run asks nothing"
    assert read_jsonl(tmp_path / "rows.jsonl") == undisturbed


def test_a_cap_behind_the_last_row_is_told_and_then_nothing_more_is_asked(seeds: Path, tmp_path: Path) -> None:
    with Server(writes) as server:
        whole = carried_out(server, seeds, tmp_path / "whole", n=7, concurrency=1)
        assert whole["stopped"] == ""
        cap = whole["requests"] - 1
        found = carried_out(server, seeds, tmp_path / "capped", n=7, concurrency=1, max_requests=cap)
        assert found["rows"] == 7, "the last answer was not needed"
        assert found["stopped"] == f"{cap} requests were sent, and no more than {cap} were to be"
        before = server.n_arrived
        again = carried_out(server, seeds, tmp_path / "capped", n=7, concurrency=1)
        assert (server.n_arrived, again["rows"], again["stopped"]) == (before, 7, "")
    assert read_jsonl(tmp_path / "capped" / "rows.jsonl") == read_jsonl(tmp_path / "whole" / "rows.jsonl")


def test_more_rows_are_asked_for_later(undisturbed: list[Any], seeds: Path, tmp_path: Path) -> None:
    with Server(writes) as server:
        for n in (7, 23, 40):
            carried_out(server, seeds, tmp_path, n=n)
            assert read_jsonl(tmp_path / "rows.jsonl") == undisturbed[:n]
    assert set(server.answered.values()) == {1}


def test_how_many_are_asked_at_a_time_changes_nothing(
    undisturbed: list[Any], seeds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunewise.teacher.self_instruct.A_TIME", 3)
    with Server(writes) as server:
        carried_out(server, seeds, tmp_path)
    assert read_jsonl(tmp_path / "rows.jsonl") == undisturbed


def test_a_cap_on_tokens_ends_a_run(seeds: Path, tmp_path: Path) -> None:
    with Server(writes) as server:
        found = carried_out(server, seeds, tmp_path, max_tokens=6000)
    assert found["prompt_tokens"] + found["completion_tokens"] <= 6000
    assert 0 < found["rows"] < 40 or found["answered"] > 3
    assert "could pass 6,000" in found["stopped"]


def command(server: Server, seeds: Path, out: Path, *words: str) -> list[str]:
    return [
        sys.executable, "-m", "tunewise", "data", "generate", "--teacher", server.url, "--seeds", str(seeds),
        "--out", str(out), "-n", "40", "--concurrency", "6", "--timeout", "20", "--backoff", "0.005", *words,
    ]  # fmt: skip


def test_a_killed_run_goes_on(undisturbed: list[Any], seeds: Path, tmp_path: Path) -> None:
    """It is killed when one request hangs and all others under way are in the journal: none of them is asked again."""
    key = "sk-never-to-be-seen"
    with Server(writes) as server:
        hung: list[str] = []
        first = iter([True])  # whose next() belongs to one thread

        def hangs(digest: str, arrival: int) -> str:
            if server.n_arrived >= 20 and next(first, False):
                hung.append(digest)
            return "hang" if digest in hung else ""

        server.fault = hangs
        journal = tmp_path / "journal.jsonl"
        environment = {**os.environ, "TUNEWISE_TEACHER_KEY": key}
        process = subprocess.Popen(command(server, seeds, tmp_path), env=environment)
        deadline, n_lines, quiet_since = time.monotonic() + 240, 0, time.monotonic()
        while not (hung and n_lines == server.n_arrived - 1 and time.monotonic() - quiet_since > 1):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
            if journal.is_file() and (n := journal.read_bytes().count(b"\n")) != n_lines:
                n_lines, quiet_since = n, time.monotonic()
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert n_lines >= 19
        with journal.open("ab") as stream:
            stream.write(b'{"key": "0/3/instructions", "asked": "half of a li')
        hung.clear()
        server.fault = lambda digest, arrival: ""
        done = subprocess.run(
            command(server, seeds, tmp_path, "--json"), env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert read_jsonl(tmp_path / "rows.jsonl") == undisturbed
        assert set(server.answered.values()) == {1}, "nothing twice"
        assert json.loads(done.stdout)["answered"] == server.answered.total(), "nothing lost"
    assert {headers.get("Authorization") or headers.get("authorization") for headers in server.headers} == {
        f"Bearer {key}"
    }
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) >= 5
    assert not [path for path in written if key in path.read_text("utf-8")]
    assert key not in done.stdout + done.stderr


def test_a_signal_ends_a_run_after_what_is_under_way(undisturbed: list[Any], seeds: Path, tmp_path: Path) -> None:
    with Server(writes) as server:
        first = iter([True])

        def interrupts(digest: str, arrival: int) -> str:
            if server.n_arrived >= 20 and next(first, False):
                os.kill(os.getpid(), signal.SIGINT)
            return ""

        server.fault = interrupts
        with pytest.raises(Interrupted, match="SIGINT") as told:
            carried_out(server, seeds, tmp_path)
        n = len(read_jsonl(tmp_path / "journal.jsonl"))
        assert 20 <= n == server.answered.total() <= 30
        assert f"the {n} answers" in told.value.hint
        server.fault = lambda digest, arrival: ""
        carried_out(server, seeds, tmp_path)
    assert read_jsonl(tmp_path / "rows.jsonl") == undisturbed
    assert set(server.answered.values()) == {1}


def test_an_endpoint_that_dies_leaves_what_it_answered(undisturbed: list[Any], seeds: Path, tmp_path: Path) -> None:
    with Server(writes) as server:
        server.fault = lambda digest, arrival: "503" if server.answered.total() >= 30 else ""
        with pytest.raises(Unanswered, match="9 times over: it answered 503") as told:
            carried_out(server, seeds, tmp_path)
        assert "answers in" in told.value.hint
        rows = read_jsonl(tmp_path / "rows.jsonl")
        assert rows == undisturbed[: len(rows)]
        server.fault = lambda digest, arrival: ""
        summary = carried_out(server, seeds, tmp_path)
        assert summary["requests"] == server.n_arrived, "what was sent in vain counts as well"
    assert read_jsonl(tmp_path / "rows.jsonl") == undisturbed


def test_a_teacher_that_repeats_itself_ends_the_run(seeds: Path, tmp_path: Path) -> None:
    with Server(
        lambda asked: "Task 9: Write a poem about it.\nTask 10: Add the two numbers." if asked.endswith("9:") else "no"
    ) as server:
        found = carried_out(server, seeds, tmp_path)
    assert found["rows"] == 0
    assert found["stopped"] == "2 rounds in a row brought nothing new"
    rejected = found["proposals"]["instructions"]["rejected"]
    assert rejected["instruction like another"] == found["proposals"]["instructions"]["proposed"] - 1


def test_every_proposal_is_accounted_for_once(seeds: Path, tmp_path: Path) -> None:
    """Of each instruction that is new there is an example, kept or rejected; the sums are those of the files."""

    def answer(asked: str) -> str:
        drawn = random.Random(f"x {asked}")
        return drawn.choice(["Perhaps.", "", "I'm sorry, I can't."]) if drawn.random() < 0.3 else writes(asked)

    with Server(answer) as server:
        found = carried_out(server, seeds, tmp_path)
    rejected = read_jsonl(tmp_path / "rejected.jsonl")
    assert found["proposals"]["examples"]["kept"] == found["rows"] == 40
    for what, row in found["proposals"].items():
        reasons = Counter(entry["why"] for entry in rejected if entry["what"] == what)
        assert row["rejected"] == dict(reasons)
        assert row["proposed"] == row["kept"] + reasons.total()
    of_examples = found["proposals"]["examples"]["rejected"]
    assert {"neither yes nor no to classification", "empty answer", "no output in the answer"} <= of_examples.keys()
    places = {entry["request"].rsplit("/", 1)[0] for entry in rejected if entry["what"] == "examples"}
    places |= {row["origin"]["request"].rsplit("/", 1)[0] for row in read_jsonl(tmp_path / "rows.jsonl")}
    assert len(places) <= found["proposals"]["instructions"]["kept"]


@pytest.mark.parametrize(("api", "stops"), [("chat", False), ("completions", True)])
def test_a_model_that_writes_on_is_stopped(seeds: Path, tmp_path: Path, api: str, stops: bool) -> None:
    with Server(writes) as server:
        endpoint = Endpoint(Address(server.url, api=api, **QUICK))
        assert generate(endpoint, seeds, tmp_path, Wanted(), Extent(10))["rows"] == 10
    assert {"stop" in payload for payload in server.payloads} == {stops}


def test_empty_answers_are_answers(seeds: Path, tmp_path: Path) -> None:
    with Server(lambda asked: " ") as server:
        found = carried_out(server, seeds, tmp_path)
    assert found["answered"] == server.n_arrived == 32, "two rounds of sixteen requests, none of them asked again"
    assert found["proposals"]["instructions"]["rejected"] == {"empty answer": 32}


def test_one_step(seeds: Path, tmp_path: Path) -> None:
    def whole(asked: str) -> str:
        drawn = random.Random(asked)
        lines = writes(f"{asked[: asked.rindex('Task')]}Task 4:").split("\n")
        return "\n\n".join(f"{line}\nInput: none\nOutput: {drawn.randint(1, 99)}" for line in lines)

    with Server(whole, faults_at_first) as server:
        found = carried_out(server, seeds, tmp_path, kind="one step")
    rows = read_jsonl(tmp_path / "rows.jsonl")
    assert len(rows) == 40
    assert found["answered"] < 20, "a request a few rows"
    assert all(row["input"] == "" and row["output"].isdigit() for row in rows)
    assert {request["temperature"] for request in server.payloads} == {0.7}


def test_outputs_alone(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    asked = [{"instruction": f"Say {i}", "input": "loudly" if i % 2 else ""} for i in range(30)]
    asked += [{"instruction": "Say 0", "input": ""}, {"instruction": "", "input": "x"}]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in asked), "utf-8")

    def answer(asked: str) -> str:
        return "I'm sorry, I can't." if asked == "Say 4" else f"<think>hm</think>{asked.upper()}!"

    with Server(answer, faults_at_first) as server:
        first = carried_out(server, prompts, tmp_path / "out", n=10, kind="outputs")
        assert first["rows"] == 9
        found = carried_out(server, prompts, tmp_path / "out", n=100, kind="outputs")
    assert set(server.answered.values()) == {1}
    assert server.answered.total() == 30
    assert found["proposals"]["outputs"]["rejected"] == {
        "the teacher declines": 1, "the same prompt twice": 1, "empty prompt": 1,
    }  # fmt: skip
    rows = read_jsonl(tmp_path / "out" / "rows.jsonl")
    assert len(rows) == 29
    assert rows[3] == {
        "instruction": "Say 3", "input": "loudly", "output": "SAY 3\n\nLOUDLY!",
        "origin": {"teacher": "writer", "request": "line/4", "template": "1"},
    }  # fmt: skip


def test_a_folder_goes_on_with_the_same_run_alone(seeds: Path, tmp_path: Path) -> None:
    with Server(writes) as server:
        carried_out(server, seeds, tmp_path, n=5, concurrency=1)
        with pytest.raises(UserError, match="holds a run with seed 0, not 1"):
            carried_out(server, seeds, tmp_path, n=5, seed=1)
        other = tmp_path / "seeds.jsonl"
        other.write_text(seeds.read_text("utf-8").replace("Bergen", "Molde"), "utf-8")
        with pytest.raises(UserError, match="holds a run of another file"):
            carried_out(server, other, tmp_path, n=5)
        journal = tmp_path / "journal.jsonl"
        lines = journal.read_text("utf-8").splitlines(keepends=True)
        journal.write_text("".join([*lines, lines[0]]), "utf-8")
        with pytest.raises(UserError, match=f"line {len(lines) + 1} answers 0/0/instructions a second time"):
            carried_out(server, seeds, tmp_path, n=5)
        journal.write_text("".join([lines[0].replace('"asked": "', '"asked": "0'), *lines[1:]]), "utf-8")
        with pytest.raises(UserError, match="answers another question as 0/0/instructions than is asked now"):
            carried_out(server, seeds, tmp_path, n=5)
        journal.write_text("".join(["[]\n", *lines]), "utf-8")
        with pytest.raises(UserError, match="line 1 is no line of a journal"):
            carried_out(server, seeds, tmp_path, n=5)


def test_a_first_try_that_fails_binds_nobody(seeds: Path, tmp_path: Path) -> None:
    with Server(writes) as server:
        server.fault = lambda digest, arrival: '!404 {"message": "no such model"}'
        with pytest.raises(Unanswered, match="no such model"):
            carried_out(server, seeds, tmp_path, seed=3)
        assert not (tmp_path / "rows.jsonl").exists()
        server.fault = lambda digest, arrival: ""
        assert carried_out(server, seeds, tmp_path, n=5)["rows"] == 5
