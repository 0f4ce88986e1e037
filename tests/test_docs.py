"""Every command of docs/ and of the README is carried out, page by page, in a folder that a reader could have.

A block under `<!-- not run: reason -->` is left out; how many a page may leave out is written here. One under
`<!-- needs: PACKAGE -->` runs where that package, of an extra, is installed.
A block marked ```bash fails``` must be refused with exit code 2.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tunewise.cli import app
from tunewise.cli.methods import markdown_defaults, markdown_table, registry

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(
    r"(?:<!-- not run: (?P<why>[^\n]+) -->\n|<!-- needs: (?P<needs>\w+) -->\n)?"
    r"^```(?P<kind>bash|python)(?P<fails> fails)?\n(?P<body>.*?)^```$",
    re.M | re.S,
)

# page -> how many blocks it may leave out; anything beyond is a command that nobody checks
NOT_RUN = {
    "README.md": 4, "train.md": 2, "tiny.md": 5, "index.md": 1, "runs.md": 0, "data.md": 0, "methods.md": 2,
    "methods-table.md": 1, "performance.md": 1, "in-context.md": 1, "metrics.md": 0, "benchmarks.md": 1,
    "teacher.md": 2, "cluster.md": 2, "compare.md": 0, "forgetting.md": 1, "icl-vs-ft.md": 2, "mixtures.md": 0,
    "chat.md": 0, "showcase.md": 1, "qlora.md": 1, "instruction-sets.md": 2, "hub.md": 3, "serve.md": 2,
    "verdicts.md": 1,
}  # fmt: skip

EXTRAS = ("lm_eval",)  # packages that `make test` does without


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    page: str
    kind: str
    body: str
    fails: bool
    why_not_run: str | None
    needs: str | None = None
    """A package that may be missing here."""


def blocks_of(page: str, text: str) -> list[Block]:
    return [
        Block(page, m["kind"], m["body"], m["fails"] is not None, m["why"], m["needs"]) for m in FENCE.finditer(text)
    ]


def commands_of(body: str) -> Iterator[str]:
    """Whole commands: continued lines joined, a here-document with its text, comments and blank lines left out."""
    lines = iter(body.splitlines())
    for line in lines:
        command = line
        while command.endswith("\\"):
            command = command[:-1] + next(lines)
        document = re.search(r"<<'?(\w+)'?", command)
        if document:
            for text in lines:
                command += "\n" + text
                if text == document[1]:
                    break
        if command.strip() and not command.lstrip().startswith("#"):
            yield command


def script_of(block: Block) -> list[str]:
    """The commands that bash is to be given."""
    return [shlex.join(["python", "-c", block.body])] if block.kind == "python" else list(commands_of(block.body))


def carry_out_python(body: str) -> tuple[int, str]:
    """Exit code and output of a block of Python, as a module of its own in this process, which has torch already."""
    output = io.StringIO()
    with redirect_stdout(output):
        try:
            exec(compile(body, "block", "exec", dont_inherit=True), {"__name__": "__main__"})
        except Exception:
            return 1, output.getvalue() + traceback.format_exc()
    return 0, output.getvalue()


def carry_out(command: str) -> tuple[int, str]:
    """The same of a command. A plain `tunewise ...` or `tunewise ... > FILE` runs in this process, all else in bash."""
    plain, to, file = command.partition(" > ")
    words = shlex.split(plain, comments=True) if "<<" not in command else []
    if words[:1] == ["tunewise"] and not re.search(r"[|>;&]", plain + file):
        result = CliRunner().invoke(app, words[1:], prog_name="tunewise")
        trace = "" if result.exception is None or isinstance(result.exception, SystemExit) else repr(result.exception)
        if to:
            Path(file).write_text(result.stdout, "utf-8")
        return result.exit_code, result.output + trace
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    shell = ["bash", "-euo", "pipefail", "-c", command]
    done = subprocess.run(shell, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_on_the_page_works(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    blocks = blocks_of(page.name, page.read_text("utf-8"))
    assert blocks, f"{page.name} shows no command at all"
    if page.name != "runs.md":  # the page on proofs has them all
        request.getfixturevalue("without_a_fresh_process")
    request.getfixturevalue("few_embedded_rows")
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    monkeypatch.chdir(tmp_path)
    missing = [block for block in blocks if block.needs and find_spec(block.needs) is None]
    for block in blocks:
        if block.why_not_run or block in missing:
            continue
        # the README's block has a fresh process, as its reader has; the seconds to import torch are paid once
        is_here = block.kind == "python" and page.name != "README.md"
        for command in script_of(block):
            code, output = carry_out_python(block.body) if is_here else carry_out(command)
            assert code == (2 if block.fails else 0), f"{page.name}: {command}\nexit code {code}\n{output}"
            if block.fails:
                assert "error: " in output
                assert "Traceback" not in output
    if missing:
        pytest.skip(f"{len(missing)} of {len(blocks)} blocks need {missing[0].needs}, which is not installed")


def test_no_page_leaves_out_more_than_it_says() -> None:
    assert len(PAGES) >= 6
    n_run = 0
    for page in PAGES:
        blocks = blocks_of(page.name, page.read_text("utf-8"))
        left_out = [block for block in blocks if block.why_not_run]
        assert all(block.needs in EXTRAS for block in blocks if block.needs)
        assert len(left_out) <= NOT_RUN.get(page.name, 0), [block.body for block in left_out]
        n_run += len(blocks) - len(left_out)
        fences = page.read_text("utf-8").count("\n```bash") + page.read_text("utf-8").count("\n```python")
        assert fences == len(blocks), f"{page.name}: a block is written so that this test cannot read it"
    assert n_run >= 12


@pytest.mark.parametrize(("table", "least"), [(markdown_table, 20), (markdown_defaults, 90)])
def test_the_tables_of_methods_are_the_registry(table: Callable[..., str], least: int) -> None:
    text = (ROOT / "docs" / "methods.md").read_text("utf-8")
    found = table(registry())
    assert found.count("\n") >= least
    assert found in text, "docs/methods.md is out of date: put in what `tunewise methods --markdown` prints"


def test_every_page_is_reached_from_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text("utf-8")
    for page in PAGES[1:]:
        assert page.name == "index.md" or f"({page.name})" in index, page.name


def test_the_readme_lists_every_file_of_the_package() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    files = [path for path in (ROOT / "tunewise").rglob("*.py") if path.name not in ("__init__.py", "__main__.py")]
    assert len(files) >= 40
    missing = [path.relative_to(ROOT).as_posix() for path in files if f"`{path.name}`" not in readme]
    assert not missing


def test_links_between_pages_lead_somewhere() -> None:
    n_links = 0
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", page.read_text("utf-8")):
            n_links += 1
            assert (page.parent / target).exists(), f"{page.name}: {target}"
    assert n_links >= 8


def test_the_reader_of_blocks_sees_what_it_should() -> None:
    text = (
        "<!-- not run: long -->\n```bash\na\n```\n```bash fails\ntunewise x \\\n  y\n# no\ncat <<'EOF'\nz\nEOF\n```\n"
    )
    first, second = blocks_of("a.md", text)
    assert (first.why_not_run, second.fails) == ("long", True)
    assert list(commands_of(second.body)) == ["tunewise x   y", "cat <<'EOF'\nz\nEOF"]
