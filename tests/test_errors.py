"""What a user reads: what was wrong, the value received, the next thing to type."""

import pytest

from tunewise.errors import UserError, missing, nearest, unknown, unreadable


def test_both_lines_are_shown():
    error = UserError("no method named 'lroa'", "did you mean 'lora'?")
    assert str(error) == "no method named 'lroa'\ndid you mean 'lora'?"
    assert (error.message, error.hint) == ("no method named 'lroa'", "did you mean 'lora'?")
    assert str(UserError("it is empty")) == "it is empty"


@pytest.mark.parametrize(
    ("name", "known", "expected"),
    [
        ("lroa", ["lora", "full"], "lora"),
        ("LORA", ["lora", "full"], "lora"),
        ("label", ["Label", "Text"], "Label"),
        ("xyz", ["lora", "full"], ""),
        ("lora", [], ""),
    ],
)
def test_nearest(name, known, expected):
    assert nearest(name, known) == expected


def test_unknown_lists_what_there_is():
    assert str(unknown("method", "lroa", ["lora", "full"])) == (
        "no method named 'lroa'\ndid you mean 'lora'? known: lora, full"
    )
    assert unknown("method", "xyz", ["lora"]).hint == "known: lora"
    assert unknown("method", "xyz", []).hint == "there is no method here at all"


def test_a_missing_file_names_the_nearest_in_its_folder(tmp_path):
    (tmp_path / "reviews.csv").write_text("text,label\n")
    error = missing(tmp_path / "review.csv")
    assert error.message == f"no such file: {tmp_path / 'review.csv'}"
    assert error.hint == f"did you mean {tmp_path / 'reviews.csv'}?"
    assert missing(tmp_path / "q").hint == f"{tmp_path} holds reviews.csv"
    assert missing(tmp_path / "no" / "q").hint == f"its folder {tmp_path / 'no'} does not exist either"


def test_unreadable_tells_line_and_byte():
    try:
        b"a\nb\xe6c".decode()
    except UnicodeDecodeError as error:
        told = unreadable("rows.csv", error)
    assert told.message == "rows.csv, line 2: byte 0xe6 is not UTF-8"
    assert told.hint.startswith("convert it first, for example: iconv -f latin1 -t utf-8 rows.csv")
    assert unreadable("rows", IsADirectoryError()).message == "cannot read rows: it is a folder"
    assert unreadable("rows", PermissionError(13, "Permission denied")).message == "cannot read rows: Permission denied"


def test_a_link_that_leads_nowhere_is_not_its_own_nearest_name(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    error = missing(tmp_path / "loop")
    assert error.message == f"{tmp_path / 'loop'} is a symbolic link that leads nowhere"
    assert error.hint == f"look where it leads: ls -l {tmp_path / 'loop'}"
