"""The one error a user is meant to read: what was wrong, the value received, and the next thing to type."""

import difflib
import shlex
from collections.abc import Iterable
from pathlib import Path


class UserError(Exception):
    """Bad input. The command line prints it without a traceback and exits with code 2."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name that `name` was most likely meant to be, or "" when none is close."""
    by_folded = {candidate.casefold(): candidate for candidate in known}
    matches = difflib.get_close_matches(name.casefold(), by_folded, n=1, cutoff=0.6)
    return by_folded[matches[0]] if matches else ""


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a `name` that is none of the `known` things of one `kind`; to be raised by the caller."""
    names = list(known)
    guess = nearest(name, names)
    listing = f"known: {', '.join(names)}" if names else f"there is no {kind} here at all"
    return UserError(f"no {kind} named {name!r}", f"did you mean {guess!r}? {listing}" if guess else listing)


def missing(path: str | Path) -> UserError:
    """The error for a path that is not there, naming the nearest one in its folder; to be raised by the caller."""
    target = Path(path)
    if not target.parent.is_dir():
        return UserError(f"no such file: {path}", f"its folder {target.parent} does not exist either")
    if target.is_symlink():
        return UserError(f"{path} is a symbolic link that leads nowhere", f"look where it leads: ls -l {path}")
    names = sorted(entry.name for entry in target.parent.iterdir() if not entry.name.startswith("."))
    guess = nearest(target.name, names)
    if guess:
        return UserError(f"no such file: {path}", f"did you mean {target.with_name(guess)}?")
    listing = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") if names else "nothing"
    return UserError(f"no such file: {path}", f"{target.parent.absolute()} holds {listing}")


def unreadable(path: str | Path, error: OSError | UnicodeDecodeError) -> UserError:
    """The error for a file that could not be read as UTF-8 text: missing, a folder, not allowed, or which byte."""
    if isinstance(error, FileNotFoundError):
        return missing(path)
    if isinstance(error, UnicodeDecodeError):
        line = error.object.count(b"\n", 0, error.start) + 1
        encoding = "utf-16" if error.object[:2] in (b"\xff\xfe", b"\xfe\xff") else "latin1"
        return UserError(
            f"{path}, line {line}: byte 0x{error.object[error.start]:02x} is not UTF-8",
            f"convert it first, for example: iconv -f {encoding} -t utf-8 {path} > converted{Path(path).suffix}",
        )
    if isinstance(error, IsADirectoryError):
        return UserError(f"cannot read {path}: it is a folder", "name a file in it")
    return UserError(f"cannot read {path}: {error.strerror or error}", f"look at its permissions: ls -l {path}")


def no_adapter_yet(folder: str | Path) -> UserError:
    """The error for a run folder whose training has not ended."""
    command = shlex.join(["tunewise", "train", f"{folder}/recipe.yaml", "--out", str(folder)])
    return UserError(f"{folder} holds no adapter yet: its run is not finished", command)
