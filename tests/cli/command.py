"""The command line, run in this process."""

from dataclasses import dataclass
from pathlib import Path

from typer.testing import CliRunner

from tunewise.cli import app


@dataclass(frozen=True)
class Outcome:
    """What a command left: its exit code and its two streams."""

    code: int
    out: str
    err: str


def tunewise(*words: str | Path) -> Outcome:
    """Run `tunewise` with these words; an exception that is no exit is raised here."""
    result = CliRunner().invoke(app, [str(word) for word in words], prog_name="tunewise")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Outcome(result.exit_code, result.stdout, result.stderr)
