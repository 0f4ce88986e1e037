"""What `data.path` names -> tables of rows: a file, a folder with a file for each split, aligned texts, a data set."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tunewise.data.config import DataConfig
from tunewise.data.hub import hub_splits, is_saved, parquet_rows, saved_splits
from tunewise.data.images import image_files, is_image_folder
from tunewise.data.plain_text import Unit, unit_of
from tunewise.data.readers import SUFFIXES, Empty, Row, read_rows, suffix_of, text_of
from tunewise.data.splits import SPLITS
from tunewise.errors import UserError, missing, unknown

FILES = (*SUFFIXES, ".parquet")
HUB = "hf:"
SHARD = "-[0-9]*-of-[0-9]*"
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?(@[\w.-]+)?")


@dataclass(frozen=True)
class Table:
    """Rows of one place: a file, a shard or a split. `part` is train, dev or test; "" for rows that are to be split."""

    part: str
    name: str
    rows: list[Row]


@dataclass(frozen=True)
class Source:
    """The rows that a configuration names, and the configuration with what the place itself says of its columns."""

    tables: tuple[Table, ...]
    config: DataConfig
    told: str = ""
    """What was chosen on the way, and how to choose otherwise."""

    @property
    def rows(self) -> list[Row]:
        """All of them."""
        return [row for table in self.tables for row in table.rows]


def open_source(config: DataConfig) -> Source:
    """The rows that `config.path` names; UserError where it has no split that serves as train."""
    if config.rows and (config.path.startswith(HUB) or aligned_files(config.path) or is_saved(Path(config.path))):
        raise UserError(f"data.rows changes nothing: {config.path} is no text file", "leave it out")
    if config.path.startswith(HUB):
        return _of_splits(hub_splits(config.path.removeprefix(HUB), list(config.splits.values())), config)
    if aligned := aligned_files(config.path):
        if config.splits:
            raise UserError(f"data.splits changes nothing: {config.path} is two files of one split", "leave it out")
        return _of_aligned(aligned, config)
    path = Path(config.path)
    if not path.is_dir():
        if config.splits:
            raise UserError(f"data.splits changes nothing: {path} is one file", "leave it out, or name its folder")
        rows, told = _of_file(path, config)
        return Source((Table("", path.name, rows),), config, told)
    if is_saved(path):
        return _of_splits(saved_splits(path), config)
    tables = []
    told = ""
    for part, files in split_files(path, {**config.splits}).items():
        for file in files:
            try:
                rows, told = _of_file(file, config)
            except Empty as error:
                if part == "train":
                    raise
                taken = f"remove it, and a part of train becomes {part} (data.split)"
                raise Empty(error.message, f"put the {part} rows into it; or {taken}") from None
            tables.append(Table(part, file.name, rows))
    return Source(tuple(tables), config, told)


def single_files(config: DataConfig) -> dict[str, Path]:
    """Part -> its one file, "" for a file that is to be split; {} where rows lie in shards, a data set or two files."""
    path = Path(config.path)
    if config.path.startswith(HUB) or aligned_files(config.path) or (path.is_dir() and is_saved(path)):
        return {}
    if not path.is_dir():
        return {} if config.splits else {"": path}
    found = split_files(path, {**config.splits})
    return {part: files[0] for part, files in found.items()} if all(len(files) == 1 for files in found.values()) else {}


def read_file(path: Path, unit: Unit | None = None) -> list[Row]:
    """The rows of a file of any kind that is known."""
    return parquet_rows(path) if path.suffix.lower() == ".parquet" else read_rows(path, unit)


def split_files(folder: Path, named: Mapping[str, str]) -> dict[str, list[Path]]:
    """The folder's files for train, dev and test, or for those that `named` renames; train at least.

    A file such as train.jsonl or train.csv.gz, or shards such as train-00000-of-00002.parquet, there or in its folder
    data/. UserError for two files of one split.
    """
    wanted = {part: (name,) for part, name in named.items()} if named else SPLITS
    files = {part: found for part, names in wanted.items() if (found := files_of(folder, names, part))}
    if missing_parts := [part for part in named if part not in files]:
        raise UserError(f"{folder} has no file for {named[missing_parts[0]]}", f"there are {_inside(folder)}")
    if "train" not in files:
        raise UserError(
            f"{folder} has neither a task.yaml nor a train file (train.csv, train.jsonl, train.parquet, ...)",
            f"name one of its files: {_inside(folder)}" if _inside(folder) else "it is empty",
        )
    return files


def files_of(folder: Path, names: Sequence[str], part: str) -> list[Path]:
    """The one file of this split under any of its names, or its shards in their order; UserError for two files."""
    places = [folder, folder / "data"]
    for place in places:
        whole = [place / f"{name}{suffix}{packed}" for name in names for suffix in FILES for packed in ("", ".gz")]
        found = [file for file in whole if file.is_file()]
        if len(found) > 1:
            raise UserError(f"{folder} has {found[0].name} and {found[1].name} for {part}", "keep one of them")
        shards = [file for name in names for file in sorted(place.glob(f"{name}{SHARD}")) if suffix_of(file) in FILES]
        if found or shards:
            return found or shards
    return []


def aligned_files(path: str) -> tuple[Path, ...]:
    """The two files of FILE,FILE; () for a path that is none of this kind."""
    parts = [Path(part.strip()) for part in path.split(",")]
    return tuple(parts) if len(parts) == 2 and not Path(path).exists() else ()


def files_at(path: str) -> list[Path]:
    """The files that a path's rows come from, by which a change is noticed; none of a data set on the hub.

    Of a folder those that could be read as its rows, and not whatever lies below it, such as runs.
    """
    if path.startswith(HUB):
        return []
    if aligned := aligned_files(path):
        return list(aligned)
    place = Path(path)
    if not place.is_dir():
        return [place]
    if is_saved(place):
        return sorted(file for file in place.rglob("*") if file.is_file())
    if (place / "task.yaml").is_file() or not is_image_folder(place):
        inside = sorted((*place.glob("*"), *place.glob("data/*")))
        return [file for file in inside if file.name == "task.yaml" or suffix_of(file) in FILES]
    return image_files(place)


def name_of(path: str) -> str:
    """What a task of these rows is called, fit for the name of a folder. Nothing is read."""
    if path.startswith(HUB):
        return re.sub(r"[^\w.-]+", "-", Path(path.removeprefix(HUB)).name)
    if aligned := aligned_files(path):
        return "-".join(_apart([file.name for file in aligned]))
    place = Path(path)
    return place.resolve().name if place.is_dir() else stem_of(place.name)


def stem_of(name: str) -> str:
    """The name of a file without what tells its kind: rows of rows.jsonl.gz; that of a split as it is."""
    return name.removesuffix(".gz").removesuffix(suffix_of(Path(name)))


def missing_source(path: str) -> UserError:
    """The error for a path that is not there, with the name on the hub that may have been meant; to be raised."""
    error = missing(path)
    if HUB_NAME.fullmatch(path) and not Path(path).parent.is_dir() and Path(path).suffix not in FILES:
        return UserError(error.message, f"for the data set of that name on the Hugging Face hub write {HUB}{path}")
    return error


def _of_file(path: Path, config: DataConfig) -> tuple[list[Row], str]:
    """The rows, and what was taken as one of them where that was chosen here."""
    if suffix_of(path) != ".txt":
        if config.rows:
            raise UserError(f"data.rows changes nothing: {path} is no text file", "leave it out")
        return read_file(path), ""
    if config.rows:
        return read_file(path, config.rows), ""
    unit = unit_of(text_of(path))
    other = "lines" if unit == "paragraphs" else "paragraphs"
    return read_file(path, unit), f"; its {unit} are the rows, data.rows={other} takes {other}"


def _of_splits(found: Mapping[str, list[Row]], config: DataConfig) -> Source:
    """Named splits as train, dev and test; one alone is split here."""
    if config.splits:
        if lacking := [name for name in config.splits.values() if name not in found]:
            raise unknown(f"split of {config.path}", lacking[0], found)
        parts: dict[str, str] = {**config.splits}
    elif len(found) == 1:
        parts = {"": next(iter(found))}
    else:
        parts = {part: name for part, names in SPLITS.items() for name in names if name in found}
    if not {"train", ""} & parts.keys():
        first = next(iter(found), "NAME")
        raise UserError(
            f"{config.path} has the splits {', '.join(found)}, none of them train",
            f"say which serves as what: data.splits.train={first}",
        )
    left = [name for name in found if name not in parts.values()]
    tables = tuple(Table(part, name or Path(config.path).name, found[name]) for part, name in parts.items())
    for table in tables:
        if not table.rows:
            raise UserError(f"{config.path} has no rows in {table.name}", "name other splits: data.splits.train=NAME")
    return Source(tables, config, f"; not read: {', '.join(left)}" if left else "")


def _of_aligned(files: tuple[Path, ...], config: DataConfig) -> Source:
    """Line for line the rows of two files, which are their columns; unless told otherwise the second is the answer."""
    lines = [text_of(file).removesuffix("\n").split("\n") for file in files]
    if len(lines[0]) != len(lines[1]):
        raise UserError(
            f"{files[0]} has {len(lines[0])} lines, {files[1]} has {len(lines[1])}",
            "lines of aligned files translate each other one by one; align them first",
        )
    names = _apart([file.name for file in files])
    rows = [
        Row(number, {name: text.strip() for name, text in zip(names, pair, strict=True)})
        for number, pair in enumerate(zip(*lines, strict=True), start=1)
    ]
    if not (config.prompt or config.completion):
        config = config.model_copy(update={"prompt": names[0], "completion": names[1]})
    return Source((Table("", files[0].name, rows),), config)


def _apart(names: Sequence[str]) -> list[str]:
    """What tells two names of files apart: en and nb of train.en and train.nb, or of en.txt and nb.txt."""
    parts = [name.split(".") for name in names]
    own = [".".join(part for part in mine if part not in other) for mine, other in zip(parts, parts[::-1])]
    return own if all(own) and own[0] != own[1] else ["first", "second"]


def _inside(folder: Path) -> str:
    return ", ".join(sorted(file.name for file in folder.iterdir())[:8])
