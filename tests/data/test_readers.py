"""Rows of csv, tsv, json and jsonl as people have them, each with its line."""

import csv
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunewise.data.readers import Row, columns, read_rows, require
from tunewise.errors import UserError


@pytest.fixture
def rows_of(tmp_path):
    def read(name: str, content: str | bytes) -> list[Row]:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_rows(path)

    return read


def test_csv_with_a_header_and_quotes_over_lines(rows_of):
    rows = rows_of("a.csv", 'text,label\r\n"one, two",ham\r\n\r\n"three\r\nfour ""five""",spam\r\nsix,ham\r\n')
    assert rows == [
        Row(2, {"text": "one, two", "label": "ham"}),
        Row(4, {"text": 'three\r\nfour "five"', "label": "spam"}),
        Row(6, {"text": "six", "label": "ham"}),
    ]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_csv_cut_by_semicolon_or_tab(rows_of, separator):
    rows = rows_of("a.csv", f"text{separator}label\na{separator}b\n")
    assert rows == [Row(2, {"text": "a", "label": "b"})]


def test_a_byte_order_mark_is_not_part_of_the_first_name(rows_of):
    assert columns(rows_of("a.csv", b"\xef\xbb\xbftext,label\na,b\n")) == ["text", "label"]


@pytest.mark.parametrize(
    ("content", "header"),
    [
        ("ham\tGo until jurong point, crazy.. Available\nspam\tFree entry\nham\tok\n", False),
        ("ham\tok\nspam\tFree entry\nham\tok lar\n", False),
        ("sms\tkind\nFree entry\tspam\nok lar\tham\n", True),
        ("text\tlabel\ntext\tlabel\n", True),
        ("one sentence .\tanother sentence .\t1\nthird\tfourth\t0\n", False),
        ("1\t2\n3\t4\n", False),
        ("a\ta\nb\tc\n", False),
    ],
)
def test_header_or_not(rows_of, content, header):
    rows = rows_of("a.tsv", content)
    assert columns(rows)[0] == (content.split("\t")[0] if header else "column1")
    assert len(rows) == content.count("\n") - header
    assert rows[0].line == 1 + header


def test_quotes_in_a_tsv_are_ordinary_characters(rows_of):
    rows = rows_of("a.tsv", 'label\ttext\nham\t"Hi there\nspam\tsay "yes" now\n')
    assert [row.fields["text"] for row in rows] == ['"Hi there', 'say "yes" now']


def test_a_tsv_with_quoted_tabs_and_line_ends(rows_of):
    rows = rows_of("a.tsv", 'text\tlabel\n"a\tb"\tham\n"c\nd"\tspam\n')
    assert rows == [Row(2, {"text": "a\tb", "label": "ham"}), Row(3, {"text": "c\nd", "label": "spam"})]


def test_a_cell_longer_than_the_csv_modules_limit(rows_of):
    limit = csv.field_size_limit()
    assert len(str(rows_of("a.csv", f"text,label\n{'x' * 200_000},ham\n")[0].fields["text"])) == 200_000
    assert csv.field_size_limit() == limit


def test_jsonl_values_become_text(rows_of):
    rows = rows_of("a.jsonl", '{"text": "a", "label": 1}\n\n{"text": null, "label": true, "x": [1], "y": {"z": 0.5}}\n')
    assert rows == [
        Row(1, {"text": "a", "label": "1"}),
        Row(3, {"text": "", "label": "true", "x": [1], "y": '{"z": 0.5}'}),
    ]


ITEMS = [{"text": "a\u2028b"}, {"text": "]["}, {"text": "c"}]


@pytest.mark.parametrize(
    ("name", "content", "lines"),
    [
        ("a.json", json.dumps(ITEMS, indent=1), [2, 5, 8]),
        ("a.json", json.dumps(ITEMS), [1, 1, 1]),
        ("a.json", json.dumps({"version": 1, "tags": [1], "data": ITEMS}, indent=1), [7, 10, 13]),
        ("a.json", "\n".join(map(json.dumps, ITEMS)), [1, 2, 3]),
        ("a.jsonl", json.dumps(ITEMS, indent=1), [2, 5, 8]),
        ("a.jsonl", "\n".join(json.dumps(item, ensure_ascii=False) for item in ITEMS), [1, 2, 3]),
    ],
)
def test_the_forms_of_json(rows_of, name, content, lines):
    rows = rows_of(name, content)
    assert [row.fields for row in rows] == ITEMS
    assert [row.line for row in rows] == lines


cells = st.text(
    st.characters(blacklist_categories=["Cs"], blacklist_characters="\x00\r"), min_size=1, max_size=12
).filter(str.strip)


@given(st.lists(st.tuples(cells, cells), min_size=1, max_size=6))
@settings(deadline=None, max_examples=60)
def test_what_python_writes_as_csv_is_read_back(tmp_path_factory, pairs):
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "label"])
        writer.writerows(pairs)
    assert [(row.fields["text"], row.fields["label"]) for row in read_rows(path)] == pairs


@pytest.mark.parametrize(
    ("name", "content", "message", "hint"),
    [
        ("a.csv", "", "a.csv is empty", "a few rows"),
        ("a.csv", "\n \n", "a.csv is empty", "a few rows"),
        ("a.csv", "text,label\n", "a.csv has no rows", "a few rows"),
        ("a.csv", ",\n,\n", "a.csv has no rows", "a few rows"),
        ("a.json", "[]", "a.json has no rows", "a few rows"),
        ("a.csv", b"text,label\na,b\nbl\xe5,b\n", "a.csv, line 3: byte 0xe5 is not UTF-8", "iconv -f latin1 -t utf-8"),
        ("a.csv", "text,label\n".encode("utf-16"), "a.csv, line 1: byte 0xff is not UTF-8", "iconv -f utf-16 -t utf-8"),
        ("a.jsonl", b'{"a": 1}\n{"a": "\xff"}\n', "a.jsonl, line 2: byte 0xff is not UTF-8", "iconv"),
        ("a.csv", "text,label\na,b\nc,d,e\n", "a.csv, line 3 has 3 cells, the lines before it have 2", "put quotes"),
        ("a.csv", 'text,label\na,b\n"c,d\ne,f\ng",h,i\n', "a.csv, line 3 has 3 cells", "takes in 2 lines below"),
        ("a.tsv", "text\tlabel\na\tb\nc\n", "a.tsv, line 3 has 1 cells", "holds a tab"),
        ("a.jsonl", '{"a": 1}\n{"a": }\n', "a.jsonl, line 2 is no valid JSON: column 7", "correct line 2"),
        ("a.json", '[\n{"a": 1},\n{"a": }\n]', "a.json, line 3 is no valid JSON: column 7", "correct line 3"),
        ("a.json", '[{"a": 1}', "a.json, line 1 is no valid JSON", "correct line 1"),
        ("a.jsonl", '{"a": 1}\n"b"\n', "a.jsonl, line 2 holds a string, not an object", '{"text": "..."'),
        ("a.json", '{"a": 1}', "a.json holds an object, not rows", "a list of objects"),
        ("a.json", "3", "a.json holds a number, not rows", "a list of objects"),
        ("a.jsonl", '{"a": "\\ud83d"}\n', "a.jsonl, line 1 holds half a surrogate pair", "remove it"),
        ("a.xlsx", "text", "cannot read .*a.xlsx: .xlsx is no kind of file known here", ".csv, .tsv, .jsonl, .json"),
        ("a", "text", "a file without a suffix is no kind of file", "convert it"),
    ],
)  # fmt: skip
def test_bad_files_are_told(rows_of, name, content, message, hint):
    with pytest.raises(UserError, match=message) as error:
        rows_of(name, content)
    assert hint in error.value.hint


def test_an_open_quote_is_told(rows_of):
    with pytest.raises(UserError) as error:
        rows_of("a.csv", 'text,label\na,ham\n"b,ham\nc,spam\n')
    assert "line 3 has 1 cells" in error.value.message


def test_a_missing_file_names_the_nearest(rows_of, tmp_path):
    rows_of("train.csv", "text\na\n")
    with pytest.raises(UserError, match=r"no such file: .*trian.csv") as error:
        read_rows(tmp_path / "trian.csv")
    assert error.value.hint == f"did you mean {tmp_path / 'train.csv'}?"
    (tmp_path / "b.csv").mkdir()
    with pytest.raises(UserError, match="it is a folder"):
        read_rows(tmp_path / "b.csv")


def test_an_unknown_column_names_the_nearest():
    assert require("text", ["text", "label"], "a.csv") == "text"
    with pytest.raises(UserError) as error:
        require("lable", ["text", "label"], "a.csv")
    assert str(error.value) == "no column named 'lable' in a.csv\ndid you mean 'label'? known: text, label"
