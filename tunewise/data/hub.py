"""Rows that need the extra `data`: those of a data set on the Hugging Face hub, and of a parquet file."""

from pathlib import Path

from tunewise.data.readers import Row, fields_of
from tunewise.errors import UserError, missing

INSTALL = "pip install 'tunewise[data]'"


def hub_rows(repository: str, config: str, split: str) -> list[Row]:
    """The rows of one split, as those of a file; UserError where `datasets` is not installed or finds none."""
    try:
        from datasets import load_dataset
        from datasets.exceptions import DatasetsError
    except ImportError:
        raise UserError(
            f"{config} of {repository} is read by the package datasets, which is not installed",
            f"{INSTALL}, or name a folder with its files: data.folder=FOLDER",
        ) from None
    try:
        found = load_dataset(repository, config, split=split)
    except (OSError, ValueError, DatasetsError) as error:
        raise UserError(
            f"cannot fetch {split} of {config} of {repository}: {' '.join(str(error).split())[:200]}",
            "without a network, name a folder with its files: data.folder=FOLDER",
        ) from None
    return [Row(line, fields_of(repository, line, row)) for line, row in enumerate(found, start=1)]


def parquet_rows(path: Path) -> list[Row]:
    """The rows of a parquet file; UserError where pyarrow is not installed or cannot read it."""
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import read_table
    except ImportError:
        raise UserError(
            f"{path} is read by the package pyarrow, which is not installed", f"{INSTALL}, or convert it to jsonl"
        ) from None
    if not path.is_file():
        raise missing(path)
    try:
        rows = read_table(path).to_pylist()
    except (OSError, ArrowException) as error:
        raise UserError(f"cannot read {path}: {error}", "is it a parquet file?") from None
    return [Row(line, fields_of(path, line, row)) for line, row in enumerate(rows, start=1)]
