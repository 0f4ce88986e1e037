"""Bad input through the real command: exit code 2, what was wrong, what to type next, nothing half-written."""

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.command import tunewise
from tests.cli.conftest import make_base
from tunewise.cli.console import verb

QUICK = ("train.steps=2", "train.batch_size=4", "data.train=8")


def refused(tmp_path: Path, *words: str | Path) -> str:
    """Run the command into tmp_path/out, and return what it said on standard error after checking the manners of it."""
    out = tmp_path / "out"
    found = tunewise(*words, "--out", out)
    assert found.code == 2, found
    assert found.err.startswith("error: ") or "\nerror: " in found.err, found.err
    assert "\nhint: " in found.err, found.err
    assert "Traceback" not in found.err
    assert found.out == ""
    left = [path for path in out.rglob("*") if path.is_file()] if out.exists() else []
    assert not (out / "DONE").exists()
    assert not (out / "metrics.json").exists()
    assert not (out / "adapter").exists()
    assert not [path for path in left if path.name.endswith(".tmp") or ".tmp" in path.parent.name], left
    return found.err


def write(tmp_path: Path, name: str, text: str | bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_missing_file_names_the_nearest(tmp_path: Path, base: Path) -> None:
    write(tmp_path, "reviews.csv", "text,label\na,x\n")
    said = refused(tmp_path, "train", "--model", base, "--data", tmp_path / "review.csv")
    assert "review.csv" in said
    assert "reviews.csv" in said


def test_an_empty_file(tmp_path: Path, base: Path) -> None:
    path = write(tmp_path, "empty.csv", "")
    assert "empty.csv" in refused(tmp_path, "train", "--model", base, "--data", path)


def test_an_unknown_column_names_the_nearest(tmp_path: Path, base: Path, reviews: Path) -> None:
    said = refused(tmp_path, "train", "--model", base, "--data", reviews, "data.text=txt", "data.label=label")
    assert "'txt'" in said
    assert "'text'" in said


def test_one_class_only(tmp_path: Path, base: Path) -> None:
    path = write(tmp_path, "one.csv", "text,label\n" + "".join(f"a boat {i},good\n" for i in range(20)))
    assert "good" in refused(tmp_path, "train", "--model", base, "--data", path)


def test_bytes_that_are_no_utf_8_with_their_line(tmp_path: Path, base: Path) -> None:
    path = write(tmp_path, "latin.csv", b"text,label\na boat,x\nsm\xf8r,y\n")
    said = refused(tmp_path, "train", "--model", base, "--data", path)
    assert "line 3" in said
    assert "iconv" in said


def test_a_row_longer_than_the_context(tmp_path: Path, base: Path) -> None:
    text = "the boat was late " * 400
    rows = "".join(f"{text}{i},{'x' if i % 2 else 'y'}\n" for i in range(20))
    path = write(tmp_path, "long.csv", "text,label\n" + rows)
    found = tunewise("train", "--model", base, "--data", path, "--out", tmp_path / "out", *QUICK)
    told = found.err + found.out
    # the answer stays whole and the prompt is cut, which is told with the number of rows; or it is refused with a hint
    assert found.code in (0, 2)
    assert "truncated" in told or "longer" in told or "cut" in told, told


def test_labels_all_masked(tmp_path: Path, base: Path) -> None:
    path = write(
        tmp_path, "masked.jsonl", "".join(json.dumps({"prompt": f"p{i}", "completion": ""}) + "\n" for i in range(20))
    )
    refused(tmp_path, "train", "--model", base, "--data", path)


def test_an_unknown_method_names_the_nearest(tmp_path: Path, base: Path, reviews: Path) -> None:
    said = refused(tmp_path, "train", "--model", base, "--data", reviews, "--method", "lroa")
    assert "'lroa'" in said
    assert "'lora'" in said


def test_an_unknown_field_names_the_nearest(tmp_path: Path, base: Path, reviews: Path) -> None:
    said = refused(tmp_path, "train", "--model", base, "--data", reviews, "method.rnak=4")
    assert "rnak" in said
    assert "rank" in said
    said = refused(tmp_path, "train", "--model", base, "--data", reviews, "train.learning_rat=1e-3")
    assert "learning_rate" in said


def test_a_field_without_its_section_is_told_where_it_belongs(tmp_path: Path, base: Path, reviews: Path) -> None:
    said = refused(tmp_path, "train", "--model", base, "--data", reviews, "r=4", "learning_rate=1e-3", "lora_alpha=8")
    assert "write method.rank=4 train.learning_rate=0.001 method.alpha=8" in " ".join(said.split())


def test_an_adapter_verb_on_an_unfinished_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    write(run, "recipe.yaml", "data: tiny:sentiment\nmethod: {name: lora}\n")
    outcome = tunewise("adapter", "check", run)
    assert outcome.code == 2
    assert "its run is not finished" in outcome.err


def test_a_bad_value_says_what_was_received(tmp_path: Path, base: Path, reviews: Path) -> None:
    said = refused(tmp_path, "train", "--model", base, "--data", reviews, "train.epochs=many")
    assert "epochs" in said
    assert "many" in said


def test_a_hub_name_without_network(tmp_path: Path, reviews: Path) -> None:
    said = refused(tmp_path, "train", "--model", "some-org/some-model", "--data", reviews)
    assert "some-org/some-model" in said


def test_a_folder_that_is_no_model(tmp_path: Path, reviews: Path) -> None:
    folder = tmp_path / "nothing"
    folder.mkdir()
    assert "config.json" in refused(tmp_path, "train", "--model", folder, "--data", reviews)


def test_weights_in_a_pickle_are_refused_with_the_conversion(tmp_path: Path, base: Path, reviews: Path) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(base, folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    said = refused(tmp_path, "train", "--model", folder, "--data", reviews)
    assert "pytorch_model.bin" in said
    assert "save_pretrained" in said


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="needs a limit on the size of files")
def test_no_room_while_saving(tmp_path: Path, base: Path, reviews: Path) -> None:
    """A limit on file sizes stands in for a full disk: the kernel refuses the write in the middle of the adapter."""
    out = tmp_path / "out"
    limit = "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); " \
        "resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000)); sys.argv = ['tunewise', *sys.argv[1:]]; " \
        "from tunewise.cli import main; main()"  # fmt: skip
    words = ["train", "--model", str(base), "--data", str(reviews), "--out", str(out), *QUICK]
    done = subprocess.run([sys.executable, "-c", limit, *words], capture_output=True, text=True, timeout=300)
    assert done.returncode == 2, done.stderr
    assert os.strerror(errno.EFBIG) in done.stderr or os.strerror(errno.ENOSPC) in done.stderr
    assert "hint: " in done.stderr
    assert "Traceback" not in done.stderr
    assert not (out / "DONE").exists()
    assert not (out / "adapter").exists()
    assert not list(out.rglob("*.tmp"))


@pytest.mark.parametrize(
    "words",
    [("train", "--data", "x" * 300), ("eval", "x" * 300), ("data", "check", "x" * 300), ("chat", "x" * 300),
     ("adapter", "check", "x" * 300), ("report", "x" * 300)],
    ids=" ".join,
)  # fmt: skip
def test_a_path_that_no_system_takes_is_told(words: tuple[str, ...]) -> None:
    found = tunewise(*words)
    assert (found.code, found.out) == (2, "")
    assert f"error: the system refuses {'x' * 100}...: {os.strerror(errno.ENAMETOOLONG)}\nhint: " in found.err


def test_a_broken_pipe_is_no_fault_of_a_path() -> None:
    def broken() -> None:
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    with pytest.raises(BrokenPipeError):
        verb(broken)()


@pytest.mark.parametrize("path", ["/dev/null", "/dev/zero"])
def test_a_device_is_no_data(path: str, tmp_path: Path) -> None:
    assert f"{path} is neither a file nor a folder" in refused(tmp_path, "train", "--data", path)


def test_an_adapter_for_another_base(tmp_path: Path, base: Path, reviews: Path) -> None:
    out = tmp_path / "run"
    assert tunewise("train", "--model", base, "--data", reviews, "--out", out, *QUICK).code == 0
    other = make_base(tmp_path / "other", seed=1)
    found = tunewise("adapter", "check", out, "--model", other)
    assert found.code == 2
    assert "fingerprint" in found.err
    assert str(base) in found.err
    found = tunewise("adapter", "merge", out, "--model", other, "--out", tmp_path / "merged")
    assert found.code == 2
    assert not (tmp_path / "merged").exists()


def test_a_damaged_adapter_names_the_file(tmp_path: Path, base: Path, reviews: Path) -> None:
    out = tmp_path / "run"
    assert tunewise("train", "--model", base, "--data", reviews, "--out", out, *QUICK).code == 0
    tensors = out / "adapter" / "adapter_model.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-7])
    found = tunewise("adapter", "check", out)
    assert found.code == 2
    assert "adapter_model.safetensors" in found.err


def test_recipes_that_cannot_be_read(tmp_path: Path) -> None:
    assert "nowhere.yaml" in refused(tmp_path, "train", tmp_path / "nowhere.yaml")
    bad = write(tmp_path, "bad.yaml", "model: tiny\ndata: [unclosed\n")
    assert "line" in refused(tmp_path, "train", bad)
    unknown = write(tmp_path, "unknown.yaml", "model: tiny\ndata: tiny:sentiment\nmetod: lora\n")
    said = refused(tmp_path, "train", unknown)
    assert "metod" in said
    assert "method" in said
    assert "no data" in refused(tmp_path, "train")
    assert "cannot read" in refused(tmp_path, "train", "a=1", "stray")


def test_folders_that_hold_no_run(tmp_path: Path) -> None:
    for words in (("report", tmp_path / "none"), ("adapter", "check", tmp_path / "none"), ("eval", tmp_path / "none")):
        found = tunewise(*words)
        assert found.code == 2, words
        assert "none" in found.err
        assert "hint: " in found.err
    assert tunewise("report", tmp_path).code == 2
    assert tunewise("eval").code == 2


def test_an_unknown_option_is_told_by_the_parser() -> None:
    found = tunewise("train", "--modle", "tiny")
    assert found.code == 2
    assert "--model" in found.err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--models", "tiny"], "--models is for a protocol"),
        (["--protocol", "icl", "--models", "tiny"], "no protocol named 'icl'"),
        (["--protocol", "icl-vs-ft"], "no models for --protocol icl-vs-ft"),
        (["--protocol", "icl-vs-ft", "--models", "tiny,tiny"], "the model tiny is there twice"),
        (["--protocol", "icl-vs-ft", "--models", "tiny", "--methods", "lora,full"], "is not one way of fine-tuning"),
        (["--out-of-domain", "hans.jsonl"], "cannot read the test set 'hans.jsonl'"),
        (["seed=5"], "seed=5 is of one run"),
        (["--methods", "lora", "method.rank=4"], "method.rank=4 is of one run"),
    ],
)
def test_what_a_protocol_needs_is_told(words, told):
    outcome = tunewise("compare", "--data", "tiny:sentiment", *words)
    assert outcome.code == 2
    assert told in outcome.err


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl", "rows.json"])
def test_rows_in_place_of_a_recipe_are_told_where_they_go(tmp_path: Path, base: Path, name: str) -> None:
    file = write(tmp_path, name, '[{"text": "a", "label": "x"}]\n')
    said = refused(tmp_path, "train", file, "--model", base)
    assert f"its rows are given by --data {file}" in said
