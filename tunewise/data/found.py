"""Where a task's file or folder lies."""

from pathlib import Path

from tunewise.data.benchmarks import benchmark_named, is_benchmark
from tunewise.data.sources import HUB, aligned_files, missing_source
from tunewise.errors import UserError, unknown

EMBEDDED = Path(__file__).parent / "embedded"


def find(spec: str) -> Path:
    """Where a task's file or folder lies (rows of a benchmark or of the hub lie elsewhere); UserError if there is none.

    Nothing of it is read.
    """
    if is_benchmark(spec):
        benchmark_named(spec)
    known = sorted(folder.parent.name for folder in EMBEDDED.glob("*/task.yaml"))
    if spec.startswith("tiny:"):
        name = spec.removeprefix("tiny:")
        if name not in known:
            raise unknown("embedded task", name, known)
        return EMBEDDED / name
    path = Path(spec)
    if is_benchmark(spec) or spec.startswith(HUB):
        return path
    for each in aligned_files(spec) or (path,):
        if not each.exists():
            if spec in known:
                raise UserError(f"no such file: {path}", f"did you mean the embedded task tiny:{spec}?")
            raise missing_source(str(each))
        if not (each.is_file() or each.is_dir()):
            raise UserError(f"{each} is neither a file nor a folder", "write its rows into a file, such as rows.jsonl")
    return path
