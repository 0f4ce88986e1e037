"""Artefacts are whole or absent; failures here are real ones, made by the operating system."""

import hashlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunewise import files
from tunewise.errors import UserError

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


@given(json_values)
@settings(max_examples=30, deadline=None)
def test_json_comes_back_as_it_went(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("json") / "value.json"
    files.write_json(path, value)
    assert files.read_json(path) == value
    files.append_json(path.with_suffix(".jsonl"), value)
    files.append_json(path.with_suffix(".jsonl"), [value])
    assert files.read_jsonl(path.with_suffix(".jsonl")) == [value, [value]]


def test_json_is_indented_in_its_own_order_and_new_folders_are_made(tmp_path):
    path = tmp_path / "new" / "folder" / "metrics.json"
    files.write_json(path, {"b": 1, "a": "blåbær"})
    assert path.read_text(encoding="utf-8") == '{\n  "b": 1,\n  "a": "blåbær"\n}\n'


def test_half_a_surrogate_pair_stays_json(tmp_path):
    files.write_json(tmp_path / "a.json", {"text": "\ud83d"})
    assert files.read_json(tmp_path / "a.json") == {"text": "\ud83d"}


@pytest.mark.parametrize("value", [math.nan, [1.0, math.inf], {"loss": -math.inf}])
def test_nan_is_refused_and_the_old_file_stays(tmp_path, value):
    path = tmp_path / "metrics.json"
    files.write_json(path, 1)
    for write in (files.write_json, files.append_json):
        with pytest.raises(UserError, match="was not written") as error:
            write(path, value)
        assert "replace NaN and infinite numbers by null" in error.value.hint
    assert path.read_text() == "1\n"
    assert names(tmp_path) == ["metrics.json"]


def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    files.write_text(path, "old")

    def interrupted() -> None:
        with files.writing(path) as temporary:
            temporary.write_text("half")
            assert path.read_text() == "old"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_the_temporary_file_stands_beside_the_target_with_its_suffix(tmp_path):
    with files.writing(tmp_path / "plot.svg") as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".svg"
        temporary.write_text("<svg/>")
    assert names(tmp_path) == ["plot.svg"]


def test_a_symbolic_link_keeps_naming_the_file(tmp_path):
    (tmp_path / "real").mkdir()
    link = tmp_path / "link.txt"
    link.symlink_to(tmp_path / "real" / "a.txt")
    files.write_text(link, "new")
    assert link.is_symlink()
    assert (tmp_path / "real" / "a.txt").read_text() == "new"


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import numpy
from safetensors.numpy import save_file
from tunewise import files
from tunewise.errors import UserError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
here = Path(sys.argv[1])

def text(): files.write_text(here / "old.txt", "x" * 10_000)
def appended(): files.append_json(here / "log.jsonl", "y" * 10_000)
def tensors():
    with files.writing(here / "new.safetensors") as temporary:
        save_file({"a": numpy.zeros(10_000)}, temporary)
def whole_folder():
    with files.folder(here / "adapter") as temporary:
        files.write_text(temporary / "small.txt", "z")
        with files.writing(temporary / "big.txt") as big:
            big.write_text("x" * 10_000)

for action in (text, appended, tensors, whole_folder):
    try:
        action()
    except UserError as error:
        print(error.message, "|", error.hint)
"""


def test_a_disk_limit_is_told_and_leaves_everything_as_it_was(tmp_path):
    files.write_text(tmp_path / "old.txt", "old")
    files.append_json(tmp_path / "log.jsonl", 1)
    with files.folder(tmp_path / "adapter") as temporary:
        files.write_text(temporary / "small.txt", "first")
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 4
    for line, name in zip(lines, ["old.txt", "log.jsonl", "new.safetensors", "adapter/big.txt"]):
        assert line.startswith(f"cannot write {tmp_path / name}: File too large")
        assert f"df -h {tmp_path}; ls -ld {tmp_path}" in line, "a place that is there after all"
    assert names(tmp_path) == ["adapter", "log.jsonl", "old.txt"]
    assert (tmp_path / "old.txt").read_text() == "old"
    assert files.read_jsonl(tmp_path / "log.jsonl") == [1]
    assert (tmp_path / "adapter" / "small.txt").read_text() == "first"
    files.verify(tmp_path / "adapter")


def test_what_was_paid_for_reaches_the_disk(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    files.append_json(tmp_path / "log.jsonl", 1)
    assert not synced
    files.append_json(tmp_path / "log.jsonl", 2, durably=True)
    assert len(synced) == 1
    assert files.read_jsonl(tmp_path / "log.jsonl") == [1, 2]


@pytest.mark.parametrize(
    ("content", "left"), [(b"1\n2\n", b"1\n2\n"), (b'1\n{"a', b"1\n"), (b"1", b""), (b"", b""), (b"\xc3", b"")]
)
def test_a_torn_line_is_dropped(tmp_path, content, left):
    path = tmp_path / "log.jsonl"
    path.write_bytes(content)
    assert files.drop_torn_line(path) == len(content) - len(left)
    assert path.read_bytes() == left
    assert files.drop_torn_line(tmp_path / "none.jsonl") == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_device_refuses_a_line():
    with pytest.raises(UserError, match="cannot write /dev/full: No space left on device"):
        files.append_json("/dev/full", 1)


def test_a_device_or_a_folder_is_never_replaced(tmp_path):
    with pytest.raises(UserError, match=f"cannot write {os.devnull}: it is a device"):
        files.write_text(os.devnull, "x")
    assert not Path(os.devnull).is_file()
    with pytest.raises(UserError, match="it is a folder"):
        files.write_text(tmp_path, "x")
    with pytest.raises(UserError, match="it has no name of its own"):
        files.write_text("", "x")


def test_a_file_where_a_folder_is_needed_is_told(tmp_path):
    (tmp_path / "a").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*/a/b.json: .*/a is not a folder"):
        files.write_json(tmp_path / "a" / "b.json", 1)


def test_a_folder_has_a_manifest_and_replaces_its_elder(tmp_path):
    target = tmp_path / "adapter"
    for text in ("first", "second"):
        with files.folder(target) as temporary:
            files.write_text(temporary / "a.txt", text)
            files.write_text(temporary / "inner" / f"{text}.txt", text)
            assert temporary.parent == tmp_path
    assert names(tmp_path) == ["adapter"]
    assert names(target / "inner") == ["second.txt"]
    manifest = json.loads((target / "manifest.json").read_text())
    assert list(manifest) == ["a.txt", "inner/second.txt"]
    assert manifest["a.txt"] == {"sha256": files.sha256(target / "a.txt"), "bytes": 6}
    files.verify(target)


def test_a_failing_folder_leaves_its_elder(tmp_path):
    target = tmp_path / "adapter"
    with files.folder(target) as temporary:
        files.write_text(temporary / "a.txt", "old")

    def failing() -> None:
        with files.folder(target) as inner:
            files.write_text(inner / "a.txt", "new")
            raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        failing()
    assert (target / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["adapter"]


def test_a_folder_of_other_things_is_not_replaced(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("cat")
    with pytest.raises(UserError, match="photos: it holds files that were not written here") as error:
        files.folder(tmp_path / "photos").__enter__()
    assert error.value.hint == "name a new folder"
    assert (tmp_path / "photos" / "cat.jpg").read_text() == "cat"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: file.unlink(), "a.txt is missing, but manifest.json lists it"),
        (lambda file: file.write_text("ab"), "a.txt is damaged: 2 bytes, 3 were written"),
        (lambda file: file.write_text("abd"), "a.txt is damaged: its sha-256"),
        (lambda file: (file.parent / "manifest.json").write_text("[]"), "manifest.json is no manifest"),
        (lambda file: (file.parent / "manifest.json").write_text('{"a.txt": 1}'), "no sha256 and bytes for a.txt"),
        (lambda file: (file.parent / "manifest.json").write_text("{"), "manifest.json, line 1 is no valid JSON"),
        (lambda file: (file.parent / "manifest.json").unlink(), "no such file: .*manifest.json"),
    ],
)
def test_verify_names_the_damaged_file(tmp_path, damage, message):
    with files.folder(tmp_path / "adapter") as temporary:
        files.write_text(temporary / "a.txt", "abc")
    files.verify(tmp_path / "adapter")
    damage(tmp_path / "adapter" / "a.txt")
    with pytest.raises(UserError, match=message):
        files.verify(tmp_path / "adapter")


def test_corrupt_json_names_its_line(tmp_path):
    (tmp_path / "a.json").write_text('{\n"a": 1,\n}')
    with pytest.raises(UserError, match=r"a.json, line 3 is no valid JSON: column 1"):
        files.read_json(tmp_path / "a.json")
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n\n{"a": \n')
    with pytest.raises(UserError, match=r"a.jsonl, line 3 is no valid JSON") as error:
        files.read_jsonl(tmp_path / "a.jsonl")
    assert error.value.hint == "correct or remove line 3"


def test_other_bytes_and_missing_files_are_told(tmp_path):
    (tmp_path / "a.json").write_bytes(b'{"a":\n"\xff"}')
    with pytest.raises(UserError, match="line 2: byte 0xff is not UTF-8"):
        files.read_json(tmp_path / "a.json")
    for read in (files.read_text, files.sha256):
        with pytest.raises(UserError, match=r"no such file: .*b.json") as error:
            read(tmp_path / "b.json")
        assert "a.json" in error.value.hint


def test_a_byte_order_mark_is_dropped(tmp_path):
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf{}")
    assert files.read_json(tmp_path / "a.json") == {}


def test_what_a_private_writer_leaves_is_readable_as_any_other_new_file(tmp_path):
    with files.writing(tmp_path / "weights.bin") as temporary:
        temporary.unlink()
        temporary.touch(mode=0o600)
    plain = tmp_path / "plain"
    plain.touch()
    assert (tmp_path / "weights.bin").stat().st_mode == plain.stat().st_mode


def test_lines_of_json_are_read_back(tmp_path):
    rows = [{"id": "a", "text": "ä\u2028b"}, {"id": "half a pair: \ud83d", "loss": 0.1 + 0.2}, {"loss": float("inf")}]
    files.write_jsonl(tmp_path / "deep" / "rows.jsonl", rows)
    assert files.read_jsonl(tmp_path / "deep" / "rows.jsonl") == rows
    assert (tmp_path / "deep" / "rows.jsonl").read_bytes().count(b"\n") == 3
    files.write_jsonl(tmp_path / "deep" / "rows.jsonl", [])
    assert files.read_jsonl(tmp_path / "deep" / "rows.jsonl") == []


def test_a_file_is_read_once_while_it_stays_as_it_is(tmp_path, monkeypatch):
    file, read = tmp_path / "a.jsonl", []
    monkeypatch.setattr(
        files, "sha256", lambda path: read.append(path) or hashlib.sha256(file.read_bytes()).hexdigest()
    )
    file.write_text("one")
    first = files.sha256_once(file)
    assert files.sha256_once(file) == first == hashlib.sha256(b"one").hexdigest()
    assert len(read) == 2, "a file that was changed this moment is not remembered"
    monkeypatch.setattr(files, "JUST_NOW_NS", 0)
    assert [files.sha256_once(file) for _ in range(3)] == [first] * 3
    assert len(read) == 3
    os.utime(file, ns=(1, 1))  # another time, the same content
    assert files.sha256_once(file) == first
    assert len(read) == 4
    file.write_text("two")
    assert files.sha256_once(file) == hashlib.sha256(b"two").hexdigest()
    file.unlink()
    with pytest.raises(UserError, match="no such file"):
        files.sha256_once(file)
