"""Processes that know nothing of the work of this one, and do not cost an import of torch each.

One process waits that has imported code and read nothing. For each question it splits a new one off itself, which has
the answer and ends: whatever it reads is new to it. Where this process is ours and has read nothing yet either, the one
that waits is split off it (`stand_by`); else it is started with the first question, or split off the process that the
workers of this one are split off (`come_from`).
"""

import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import IO, Any, NoReturn

import torch

from tunewise.garbage import has_only_imported
from tunewise.processes import CAN_SPLIT, spare_cores

IDLE_SECONDS = 300.0
"""Until the process that waits is gone: it holds as much memory as the imports take."""
ROOT = Path(__file__).parents[2]
START = (
    "from tunewise.garbage import collect_rarely; collect_rarely(); from tunewise.training.fresh import serve; "
    "from {module} import {name}; serve({channel}, {name})"
)
Work = Callable[[list[str]], Any]
"""A function of a module, of words: what it returns can be written as json."""


def splits_off(device: str) -> bool:
    """Whether what works on this device is split off; else each question costs an import, and several go in turn."""
    return CAN_SPLIT and device == "cpu"


class Failed(Exception):
    """Why there is no answer: the error that the work raised, or how its process ended."""


@dataclass
class _Waiting:
    """The process that waits, as the one that asks has it."""

    pid: int
    channel: IO[bytes]
    ended: Callable[[], int]
    """Wait for its end: its exit code."""
    asked_by: int

    def answer_to(self, question: bytes) -> bytes:
        """A line of json; b"" from a process that is gone."""
        try:
            self.channel.write(question)
            self.channel.flush()
            return self.channel.readline()
        except OSError:
            return b""

    def end(self) -> int:
        """End it, with what it split off; its exit code."""
        with suppress(OSError):  # what is left of a question cannot be told to a process that is gone
            self.channel.close()
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        return self.ended()


class Fresh:
    """One kind of work, each time in a process of its own that nothing else was done in."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._waiting: _Waiting | None = None
        self._server: ForkServerContext | None = None
        self._exit_code = 0  # of the one that waited last
        self._lock = threading.Lock()

    def stand_by(self) -> None:
        """Split the process that waits off this one now, where this one is ours and has only imported: no question
        costs an import then. Elsewhere nothing."""
        is_alone = has_only_imported() and threading.active_count() == 1 and not torch.cuda.is_initialized()
        if self._waiting is not None or not (CAN_SPLIT and is_alone):
            return
        ours, its = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            ours.close()
            os.setsid()
            serve(its.detach(), self._work)
        its.close()
        self._waiting = _Waiting(pid, ours.makefile("rwb"), lambda: _end_of(pid), os.getpid())

    def import_meanwhile(self) -> None:
        """Start the process that waits now, where there is none, and this one leaves a core alone while it reads its
        base: no question waits for an import then, but of one that comes long after."""
        if not CAN_SPLIT or spare_cores() < 1 or torch.cuda.is_available():
            return
        with self._lock:
            if self._waiting is None or self._waiting.asked_by != os.getpid():
                self._waiting = self._started(splits=True)

    def come_from(self, server: ForkServerContext) -> None:
        """Split the process that waits off this server, which has imported and read nothing, when there is none."""
        self._server = server

    def ask(self, words: Sequence[str], device: str = "cpu") -> Any:
        """What the work returns for `words`, which may name files from this folder; Failed where it raises.

        For a GPU, which may be closed to a process that was split off, a process is started.
        """
        return self.ask_each([words], device)[0]

    def ask_each(self, each: Sequence[Sequence[str]], device: str = "cpu") -> list[Any]:
        """What the work returns for each of several: side by side in as many processes, which share the threads, where
        they can be split off."""
        splits = splits_off(device)
        told = {"each": list(map(list, each)), "folder": str(Path.cwd()), "environment": dict(os.environ)}
        question = json.dumps({**told, "threads": torch.get_num_threads(), "splits": splits}).encode() + b"\n"
        with self._lock:
            if not splits or (self._waiting is not None and self._waiting.asked_by != os.getpid()):
                self._waiting = None  # or of the process that this one was split off
            answer = self._answer(question, splits)
            if splits and not answer:  # it had waited too long
                answer = self._answer(question, splits)
            if not splits:
                self.end()
        found: dict[str, Any] = json.loads(answer) if answer else {"failed": f"exit code {self._exit_code}"}
        if "failed" in found:
            raise Failed(found["failed"])
        return found["found"]

    def end(self) -> None:
        """End the process that waits."""
        if self._waiting is not None:
            self._exit_code, self._waiting = self._waiting.end(), None

    def _started(self, splits: bool) -> _Waiting:
        return _started(self._work) if self._server is None or not splits else _split_off_by(self._server, self._work)

    def _answer(self, question: bytes, splits: bool) -> bytes:
        answer = b""
        try:
            self._waiting = self._waiting or self._started(splits)
            answer = self._waiting.answer_to(question)
        finally:
            if not answer:  # it is gone, or we are interrupted
                self.end()
        return answer


def _started(work: Work) -> _Waiting:
    """A new Python process that waits."""
    ours, its = socket.socketpair()
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    line = START.format(module=work.__module__, name=work.__name__, channel=its.fileno())
    process = subprocess.Popen(
        [sys.executable, "-c", line], env=environment, pass_fds=[its.fileno()], start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    its.close()
    return _Waiting(process.pid, ours.makefile("rwb"), process.wait, os.getpid())


def _split_off_by(server: ForkServerContext, work: Work) -> _Waiting:
    """A process that waits, with no import."""
    ours, its = socket.socketpair()
    process = server.Process(target=_serve_anew, args=(its, work), daemon=True)
    process.start()
    its.close()

    def ended() -> int:
        process.join()
        return process.exitcode or 0

    return _Waiting(process.pid or 0, ours.makefile("rwb"), ended, os.getpid())


def _serve_anew(channel: socket.socket, work: Work) -> NoReturn:
    os.setsid()
    serve(channel.detach(), work)


def serve(channel: int, work: Work) -> NoReturn:
    """Answer questions until who asks them is gone, or asks no more."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # who asks ends us where that is to stop
        nothing = os.open(os.devnull, os.O_RDWR)
        for standard in range(3):
            os.dup2(nothing, standard)  # whoever reads them sees their end with the end of the one that asks
        gc.freeze()
        with socket.socket(fileno=channel) as both, both.makefile("rwb") as lines:
            while select.select([both], [], [], IDLE_SECONDS)[0] and (line := lines.readline()):
                question = json.loads(line)
                answer = _split_off(question, work) if question["splits"] else _found(question, work)
                lines.write(answer + b"\n")
                lines.flush()
    finally:
        os._exit(0)


def _split_off(question: dict[str, Any], work: Work) -> bytes:
    """The answer of new processes, one for each of several."""
    each = question.pop("each")
    question["threads"] = max(1, question["threads"] // len(each))
    begun = [_put({**question, "each": [words]}, work) for words in each]
    return _joined([_answer_of(*one) for one in begun])


def _put(question: dict[str, Any], work: Work) -> tuple[Connection, int]:
    """The question to a new process: where it tells its answer, and its pid."""
    told, tells = Pipe(duplex=False)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            tells.send_bytes(_found(question, work))
            code = 0
        finally:
            os._exit(code)
    tells.close()
    return told, pid


def _answer_of(told: Connection, pid: int) -> bytes:
    try:
        answer = told.recv_bytes()
    except EOFError:
        answer = b""
    told.close()
    code = _end_of(pid)
    return answer or json.dumps({"failed": f"exit code {code}"}).encode()


def _joined(answers: Sequence[bytes]) -> bytes:
    """All that was found, or the first failure."""
    told = list(map(json.loads, answers))
    failed = next((one for one in told if "failed" in one), None)
    return json.dumps(failed or {"found": [found for one in told for found in one["found"]]}).encode()


def _found(question: dict[str, Any], work: Work) -> bytes:
    try:
        os.chdir(question["folder"])
        os.environ.clear()
        os.environ.update(question["environment"])
        torch.set_num_threads(question["threads"])
        return json.dumps({"found": [work(words) for words in question["each"]]}).encode()
    except BaseException as error:
        return json.dumps({"failed": f"{type(error).__name__}: {error}".splitlines()[0]}).encode()


def _end_of(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
