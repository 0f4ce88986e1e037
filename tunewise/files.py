"""The only module that writes artefacts: a temporary file beside the target, fsync, rename.  No pickle anywhere.

A reader therefore sees the old artefact or the new one, never half of either, whatever kills the process.
"""

import errno
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from safetensors import SafetensorError

from tunewise.errors import UserError, unreadable

MANIFEST = "manifest.json"
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


JUST_NOW_NS = 2_000_000_000
_SUMS: dict[tuple[int, ...], str] = {}


class Held(UserError):
    """Another process works where this one was to."""


@contextmanager
def writing(path: str | Path) -> Generator[Path]:
    """Yield a temporary path beside `path`; when the block succeeds its content replaces `path` in one step.

    Whatever goes wrong, the temporary file is removed and an older `path` stays as it was. What the operating system
    refuses (disk full, file too large, no permission, read-only) comes out as a UserError.
    """
    target = _target(path)
    with _told(path):
        if target.exists() and not target.is_file():
            raise UserError(f"cannot write {path}: it is {_kind(target)}", "name a file")
        target.parent.mkdir(parents=True, exist_ok=True)
        # the suffix stays, since some writers choose their format by it
        temporary = target.with_name(f".{target.stem}.{secrets.token_hex(4)}.tmp{target.suffix}")
        try:
            temporary.touch()
            mode = temporary.stat().st_mode
            yield temporary
            # some writers (safetensors) replace the file by a private one; an artefact follows the umask
            temporary.chmod(mode)
            _sync(temporary)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
        _sync(target.parent)


@contextmanager
def folder(path: str | Path) -> Generator[Path]:
    """Yield a temporary sibling directory; when the block succeeds it gets a manifest.json and replaces `path`.

    The manifest maps each file (path relative to the folder) to its {sha256, bytes}; `verify` reads it back.
    Errors as in `writing`. A folder that stands at `path` is replaced only if it is empty or has a manifest of its own.
    """
    target = _target(path)
    with _told(path):
        if target.exists() and not target.is_dir():
            raise UserError(f"cannot write {path}: it is {_kind(target)}", "name a folder, or a new one")
        if target.exists() and any(target.iterdir()) and not (target / MANIFEST).is_file():
            raise UserError(f"cannot replace {path}: it holds files that were not written here", "name a new folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
        try:
            temporary.mkdir()
            yield temporary
            write_json(temporary / MANIFEST, _manifest(temporary))
            for file in _files(temporary):
                _sync(file)
            _sync(temporary)
            _swap(temporary, target)
        except UserError as error:
            # a file of the folder could not be written: name it by where it was to be
            hint = error.hint.replace(str(temporary.absolute()), str(target.parent.absolute()))
            raise UserError(error.message.replace(str(temporary), str(target)), hint) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        _sync(target.parent)


@contextmanager
def held(path: str | Path) -> Generator[None]:
    """Hold the lock file `path` inside the block; Held, at once, where another process does. It names its process.

    The lock is the kernel's (flock), which ends with the process however that ends: no lock is ever stale. Storage that
    knows no locks locks nothing. A folder that is made for it and that nothing is written into is removed again.
    """
    place = Path(path).parent
    new = [folder for folder in (place, *place.parents) if not folder.exists()]
    with _told(path):
        place.mkdir(parents=True, exist_ok=True)
        descriptor = _locked(Path(path))
        me = {"process": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        try:
            os.ftruncate(descriptor, 0)
            os.write(descriptor, json.dumps(me).encode())
        except OSError:
            os.close(descriptor)
            raise
    try:
        yield
    finally:
        Path(path).unlink(missing_ok=True)  # while it is held: who opened it meanwhile sees that its name is gone
        os.close(descriptor)
        with suppress(OSError):  # of the first that holds something
            for folder in new:
                folder.rmdir()


def holder(path: str | Path) -> str:
    """Who holds the lock file `path`, as in "process 12 on a-host since 2026-01-31 12:00:00"; "" where nobody does."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return ""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _owner(descriptor)
    except OSError:
        return ""
    finally:
        os.close(descriptor)
    return ""


def verify(folder: str | Path) -> None:
    """Compare a folder with its manifest; UserError names the first file that is missing, changed or cut short."""
    root = Path(folder)
    manifest = read_json(root / MANIFEST)
    again = "copy the folder again, or write it again with the command that made it"
    if not isinstance(manifest, dict):
        raise UserError(f"{root / MANIFEST} is no manifest", again)
    for name, entry in manifest.items():
        file = root / name
        if not isinstance(entry, dict) or not {"sha256", "bytes"} <= entry.keys():
            raise UserError(f"{root / MANIFEST} is damaged: no sha256 and bytes for {name}", again)
        if not file.is_file():
            raise UserError(f"{file} is missing, but {MANIFEST} lists it", again)
        if file.stat().st_size != entry["bytes"]:
            raise UserError(f"{file} is damaged: {file.stat().st_size} bytes, {entry['bytes']} were written", again)
        if sha256(file) != entry["sha256"]:
            raise UserError(f"{file} is damaged: its sha-256 is not the one in {MANIFEST}", again)


def sha256(path: str | Path) -> str:
    """The hexadecimal SHA-256 of a file's bytes; UserError when it cannot be read."""
    try:
        with Path(path).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise unreadable(path, error) from None


def sha256_once(path: str | Path) -> str:
    """`sha256`, by which a file is read once in this process for as long as it stays as it is.

    Its state is its place on the disk, its size and the times of its last change. A file that was changed this moment
    is not remembered: it could change again within one tick of the file system's clock.
    """
    try:
        found = Path(path).stat()
    except OSError as error:
        raise unreadable(path, error) from None
    state = found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
    if state not in _SUMS:
        digest = sha256(path)
        if time.time_ns() - max(found.st_mtime_ns, found.st_ctime_ns) < JUST_NOW_NS:
            return digest
        _SUMS[state] = digest
    return _SUMS[state]


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 file in one step, line ends as given."""
    with writing(path) as temporary:
        temporary.write_bytes(text.encode())


def write_json(path: str | Path, obj: object) -> None:
    """Write indented JSON in one step, keys in their own order; NaN and infinities are refused with a UserError."""
    write_text(path, _json(path, obj, indent=2) + "\n")


def write_jsonl(path: str | Path, rows: Iterable[object]) -> None:
    """Write one value a line in one step; a number that is none stays NaN, as Python's own reader takes it."""
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_text(path, lines.encode("utf-8", "backslashreplace").decode())


def drop_torn_line(path: str | Path) -> int:
    """Cut what a killed process wrote of its last line off a log; how many bytes went."""
    if not Path(path).is_file():
        return 0
    with _told(path), Path(path).open("r+b") as stream:
        content = stream.read()
        whole = content.rfind(b"\n") + 1
        stream.truncate(whole)
    return len(content) - whole


def append_json(path: str | Path, obj: object, *, durably: bool = False) -> None:
    """Append one line of JSON to a log, unbuffered; NaN is refused. A line that does not fit is taken back whole.

    `durably` waits until the disk has it: what it tells was paid for and cannot be had again.
    """
    line = (_json(path, obj, indent=None) + "\n").encode()
    with _told(path):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with Path(path).open("ab", buffering=0) as stream:
            size = stream.tell()
            try:
                written = stream.write(line)
                while written < len(line):
                    written += stream.write(line[written:])
                if durably:
                    os.fsync(stream.fileno())
            except OSError:
                with suppress(OSError):  # of a device; the reason to tell is the first one
                    stream.truncate(size)
                raise


def append_bytes(path: str | Path, content: bytes) -> None:
    """Add to a file that `folder` or `writing` has under way, which makes it whole in one step later."""
    with _told(path), Path(path).open("ab") as stream:
        stream.write(content)


@contextmanager
def nameless(folder: str | Path) -> Generator[IO[bytes]]:
    """Yield a file of `folder` without a name: it is gone with the block, or with the last mapping made of it there."""
    with _told(Path(folder) / "a file without a name"), tempfile.TemporaryFile(dir=folder) as stream:
        yield stream


def read_text(path: str | Path) -> str:
    """The text of a UTF-8 file (a byte order mark is dropped); UserError when it is missing or holds other bytes."""
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable(path, error) from None


def read_json(path: str | Path) -> object:
    """The content of a JSON file; UserError when it is missing or corrupt."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}, line {error.lineno} is no valid JSON: column {error.colno}: {error.msg}",
            f"correct line {error.lineno}, or write the file again with the command that made it",
        ) from None


def read_jsonl(path: str | Path) -> list[object]:
    """The values of a file with one JSON value a line, blank lines skipped; UserError names a corrupt line."""
    values = []
    # split at newlines only: splitlines() would also cut at U+2028, which JSON allows inside a string
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            values.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise UserError(
                f"{path}, line {number} is no valid JSON: column {error.colno}: {error.msg}",
                f"correct or remove line {number}",
            ) from None
    return values


def _json(path: str | Path, obj: object, indent: int | None) -> str:
    try:
        text = json.dumps(obj, indent=indent, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise UserError(f"{path} was not written: {error}", "replace NaN and infinite numbers by null first") from None
    # half a surrogate pair cannot be UTF-8; written as \udXXX it is the same string in JSON
    return text.encode("utf-8", "backslashreplace").decode()


@contextmanager
def _told(path: str | Path) -> Generator[None]:
    """Turn what the operating system refuses into a UserError; a UserError raised inside passes through."""
    try:
        yield
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(f"cannot write {path}: {error.filename} is not a folder", "name another place") from error
    except OSError as error:
        place = "" if error.filename is None or str(error.filename) == str(path) else f" ({error.filename})"
        raise _refused(path, f"{error.strerror or error}{place}") from error
    except SafetensorError as error:
        # a full disk comes as this exception too; its text ends with the operating system's reason
        if "I/O error: " not in str(error):
            raise
        raise _refused(path, str(error).partition("I/O error: ")[2]) from error


def _locked(path: Path) -> int:
    """The descriptor of the lock file, with the lock on it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            told = _owner(descriptor)
            os.close(descriptor)
            raise Held(f"{path.parent} is in use by {told}", "wait for it, or give another --out") from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                os.close(descriptor)
                raise
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        os.close(descriptor)  # its last holder removed the file between our two calls: there may be a new one


def _owner(descriptor: int) -> str:
    try:
        found = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {found['process']} on {found['host']} since {found['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process"  # which has not written down yet who it is


def _refused(path: str | Path, reason: str) -> UserError:
    place = Path(path).absolute().parent
    return UserError(
        f"cannot write {path}: {reason}", f"look at the space and rights there: df -h {place}; ls -ld {place}"
    )


def _target(path: str | Path) -> Path:
    """Where to write: behind a symbolic link, what it names."""
    if Path(path).name in ("", ".."):
        raise UserError(f"cannot write {str(path)!r}: it has no name of its own", "name a file or a new folder")
    return Path(path).resolve() if Path(path).is_symlink() else Path(path)


def _kind(path: Path) -> str:
    return "a folder" if path.is_dir() else "a file" if path.is_file() else "a device"


def _files(root: Path) -> list[Path]:
    return sorted(file for file in root.rglob("*") if file.is_file())


def _manifest(root: Path) -> dict[str, dict[str, str | int]]:
    return {
        file.relative_to(root).as_posix(): {"sha256": sha256(file), "bytes": file.stat().st_size}
        for file in _files(root)
        if file != root / MANIFEST
    }


def _swap(temporary: Path, target: Path) -> None:
    """Put `temporary` where `target` is; a full folder cannot be replaced in one rename, so the old one steps aside."""
    if not target.exists() or not any(target.iterdir()):
        temporary.replace(target)
        return
    aside = target.with_name(f".{target.name}.{secrets.token_hex(4)}.old")
    target.replace(aside)
    try:
        temporary.replace(target)
    except OSError:
        aside.replace(target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
