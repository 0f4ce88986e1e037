"""Rows that need the extra `data`: data sets of the Hugging Face hub, folders that `datasets` saved, parquet files."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunewise.data.messages import json_of
from tunewise.data.readers import Row, row_of
from tunewise.errors import UserError, missing

if TYPE_CHECKING:
    from datasets import Dataset

INSTALL = "pip install 'tunewise[data]'"
SAVED_SPLITS, SAVED = "dataset_dict.json", "state.json"
"""By which a folder of `save_to_disk` is known: that of several splits, and that of one."""
IN_THE_CACHE = "configurations in the cache"
"""Of the error of `datasets` that several were prepared and none was named."""


def hub_rows(repository: str, config: str, split: str) -> list[Row]:
    """The rows of one split, classes as their ids; UserError where `datasets` is not installed or finds none."""
    (found,) = _fetched(repository, config, "", [split], "name a folder with its files: data.folder=FOLDER").values()
    return _rows(repository, found, {})


def hub_splits(spec: str, splits: Sequence[str]) -> dict[str, list[Row]]:
    """The rows of the splits (those named, or all) of OWNER/NAME, OWNER/NAME:CONFIG or either @REVISION.

    Classes are told by their names. A split may be a slice, as in train[:1000]. UserError as above.
    """
    whole, _, revision = spec.partition("@")
    repository, _, config = whole.partition(":")
    if not repository:
        raise UserError(f"hf:{spec} names no data set", "write hf:OWNER/NAME or hf:OWNER/NAME:CONFIG")
    found = _fetched(repository, config, revision, splits, "fetch its files and name their folder instead")
    return {split: _rows(spec, each, each.features.to_dict()) for split, each in found.items()}


def saved_splits(folder: Path) -> dict[str, list[Row]]:
    """The rows of each split of a folder that `save_to_disk` wrote; the split of a data set without any is ""."""
    try:
        from datasets import DatasetDict, load_from_disk
    except ImportError:
        raise _not_installed(str(folder), "datasets", "save it as jsonl: dataset.to_json(FILE)") from None
    try:
        found = load_from_disk(str(folder))
        splits = {str(name): each for name, each in found.items()} if isinstance(found, DatasetDict) else {"": found}
    except _refused_by_datasets() as error:
        raise UserError(
            f"cannot read {folder}: {_one_line(error)}", "save it again: dataset.save_to_disk(FOLDER)"
        ) from None
    return {name: _rows(folder, each, each.features.to_dict()) for name, each in splits.items()}


def parquet_rows(path: Path, class_names: bool = True) -> list[Row]:
    """The rows of a parquet file; errors as in `each_parquet_row`."""
    return list(each_parquet_row(path, class_names))


def each_parquet_row(path: Path, class_names: bool = True) -> Iterator[Row]:
    """One row of a parquet file after the other; UserError where pyarrow is not installed or cannot read it.

    Where `datasets` wrote the file it knows the names of classes, which are told in place of their ids.
    """
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise _not_installed(str(path), "pyarrow", "convert it to jsonl") from None
    if not path.is_file():
        raise missing(path)
    n_rows = 0
    try:
        with ParquetFile(path) as table:
            classes = _classes(_features_of(table.schema_arrow.metadata or {})) if class_names else {}
            for batch in table.iter_batches(1000):
                batch.validate(full=True)  # what is damaged inside ends the process when it is read
                for line, row in enumerate(batch.to_pylist(), start=n_rows + 1):
                    yield _row(path, line, row, classes)
                n_rows += len(batch)
    except (OSError, ArrowException, ValueError) as error:
        raise UserError(f"cannot read {path}: {_one_line(error)}", "is it a whole parquet file?") from None


def is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` wrote this folder."""
    return (folder / SAVED_SPLITS).is_file() or (
        (folder / SAVED).is_file() and (folder / "dataset_info.json").is_file()
    )


def _fetched(
    repository: str, config: str, revision: str, splits: Sequence[str], otherwise: str
) -> Mapping[str, Dataset]:
    try:
        import datasets  # noqa: F401
    except ImportError:
        raise _not_installed(f"{config} of {repository}" if config else repository, "datasets", otherwise) from None
    from tunewise import hub

    try:
        with _offline_unless_the_hub_answers():
            try:
                found = _loaded(repository, config or None, splits, revision or None)
            except ValueError as error:
                if config or hub.answers() or IN_THE_CACHE not in str(error):
                    raise
                found = _loaded(repository, "default", splits, revision or None)  # which no name stands for
        _refuse_another_revision(repository, revision, found)
        return found
    except _refused_by_datasets() as error:
        what = " of ".join(filter(None, (", ".join(splits), config, repository)))
        told, hint = _in_words(error, repository, revision)
        raise UserError(f"cannot fetch {what}: {told}", hint or f"without a network, {otherwise}") from None


def _loaded(repository: str, name: str | None, splits: Sequence[str], revision: str | None) -> Mapping[str, Dataset]:
    from datasets import load_dataset

    if splits:
        found = load_dataset(repository, name, split=list(splits), revision=revision)
        return dict(zip(splits, found, strict=True))
    return {str(split): each for split, each in load_dataset(repository, name, revision=revision).items()}


@contextmanager
def _offline_unless_the_hub_answers() -> Iterator[None]:
    """Without an answer, `datasets` takes from its cache what is there: by itself it tries again for half a minute."""
    from datasets import config
    from huggingface_hub import constants

    from tunewise import hub

    were = config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    if not hub.answers():
        config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = were


def _refuse_another_revision(repository: str, revision: str, found: Mapping[str, Dataset]) -> None:
    """Without the hub `datasets` takes what it prepared last, whichever revision that was of."""
    from tunewise import hub

    if hub.answers() or not revision:
        return
    commits = {Path(file["filename"]).parent.name for each in found.values() for file in each.cache_files}
    fetched = hub.folder_in_the_cache(repository, revision, "dataset")
    if fetched is None or commits != {fetched.name}:
        raise FileNotFoundError(f"{hub.why_not_asked()}, and its rows at {revision} were not downloaded before")


def _in_words(error: Exception, repository: str, revision: str) -> tuple[str, str]:
    """What the hub refused, and what to do about it; where it was not the hub, what `datasets` says, and no hint."""
    from tunewise import hub

    if Path(repository).is_dir():  # which `datasets` loads too
        return _one_line(error)[:300], ""
    if not hub.answers():
        if "configs in the cache" in str(error):
            return f"{hub.why_not_asked()}. {_one_line(error)}", f"name one of them: --data hf:{repository}:CONFIG"
        known = _one_line(error) if hub.why_not_asked() in str(error) else ""
        return known or f"{hub.why_not_asked()}, and it was not downloaded before", ""
    refused = hub.why_refused(repository, revision, "dataset")
    return (refused.message, refused.hint) if refused is not None else (_one_line(error)[:300], "")


def _refused_by_datasets() -> tuple[type[Exception], ...]:
    from datasets.exceptions import DatasetsError
    from pyarrow import ArrowException

    return OSError, ValueError, KeyError, TypeError, RuntimeError, DatasetsError, ArrowException


def _rows(source: str | Path, data: Dataset, features: Mapping[str, Any]) -> list[Row]:
    """Every row; UserError for files that are damaged inside."""
    try:
        return list(_each_row(source, data, _classes(features)))
    except _refused_by_datasets() as error:
        hint = "fetch it again, or save it again: dataset.save_to_disk(FOLDER)"
        raise UserError(f"cannot read {source}: {_one_line(error)}", hint) from None


def _each_row(source: str | Path, data: Dataset, classes: Mapping[str, Sequence[str]]) -> Iterator[Row]:
    line = 0
    # as arrow, so that images and sounds are not decoded
    for table in data.with_format("arrow").iter(batch_size=1000):
        table.validate(full=True)  # as above
        for row in table.to_pylist():
            line += 1
            yield _row(source, line, row, classes)


def _row(source: str | Path, line: int, row: dict[str, Any], classes: Mapping[str, Sequence[str]]) -> Row:
    return row_of(source, line, {name: named(value, classes.get(name, ())) for name, value in row.items()})


def named(value: Any, names: Sequence[str]) -> Any:
    """Class ids as names; nothing for -1, which is how the hub writes that a class is not told."""
    if not names:
        return value
    if isinstance(value, list):
        return [named(item, names) for item in value]
    if isinstance(value, int):
        return names[value] if 0 <= value < len(names) else None
    return value


def class_names(data: object) -> dict[str, Sequence[str]]:
    """Column -> names of its classes, of a data set that `datasets` holds; {} of anything else. Nothing is imported."""
    datasets = sys.modules.get("datasets")  # who has such a data set has imported it
    if datasets is None or not isinstance(data, datasets.Dataset | datasets.IterableDataset) or data.features is None:
        return {}
    return _classes(data.features.to_dict())


def _classes(features: Mapping[str, Any]) -> dict[str, Sequence[str]]:
    """Column -> names of its classes, of columns of a class or of a list of them."""
    inner = {name: each.get("feature", each) for name, each in features.items() if isinstance(each, dict)}
    return {name: each["names"] for name, each in inner.items() if isinstance(each, dict) and "names" in each}


def _features_of(metadata: Mapping[bytes, bytes]) -> Mapping[str, Any]:
    """The columns as `datasets` describes them in a parquet file's own metadata."""
    told = json_of(metadata.get(b"huggingface", b"").decode(errors="replace"), {})
    features = told.get("info", {}).get("features", {}) if isinstance(told, dict) else {}
    return features if isinstance(features, dict) else {}


def _not_installed(what: str, package: str, otherwise: str) -> UserError:
    return UserError(f"{what} is read by the package {package}, which is not installed", f"{INSTALL}, or {otherwise}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
