"""A user of the hub: commands and Python snippets, one after another in a fresh process with an HF_HOME of its own.

`constants` of huggingface_hub are read when it is imported, so the process is what tells one user from another.
"""

import contextlib
import io
import json
import logging
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from typer.testing import CliRunner

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Outcome:
    """What one command left."""

    code: int
    output: str
    """Of both streams, and the traceback where there was one."""
    started: float
    """Seconds since the epoch."""
    seconds: float


def as_user(home: Path, endpoint: str, commands: Sequence[Sequence[str | Path]], **environment: str) -> list[Outcome]:
    """Carry out commands: the words behind `tunewise`, or "python" and a snippet, or "token" and a token, or "offline".

    Snippets share their names. Behind "offline" it is as if HF_HUB_OFFLINE had been set. Reloads of adapters in yet
    another process are left out.
    """
    told = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    told |= {"HF_HOME": str(home), "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    told |= {"HF_UPDATE_DOWNLOAD_COUNTS": "0", "PYTHONPATH": str(ROOT), **environment}
    words = json.dumps([[str(word) for word in command] for command in commands])
    done = subprocess.run(
        [sys.executable, "-m", "tests.hub_user"], input=words, capture_output=True, text=True, env=told, cwd=ROOT,
        timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [Outcome(**each) for each in json.loads(done.stdout.splitlines()[-1])]


def _command(words: Sequence[str]) -> tuple[int, str]:
    from tunewise.cli import app

    result = CliRunner().invoke(app, list(words), prog_name="tunewise")
    failed = result.exception is not None and not isinstance(result.exception, SystemExit)
    return result.exit_code, result.output + ("".join(traceback.format_exception(result.exception)) if failed else "")


def _snippet(code: str, names: dict[str, object]) -> tuple[int, str]:
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        try:
            exec(code, names)
        except Exception:
            return 1, said.getvalue() + traceback.format_exc()
    return 0, said.getvalue()


def _change(kind: str, words: Sequence[str]) -> None:
    """What the environment says from here on."""
    if kind == "token":
        os.environ["HF_TOKEN"] = words[0]
        return
    import_module("huggingface_hub.constants").HF_HUB_OFFLINE = import_module("datasets.config").HF_HUB_OFFLINE = True
    import_module("tunewise.hub").answers.cache_clear()


def main() -> None:
    """Read the commands from standard input, and print what each of them left as the last line."""
    logging.raiseExceptions = False  # datasets logs to the standard error of the first command, which is closed
    import_module("tunewise.run.reloads").prove_in_fresh_process = lambda folders, *_: [
        {"passed": True, "value": 0.0, "tolerance": 0.0} for _ in folders
    ]
    found, names = [], {}
    for kind, *words in json.load(sys.stdin):
        if kind in ("token", "offline"):
            _change(kind, words)
            continue
        started = time.time()
        code, output = _snippet(words[0], names) if kind == "python" else _command([kind, *words])
        found.append({"code": code, "output": output, "started": started, "seconds": time.time() - started})
    sys.stdout.write("\n" + json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
