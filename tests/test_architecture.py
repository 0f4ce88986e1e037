"""The limits of the house, read off the syntax tree. Every check names the least it must have looked at, and is
itself tested on a planted fault, so that none can pass by looking at nothing."""

from __future__ import annotations

import ast
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "tunewise"

FILE_LINES, MEDIAN_LINES, FUNCTION_LINES, PARAMETERS = 400, 130, 60, 8
METHOD_LINES = 120
METHOD_FOLDERS = ("methods/selective/", "methods/reparam/", "methods/additive/", "methods/prompt/")
FORBIDDEN_STEMS = ("utils", "util", "helpers", "helper", "common", "misc", "manager")
ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "gpt2", "gpt_neox", "opt", "smollm")
UNSAFE_MODULES = ("pickle", "cPickle", "dill", "joblib", "shelve", "marshal", "cloudpickle")
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Source:
    """One Python file of the package: its path inside `tunewise/` and its text."""

    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def room(self) -> str:
        """The first folder below the package, or the module's own name at the top."""
        return self.path.split("/")[0].removesuffix(".py")

    def functions(self) -> Iterator[Function]:
        return (node for node in ast.walk(self.tree) if isinstance(node, Function))

    def calls(self) -> Iterator[tuple[str, ast.Call]]:
        """Every call with the dotted name of what is called."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Call):
                yield ast.unparse(node.func), node


SOURCES = [
    Source(path.relative_to(PACKAGE).as_posix(), path.read_text("utf-8")) for path in sorted(PACKAGE.rglob("*.py"))
]


def n_lines(source: Source) -> int:
    return len(source.text.splitlines())


def parameters(function: Function) -> list[ast.arg]:
    """Its parameters without self or cls."""
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args]
    if named and named[0].arg in ("self", "cls"):
        named = named[1:]
    return [*named, *arguments.kwonlyargs]


def long_files(source: Source) -> list[str]:
    return [f"{n_lines(source)} lines"] if n_lines(source) > FILE_LINES else []


def long_method_files(source: Source) -> list[str]:
    """A method, or a part of one, is read at one sitting."""
    is_long = source.path.startswith(METHOD_FOLDERS) and n_lines(source) > METHOD_LINES
    return [f"{n_lines(source)} lines"] if is_long else []


def long_functions(source: Source) -> list[str]:
    spans = ((f.name, (f.end_lineno or f.lineno) - f.lineno + 1) for f in source.functions())
    return [f"{name}: {span} lines" for name, span in spans if span > FUNCTION_LINES]


def many_parameters(source: Source) -> list[str]:
    # a typer verb's parameters are the flags of a command line, not a Python interface
    if source.room == "cli":
        return []
    return [f"{f.name}: {len(parameters(f))}" for f in source.functions() if len(parameters(f)) > PARAMETERS]


def catch_all_names(source: Source) -> list[str]:
    parts = source.path.removesuffix(".py").split("/")
    return [part for part in parts if part in FORBIDDEN_STEMS or part.endswith(("_utils", "_helpers", "_manager"))]


def bare_kwargs(source: Source) -> list[str]:
    """Public functions and methods; one inside a function is nobody's interface."""
    # transformers calls an attention function, and jinja whatever a template calls, with arguments of their own
    if source.path in ("models/tiny/attention.py", "engine/attention.py", "data/sandbox.py"):
        return []
    inner = {id(node) for outer in source.functions() for node in ast.walk(outer) if node is not outer}
    return [
        f.name
        for f in source.functions()
        if f.args.kwarg is not None and not f.name.startswith("_") and id(f) not in inner
    ]


def duck_dispatch(source: Source) -> list[str]:
    return [
        f"line {node.lineno}: {ast.unparse(node)}"
        for name, node in source.calls()
        if name == "hasattr" or (name == "getattr" and len(node.args) == 3)
    ]


def method_names_compared(source: Source) -> list[str]:
    if source.room == "methods":
        return []
    faults = []
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Compare):
            sides = [ast.unparse(side) for side in (node.left, *node.comparators)]
            if any(side == "method.name" or side.endswith(".method.name") for side in sides):
                faults.append(f"line {node.lineno}: {ast.unparse(node)}")
    return faults


def hidden_imports(source: Source) -> list[str]:
    # cli verbs import torch only when they run; each extra is asked for in one place
    extras = (
        "report/figure.py", "models/quantise.py", "training/rules.py", "training/tensorboard.py", "data/hub.py",
        "evaluation/harness.py", "comparison/cluster.py", "serve/server.py",
    )  # fmt: skip
    if source.room == "cli" or source.path in ("__init__.py", *extras):
        return []
    return [
        f"line {inner.lineno}: {ast.unparse(inner)}"
        for function in source.functions()
        for inner in ast.walk(function)
        if isinstance(inner, ast.Import | ast.ImportFrom)
    ]


def unsafe_loading(source: Source) -> list[str]:
    faults = []
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            named = [alias.name for alias in node.names] + (
                [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            )
            faults += [f"line {node.lineno}: {name}" for name in named if name.split(".")[0] in UNSAFE_MODULES]
    for name, node in source.calls():
        if name in (
            "torch.load",
            "torch.save",
            "eval",
            "exec",
            "np.load",
            "numpy.load",
            "yaml.unsafe_load",
            "yaml.full_load",
        ):
            faults.append(f"line {node.lineno}: {name}")
        for keyword in node.keywords:
            if keyword.arg == "trust_remote_code" and not (
                isinstance(keyword.value, ast.Constant) and keyword.value.value is False
            ):
                faults.append(f"line {node.lineno}: trust_remote_code")
    return faults


def writes_outside_files(source: Source) -> list[str]:
    if source.path == "files.py":
        return []
    faults = []
    for name, node in source.calls():
        last = name.rsplit(".", 1)[-1]
        if last in ("write_text", "write_bytes") and name not in ("write_text", "files.write_text"):
            faults.append(f"line {node.lineno}: {name}")
        modes = [a.value for a in (*node.args, *(k.value for k in node.keywords)) if isinstance(a, ast.Constant)]
        if last == "open" and any(isinstance(m, str) and m[:1] in ("w", "a", "x") and len(m) <= 3 for m in modes):
            faults.append(f"line {node.lineno}: {name} for writing")
    return faults


def architecture_names(source: Source) -> list[str]:
    """String constants and identifiers that are an architecture's name; docstrings may mention them."""
    # models/tiny writes the configuration of the one base that the package itself pre-trains
    if source.path in ("models/families.py", "models/refused.py") or source.path.startswith("models/tiny/"):
        return []
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(source.tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    faults = []
    for node in ast.walk(source.tree):
        word = ""
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            word = node.value
        elif isinstance(node, ast.Name):
            word = node.id
        elif isinstance(node, ast.Attribute):
            word = node.attr
        if word.lower() in ARCHITECTURES or word.lower().startswith(tuple(f"{name}for" for name in ARCHITECTURES)):
            faults.append(f"line {node.lineno}: {word}")
    return faults


def upward_root_imports(source: Source) -> list[str]:
    """The package's root re-exports everything, so a module that imports it imports upwards."""
    if source.room in ("cli", "__main__", "__init__"):
        return []
    return [
        f"line {node.lineno}: {ast.unparse(node)}"
        for node in ast.walk(source.tree)
        if (isinstance(node, ast.Import) and any(alias.name == "tunewise" for alias in node.names))
        or (
            isinstance(node, ast.ImportFrom)
            and node.module == "tunewise"
            and any(a.name[:1].isupper() for a in node.names)
        )
    ]


Check = Callable[[Source], list[str]]

# check -> a file with exactly one fault of its kind
PLANTED: dict[Check, Source] = {
    long_files: Source("data/a.py", "x = 1\n" * 401),
    long_method_files: Source("methods/prompt/a.py", "x = 1\n" * 121),
    long_functions: Source("data/a.py", "def f():\n" + "    x = 1\n" * 60),
    many_parameters: Source("data/a.py", "class A:\n    def f(self, a, b, c, d, e, f, g, h, *, i): ..."),
    catch_all_names: Source("data/text_utils.py", ""),
    bare_kwargs: Source("data/a.py", "def f(**kwargs): ..."),
    duck_dispatch: Source("data/a.py", "getattr(a, 'b')\nx = getattr(a, 'b', None)"),
    method_names_compared: Source("train/a.py", "if recipe.method.name == 'lora': ..."),
    hidden_imports: Source("data/a.py", "def f():\n    from math import pi\n    return pi"),
    unsafe_loading: Source("models/a.py", "m = load(name, trust_remote_code=True)"),
    writes_outside_files: Source("run.py", "with open(path, 'w') as out: ...\nopen(path)"),
    architecture_names: Source("methods/a.py", "'''llama'''\nif kind == 'gpt2': ..."),
    upward_root_imports: Source("run.py", "import tunewise\nimport tunewise.data"),
}


@pytest.mark.parametrize("check", PLANTED, ids=lambda check: check.__name__)
def test_the_package_keeps_the_limit(check: Check) -> None:
    assert len(SOURCES) >= 40, f"only {len(SOURCES)} files found in {PACKAGE}"
    assert sum(1 for source in SOURCES for _ in source.functions()) >= 150
    faults = [f"{source.path}: {fault}" for source in SOURCES for fault in check(source)]
    assert not faults, "\n" + "\n".join(faults)


@pytest.mark.parametrize("check", PLANTED, ids=lambda check: check.__name__)
def test_the_check_sees_a_planted_fault(check: Check) -> None:
    assert len(check(PLANTED[check])) == 1
    assert not check(Source("data/clean.py", '"""Nothing wrong here."""\n\n\ndef f(a: int) -> int:\n    return a\n'))


@pytest.mark.parametrize(
    "text", ["import pickle", "from pickle import loads", "torch.load(p)", "f(trust_remote_code=flag)", "eval(text)"]
)
def test_each_unsafe_way_of_loading_is_seen(text: str) -> None:
    assert len(unsafe_loading(Source("models/a.py", text))) >= 1


def test_the_middle_file_is_short() -> None:
    lengths = [n_lines(source) for source in SOURCES if n_lines(source) > 5]
    assert len(lengths) >= 40
    assert statistics.median(lengths) <= MEDIAN_LINES, sorted(lengths)


def test_every_folder_of_methods_is_watched() -> None:
    n_files = {folder: sum(source.path.startswith(folder) for source in SOURCES) for folder in METHOD_FOLDERS}
    assert min(n_files.values()) >= 4, n_files
    assert sum(n_files.values()) >= 30
    assert sum(source.path.startswith("methods/") and source.path.count("/") == 2 for source in SOURCES) == sum(
        n_files.values()
    ), "a folder below methods/ has no limit"


def test_every_architecture_of_the_table_is_watched() -> None:
    """The list above must not fall behind the rows of the anatomy."""
    anatomy = (PACKAGE / "models" / "families.py").read_text("utf-8")
    assert sum(name in anatomy for name in ARCHITECTURES) >= 8
