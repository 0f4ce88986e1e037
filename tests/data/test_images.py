"""Folders of images by class, split already or not."""

from pathlib import Path

import pytest

from tests.small_base import write_pictures
from tunewise.data.load import load_task
from tunewise.errors import UserError


@pytest.mark.parametrize("dev", ["dev", "valid", "validation", "val"])
def test_the_folder_of_dev_goes_by_any_of_the_names_that_a_file_of_it_has(dev: str, tmp_path: Path) -> None:
    for name, n in (("train", 6), (dev, 2), ("test", 3)):
        write_pictures(tmp_path / name, n)
    task = load_task(tmp_path)
    assert [len(part) for part in (task.train, task.dev, task.test)] == [12, 4, 6]
    assert {Path(example.image).parts[-3] for example in task.dev} == {dev}


def test_two_folders_of_dev_are_refused(tmp_path: Path) -> None:
    for name in ("train", "val", "validation"):
        write_pictures(tmp_path / name, 3)
    with pytest.raises(UserError, match="validation and val for one part"):
        load_task(tmp_path)
