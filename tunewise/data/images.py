"""Folders of images -> examples: one folder a class, below train, dev and test where the data is split already."""

import hashlib
from pathlib import Path

from tunewise.data.examples import Example, Part
from tunewise.data.splits import SPLITS
from tunewise.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")


def is_image_folder(folder: Path) -> bool:
    """Whether the folders in `folder`, or those in its train folder, hold images."""
    return any(_classes(folder)) or any(_classes(folder / "train"))


def image_files(folder: Path) -> list[Path]:
    """Those that `read_images` could read."""
    below = (file for depth in ("*/*", "*/*/*") for file in folder.glob(depth))
    return sorted(file for file in below if file.suffix.lower() in SUFFIXES)


def read_images(folder: Path) -> dict[str, list[Example]]:
    """train, dev and test (or "" for images that are not split yet) -> examples, by the names of files.

    A text stands in for the image where texts are compared (splits, leaks): a digest of the file, so that one picture
    under two names counts as one. UserError for two folders of one part.
    """
    there = {part: [name for name in names if _classes(folder / name)] for part, names in SPLITS.items()}
    if twice := next((names for names in there.values() if len(names) > 1), None):
        raise UserError(f"{folder} has {twice[0]} and {twice[1]} for one part", "keep one of them")
    found = {part: _examples(folder / names[0], folder) for part, names in there.items() if names}
    return found if "train" in found else {"": _examples(folder, folder)}


def _classes(folder: Path) -> list[Path]:
    """The folders right below that hold images, by name."""
    inside = sorted(each for each in folder.iterdir() if each.is_dir()) if folder.is_dir() else []
    return [each for each in inside if any(file.suffix.lower() in SUFFIXES for file in each.iterdir())]


def _examples(part: Path, folder: Path) -> list[Example]:
    examples: list[Example] = []
    for place in _classes(part):
        for file in sorted(place.iterdir()):
            if file.suffix.lower() in SUFFIXES:
                digest = hashlib.sha256(file.read_bytes()).hexdigest()
                parts = (Part(digest, False), Part(place.name, True))
                name = file.relative_to(folder).as_posix()
                examples.append(Example(name, parts, place.name, len(examples) + 1, image=str(file)))
    return examples
