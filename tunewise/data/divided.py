"""The rows of a source as they were read, by the split that they fall into, for training elsewhere on the same."""

import json

from tunewise.data.benchmarks import is_benchmark
from tunewise.data.build import ids_of
from tunewise.data.config import DataConfig
from tunewise.data.found import find
from tunewise.data.images import is_image_folder
from tunewise.data.load import load_task
from tunewise.data.readers import Row
from tunewise.data.sources import open_source, stem_of
from tunewise.data.streamed import Streamed
from tunewise.data.task import Task
from tunewise.errors import UserError

REJECTED = "rejected"


def divided(config: DataConfig) -> tuple[dict[str, list[dict]], Task]:
    """(train, dev, test and rejected -> their rows, in their own order; the task). Every row is in one of them.

    UserError for what has splits of its own already: an embedded task, a task folder, a benchmark, images; and for a
    mixture, whose sources are split one by one.
    """
    if config.mixture is not None:
        raise UserError(f"{config.path} is a mixture", f"split its sources: {' '.join(config.mixture.sources)}")
    if config.train or config.few_shot or config.replay:
        raise UserError("data.train, data.few_shot and data.replay change no split", "leave them out")
    place = find(config.path)
    if is_benchmark(config.path) or (place / "task.yaml").is_file() or (place.is_dir() and is_image_folder(place)):
        raise UserError(
            f"{config.path} is no source of rows that can be written out", "name a file, or a folder with some"
        )
    task = load_task(config)
    parts = {"train": task.train, "dev": task.dev, "test": task.test}
    part_of = {example.id: part for part, examples in parts.items() for example in examples}
    rows: dict[str, list[dict]] = {part: [] for part in (*parts, REJECTED)}
    # big files beside others name their rows so, whatever ids of their own these have
    by_line = isinstance(task.train, Streamed) and not task.train.source.has_own_ids
    taken: set[str] = set()
    for table in open_source(config).tables:
        stem = stem_of(table.name)
        ids = [f"{stem}:{row.line}" for row in table.rows] if by_line else ids_of(table.rows, stem, taken)
        taken.update(ids)
        for identity, row in zip(ids, table.rows, strict=True):
            rows[part_of.get(identity, REJECTED)].append(_written(row, table.name))
    return rows, task


def _written(row: Row, name: str) -> dict:
    """The row as JSON can write it: dates and decimal numbers of a parquet file as text."""

    def as_text(value: object) -> str:
        if isinstance(value, bytes):
            raise UserError(
                f"{name}, row {row.line} holds {len(value)} bytes, which are no text", "leave that column out"
            )
        return str(value)

    return json.loads(json.dumps(row.value, default=as_text))
