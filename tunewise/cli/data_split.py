"""`tunewise data split`: a source's rows, unchanged, as one file a split."""

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from tunewise.cli.console import AsJson, print_json, results
from tunewise.cli.recipes import gather


def split(
    source: Annotated[str, typer.Argument(help="A file of rows, a folder with some, or hf:OWNER/NAME.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder for the files.", show_default=False)],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Fields of the data, such as data.group=author.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write train.jsonl, dev.jsonl and test.jsonl as `train` would split them, each row as it was read."""
    from rich.table import Table

    from tunewise import files
    from tunewise.config import parse
    from tunewise.data.config import DataConfig
    from tunewise.data.divided import divided

    recipe = gather(overrides or [], {"data": source})
    rows, task = divided(parse(DataConfig, recipe["data"], where="data"))
    with files.folder(out) as new:
        for part, values in rows.items():
            if values:
                files.write_jsonl(new / f"{part}.jsonl", values)
    labels = {
        part: dict(Counter(example.label for example in getattr(task, part) if example.label is not None))
        for part in ("train", "dev", "test")
    }
    if as_json:
        print_json({"rows": {part: len(values) for part, values in rows.items()}, "labels": labels, "folder": str(out)})
        return
    results().print(task.ledger.detected, soft_wrap=True, markup=False)
    table = Table("split", "rows", *task.labels[:12], box=None)
    for part, values in rows.items():
        counts = [str(labels[part].get(label, 0)) if part in labels else "" for label in task.labels[:12]]
        table.add_row(part, str(len(values)), *counts)
    results().print(table)
    results().print(f"wrote {out}", soft_wrap=True)
