"""A side of a benchmark in a process of its own, which is asked round after round.

What a side changes for the rest of its process must not reach the other: our engine asks the C library to keep freed
pages, which makes the peer faster as well (1.4 times on a model of 32,000 words) and cannot be taken back.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

SERVE = "--serve"


class Side:
    """The process `python -m module --serve`, while the block lasts."""

    def __init__(self, module: str) -> None:
        command = [sys.executable, "-m", module, SERVE]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Self:
        self._line()  # it has imported, which would take from the other side's time
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.communicate()

    def ask(self, question: Any) -> Any:
        """What the process answers; both are json."""
        asked = self._process.stdin
        assert asked is not None
        asked.write(json.dumps(question) + "\n")
        asked.flush()
        return json.loads(self._line())

    def _line(self) -> str:
        told = self._process.stdout
        assert told is not None
        line = told.readline()
        assert line, f"{self._process.args}: ended with {self._process.wait()}"
        return line


def serve(answer: Callable[[Any], Any]) -> None:
    """Say that all is imported, and answer questions until there are no more; what else is printed goes to stderr."""
    told = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    print("ready", file=told, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=told, flush=True)
