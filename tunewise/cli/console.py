"""What every verb shares: errors without tracebacks, one place for results (stdout) and one for progress (stderr)."""

import errno
import functools
import json
import logging
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from tunewise.errors import UserError
from tunewise.training.interrupt import Interrupted

BAD_INPUT, DIVERGED, UNPROVED, INTERRUPTED = 2, 3, 4, 130
OF_A_PATH = (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP, errno.EIO, errno.ESTALE)
"""What a path that somebody typed may run into wherever it is first looked at; other errors of files are our own."""
MOST_OF_A_PATH = 100
"""Characters of a path that an error shows."""

AsJson = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON on standard output, and nothing else there.")
]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="The folder to write.", show_default=False)]
Model = Annotated[str | None, typer.Option("--model", "-m", help="tiny, a folder, or a hub name.", show_default=False)]
Data = Annotated[
    str | None,
    typer.Option(
        "--data", "-d", help="An embedded task (tiny:sentiment), a task folder, hf:OWNER/NAME, or a file of rows."
    ),
]

OneMethod = Annotated[
    str | None, typer.Option("--method", help="One of `tunewise methods`, as in lora:rank=4.", show_default="lora")
]


def results(*, markup: bool = False) -> Console:
    """Where a verb prints what was asked for, brackets and names of emoji (:cat:) as they are: a text may hold some.
    With `markup` brackets are styles, and texts of the user have to be escaped. Made anew: a test may have replaced
    sys.stdout."""
    return Console(file=sys.stdout, highlight=False, markup=markup, emoji=False)


def progress_lines() -> Console:
    """Where a verb says how it is getting on."""
    return Console(file=sys.stderr, highlight=False, markup=False, emoji=False)


def print_json(value: object) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, default=str) + "\n")


def verb(function: Callable[..., Any]) -> Callable[..., None]:
    """Wrap a verb: a UserError, and what the system has against a path, is told without a traceback (exit code 2),
    Ctrl-C with the command to go on (130)."""

    @functools.wraps(function)
    def wrapped(*arguments: Any, **options: Any) -> None:
        tell_on_standard_error()
        try:
            function(*arguments, **options)
        except Interrupted as error:
            complain(error)
            sys.stderr.write(f"to go on from there:\n  {this_command()}\n")
            raise typer.Exit(INTERRUPTED) from None
        except UserError as error:
            complain(error)
            raise typer.Exit(BAD_INPUT) from None
        except OSError as error:
            if error.filename is None or error.errno not in OF_A_PATH:
                raise
            place = str(error.filename)
            told = f"the system refuses {place[:MOST_OF_A_PATH]}{'...' * (len(place) > MOST_OF_A_PATH)}"
            complain(UserError(f"{told}: {error.strerror}", "name another path, or look at this one: ls -ld PATH"))
            raise typer.Exit(BAD_INPUT) from None
        except KeyboardInterrupt:
            sys.stderr.write(f"\ninterrupted; what is finished is kept. To go on:\n  {this_command()}\n")
            raise typer.Exit(INTERRUPTED) from None

    # a help keeps the ends of lines of all paragraphs but the first
    wrapped.__doc__ = "\n\n".join(" ".join(part.split()) for part in (function.__doc__ or "").split("\n\n"))
    return wrapped


class _Once(logging.Handler):
    """Writes each message once, however many runs of a comparison have it, and to where standard error is right now:
    a live bar puts itself in its place."""

    def __init__(self) -> None:
        super().__init__()
        self._told: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message not in self._told:
            self._told.add(message)
            sys.stderr.write(f"{message}\n")


def tell_on_standard_error() -> None:
    """What the package tells by `logging` (the shape of the data, rows cut short) goes where progress goes."""
    logger = logging.getLogger("tunewise")
    handlers: list[logging.Handler] = [_Once()]
    logger.handlers, logger.propagate = handlers, False
    logger.setLevel(logging.INFO)


def complain(error: UserError) -> None:
    """What was wrong and what to type next, on standard error; never wrapped or coloured inside a word to copy."""
    label, reset = ("\033[31;1m", "\033[0m") if sys.stderr.isatty() else ("", "")
    sys.stderr.write(f"{label}error:{reset} {error.message}\n")
    if error.hint:
        sys.stderr.write(f"hint: {error.hint}\n")


NO_EFFECT = "has_an_effect"
LEARN = "base and tuned model say the same, so nothing was learnt: train longer, or at a higher train.learning_rate"


def leave_unproved(failed: Sequence[str], look: str) -> None:
    """Leave with UNPROVED where proofs failed, which is the last thing said; what was written is kept.

    `failed` are names of proofs, or `NAME of WHOM`; `look` is the hint, but where all of them lack an effect.
    """
    if failed:
        look = LEARN if {each.partition(" of ")[0] for each in failed} == {NO_EFFECT} else look
        n_failed = f"{len(failed)} proof{'s' if len(failed) > 1 else ''} failed"
        complain(UserError(f"{n_failed}: {', '.join(failed)}", look))
        raise typer.Exit(UNPROVED)


def this_command() -> str:
    """The command line that is running, as one would type it."""
    return shlex.join(["tunewise", *sys.argv[1:]])


def version(wanted: bool) -> None:
    """Print the installed version and leave, when asked to."""
    if wanted:
        from importlib.metadata import version as installed_version

        sys.stdout.write(f"tunewise {installed_version('tunewise')}\n")
        raise typer.Exit
