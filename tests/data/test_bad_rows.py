"""Bad rows and bad files: every one is rejected with its line or refused with a hint, and the ledger adds up.

A bad row stands first, amid and last among good ones, in jsonl and in json. What Hypothesis writes goes through the
same door.
"""

import gzip
import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.tokenizers_for_tests import bytes_without_begin
from tunewise.data.config import DataConfig
from tunewise.data.encode import encode_all
from tunewise.data.load import load_task
from tunewise.data.task import Task
from tunewise.errors import UserError

NAN, INFINITY = float("nan"), float("inf")
USER, ASSISTANT = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}


def call(arguments: object, name: object = "f") -> dict:
    return {"role": "assistant", "tool_calls": [{"function": {"name": name, "arguments": arguments}}]}


LABELLED = {"text": "text number #", "label": ["ham", "spam"]}
VALUED = {"text": "text number #", "label": ["0.5", "1.5"]}
PROMPTED = {"prompt": "what is #?", "completion": "it is #"}
INSTRUCTED = {"instruction": "do #", "input": "with #", "output": "done #"}
TALKED = {"messages": [{"role": "user", "content": "hi #"}, ASSISTANT]}
WITH_TOOLS = TALKED | {"tools": [{"name": "f"}]}
SHARED = {"conversations": [{"from": "human", "value": "hi #"}, {"from": "gpt", "value": "hello"}]}
PREFERRED = {"prompt": "hi #", "chosen": "hello #", "rejected": "go #"}
PREFERRED_TALKS = {
    "chosen": [{"role": "user", "content": "hi #"}, ASSISTANT],
    "rejected": [{"role": "user", "content": "hi #"}, {"role": "assistant", "content": "no"}],
}
ASKED = {"context": "the boat # is red", "question": "which boat?", "answers": {"text": ["#"]}}
CHOSEN = {"question": "which # is it?", "choices": ["one #", "two #"], "answer": ["0", "1"]}
TAGGED = {"tokens": ["boat", "#"], "tags": ["O", "B-NUM"]}
PAIRED = {"sentence_good": "it is #", "sentence_bad": "it are #"}
PLAIN = {"text": "a line of text, number #"}

# class -> good row, what is wrong with each bad one (None takes the column away), the reason told
BAD_ROWS = {
    "no text": (LABELLED, [{"text": None}], "it has no text in text"),
    "text of nothing": (
        LABELLED,
        [{"text": ""}, {"text": " "}, {"text": "\t\n\r"}, {"text": "\u2003"}],
        "its text is empty",
    ),
    "text that is null": (LABELLED, [{"text": "null"}, {"text": NAN}], "its text is empty"),
    "text of nested things": (
        LABELLED,
        [{"text": [{"a": 1}]}, {"text": [["a"]]}, {"text": [1, None]}],
        "it has no text in text",
    ),
    "no label": (
        LABELLED,
        [{"label": None}, {"label": ""}, {"label": " "}, {"label": "null"}, {"label": NAN}],
        "it has no label",
    ),
    "label of nested things": (LABELLED, [{"label": [1]}, {"label": [{"a": "b"}]}], "it has no label"),
    "value that is no number": (
        VALUED,
        [{"label": "high"}, {"label": INFINITY}, {"label": "1e999"}, {"label": "1,5"}],
        "is no number",
    ),
    "no completion": (PROMPTED, [{"completion": None}], "it has no text in completion"),
    "completion of nothing": (
        PROMPTED,
        [{"completion": ""}, {"completion": "\n"}, {"completion": "null"}],
        "its answer is empty",
    ),
    "prompt of nothing": (PROMPTED, [{"prompt": ""}, {"prompt": " "}, {"prompt": "null"}], "its prompt is empty"),
    "no output": (INSTRUCTED, [{"output": ""}, {"output": "null"}, {"output": " "}], "its answer is empty"),
    "instruction of nothing": (
        INSTRUCTED,
        [{"instruction": "", "input": ""}, {"instruction": " ", "input": "null"}],
        "is empty",
    ),
    "messages of nothing": (
        TALKED,
        [{"messages": None}, {"messages": []}, {"messages": "null"}, {"messages": ""}],
        "no list of messages",
    ),
    "messages that are none": (
        TALKED,
        [{"messages": "hi"}, {"messages": 3}, {"messages": "[{"}],
        "no list of messages",
    ),
    "messages of other things": (
        TALKED,
        [{"messages": ["hi"]}, {"messages": [1]}, {"messages": [[USER]]}],
        "a message is",
    ),
    "unknown role": (
        TALKED,
        [{"messages": [{"role": role, "content": "a"}, ASSISTANT]} for role in ("narrator", "", 3, None, {}, ["user"])],
        "is not supported",
    ),
    "no role": (
        TALKED,
        [{"messages": [{"content": "a"}, ASSISTANT]}, {"messages": [{}, ASSISTANT]}],
        "the role None is not supported",
    ),
    "content of nothing": (
        TALKED,
        [{"messages": [{"role": "user", "content": None}, ASSISTANT]}, {"messages": [{"role": "user"}, ASSISTANT]}],
        "content is None, not text",
    ),
    "content that is no text": (
        TALKED,
        [{"messages": [{"role": "user", "content": it}, ASSISTANT]} for it in (3, True, {"a": 1}, 0.5)],
        "not text",
    ),
    "content of images": (
        TALKED,
        [
            {"messages": [{"role": "user", "content": [{"type": kind}]}, ASSISTANT]}
            for kind in ("image", "image_url", "audio")
        ],
        "only text can be read",
    ),
    "no answer": (
        TALKED,
        [
            {"messages": [USER]},
            {"messages": [USER, {"role": "assistant", "content": ""}]},
            {"messages": [{"role": "system", "content": "a"}]},
        ],
        "no assistant's turn",
    ),
    "answers of no weight": (
        TALKED,
        [{"messages": [USER, ASSISTANT | {"weight": 0}]}, {"messages": [USER, ASSISTANT | {"train": False}]}],
        "no assistant's turn",
    ),
    "call without a name": (
        TALKED,
        [{"messages": [USER, call({}, name)]} for name in (None, 3, ["f"])]
        + [{"messages": [USER, {"role": "assistant", "tool_calls": ["f"]}]}],
        "a tool call is",
    ),
    "call with other arguments": (
        TALKED,
        [{"messages": [USER, call(arguments)]} for arguments in ("{", "[1]", [1], 3, "f(x)")],
        "not a JSON object",
    ),
    "function_call that is none": (
        SHARED,
        [
            {"conversations": [{"from": "human", "value": "a"}, {"from": "function_call", "value": value}]}
            for value in ("f(x)", "{", "[1]")
        ],
        "a tool call is",
    ),
    "function_call of nothing": (
        SHARED,
        [
            {"conversations": [{"from": "human", "value": "a"}, {"from": "function_call", "value": value}]}
            for value in ("", None, "{}", "[]")
        ],
        "calls nothing",
    ),
    "tools that are none": (
        WITH_TOOLS,
        [{"tools": "f"}, {"tools": [1]}, {"tools": [{"description": "a"}]}, {"tools": "{"}],
        "a tool is",
    ),
    "chosen as rejected": (
        PREFERRED_TALKS,
        [{"chosen": [USER, ASSISTANT], "rejected": [USER, ASSISTANT]}],
        "are the same",
    ),
    "chosen of nothing": (PREFERRED, [{"chosen": ""}, {"chosen": "null"}, {"chosen": " "}], "its answer is empty"),
    "rejected that is none": (
        PREFERRED_TALKS,
        [{"rejected": None}, {"rejected": 3}, {"rejected": [{"role": "x", "content": ""}]}],
        "",
    ),
    "no answers": (
        ASKED,
        [{"answers": None}, {"answers": {"text": []}}, {"answers": []}, {"answers": ""}, {"answers": "null"}],
        "its answer is empty",
    ),
    "no context": (ASKED, [{"context": None}, {"question": None}], "it has no text in"),
    "answer that is no choice": (
        CHOSEN,
        [{"answer": "2"}, {"answer": "-1"}, {"answer": "a"}, {"answer": ""}, {"answer": None}, {"answer": [1]}],
        "is none of its 2 choices",
    ),
    "too few choices": (
        CHOSEN,
        [{"choices": ["one"]}, {"choices": []}, {"choices": None}, {"choices": "one"}],
        "no list of choices",
    ),
    "empty choice": (CHOSEN, [{"choices": ["one", ""]}, {"choices": [" ", "two"]}], "is empty"),
    "fewer tags than words": (TAGGED, [{"tags": ["O"]}, {"tags": []}, {"tokens": ["a", "b", "c"]}], "tags"),
    "tags that are no list": (
        TAGGED,
        [{"tags": None}, {"tags": "O"}, {"tokens": "boat"}, {"tokens": []}, {"tokens": None}],
        "no list of words and tags",
    ),
    "half a pair": (
        PAIRED,
        [{"sentence_bad": ""}, {"sentence_good": " "}, {"sentence_bad": None}, {"sentence_good": "null"}],
        "is empty",
    ),
    "plain text of nothing": (PLAIN, [{"text": ""}, {"text": " "}, {"text": "null"}], "is empty"),
}
KINDS = {"value that is no number": {"kind": "regression"}}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def good_rows(pattern: dict, n: int = 20) -> list[dict]:
    rows = []
    for number in range(n):
        row = json.loads(json.dumps(pattern).replace("#", str(number)))
        cyclic = {"label", "answer"} & pattern.keys()  # a class or a number of each, in turn
        rows.append(row | {name: row[name][number % 2] for name in cyclic})
    return rows


def spoilt(row: dict, change: dict) -> dict:
    """The row with other values: None takes a column away, "null" puts nothing there."""
    changed = {name: None if value == "null" else value for name, value in {**row, **change}.items()}
    return {name: value for name, value in changed.items() if not (name in change and change[name] is None)}


def adds_up(task: Task) -> None:
    ledger = task.ledger
    examples = [*task.train, *task.dev, *task.test]
    assert ledger.rows == ledger.trained + len(ledger.rejected)
    assert ledger.trained == len(examples)
    assert all(note.line > 0 and note.reason for note in ledger.rejected)
    encoded, trained = encode_all(examples, bytes_without_begin(), 10_000)
    assert trained.rows == len(examples) == len(encoded) + len(trained.rejected)


@pytest.mark.parametrize("kind", BAD_ROWS)
def test_a_bad_row_is_rejected_with_its_line(kind):
    pattern, changes, reason = BAD_ROWS[kind]
    for change in changes:
        for place in (0, 9, 20):
            good = good_rows(pattern)
            rows = [*good[:place], spoilt(good[3], change), *good[place:]]
            Path("a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            Path("a.json").write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]")
            for name, first_line in (("a.jsonl", 1), ("a.json", 2)):
                task = load_task(DataConfig(path=name, **KINDS.get(kind, {})))
                assert task.ledger.rows == 21
                (note,) = task.ledger.rejected
                assert note.line == place + first_line
                assert reason in note.reason, change
                adds_up(task)


CSV, JSONL = "text,label\n" + "a b,x\nc d,y\n" * 6, '{"text": "a b", "label": "x"}\n{"text": "c d", "label": "y"}\n' * 6
ROWS = [{"text": f"a {n}", "label": "xy"[n % 2]} for n in range(8)]

# class -> (name, bytes or text) of each bad file, what the refusal says
BAD_FILES = {
    "empty": ([(f"a{suffix}", "") for suffix in (".csv", ".tsv", ".jsonl", ".json", ".txt")], "is empty"),
    "white space": (
        [("a.csv", "\n \n"), ("a.jsonl", " \t\n"), ("a.txt", "\r\n\r\n"), ("a.json", "\ufeff")],
        "is empty",
    ),
    "no rows": ([("a.csv", "text,label\n"), ("a.json", "[]"), ("a.json", "[ ]\n"), ("a.csv", ",\n,\n")], "has no rows"),
    "utf-16": (
        [("a.csv", CSV.encode("utf-16")), ("a.jsonl", JSONL.encode("utf-16")), ("a.txt", "ab".encode("utf-16"))],
        "is not UTF-8",
    ),
    "utf-16 without a mark": (
        [
            ("a.csv", CSV.encode("utf-16-le")),
            ("a.jsonl", JSONL.encode("utf-16-be")),
            ("a.tsv", CSV.encode("utf-32-le")),
        ],
        "is UTF-16",
    ),
    "latin-1": (
        [("a.csv", "text,label\nblå,b\n".encode("latin-1")), ("a.jsonl", '{"text": "é"}'.encode("latin-1"))],
        "is not UTF-8",
    ),
    "binary": ([("a.jsonl", bytes(range(256))), ("a.csv", b"\x80\x81"), ("a.txt", b"\xff" * 9)], "is not UTF-8"),
    "unknown kind": (
        [("a.xlsx", "PK"), ("a.doc", "x"), ("a", "x"), ("a.jsonl.zip", "PK")],
        "is no kind of file known here",
    ),
    "cut json line": (
        [("a.jsonl", JSONL[:-9]), ("a.jsonl", JSONL + '{"text": '), ("a.jsonl", JSONL + "{")],
        "is no valid JSON",
    ),
    "cut json": ([("a.json", json.dumps(ROWS)[:length]) for length in (1, 20, 60, -1)], "is no valid JSON"),
    "json of other quotes": (
        [("a.jsonl", "{'text': 'a'}\n"), ("a.jsonl", JSONL + "{text: 1}\n"), ("a.json", "[{'a': 1}]")],
        "is no valid JSON",
    ),
    "json with a comma too many": (
        [("a.jsonl", '{"text": "a",}\n'), ("a.json", '[{"text": "a",}]')],
        "is no valid JSON",
    ),
    "line ends inside json text": (
        [("a.jsonl", '{"text": "a\nb"}\n'), ("a.jsonl", JSONL + '{"text":\n"a"}\n')],
        "is no valid JSON",
    ),
    "rows that are no objects": (
        [("a.jsonl", JSONL + line + "\n") for line in ("3", '"a"', "null", "[1]", "true", "NaN")],
        "not an object",
    ),
    "items that are no objects": (
        [("a.json", text) for text in ("[1, 2]", '["a"]', "[[1]]", "[null]", '[{"a": "b"}, 3]')],
        "not an object",
    ),
    "json of no rows": (
        [("a.json", text) for text in ("3", '"a"', "null", "true", '{"a": 1}', '{"a": [1]}', "{}")],
        "not rows",
    ),
    "nested too deep": (
        [("a.jsonl", "[" * 100_000), ("a.jsonl", '{"a":' * 100_000), ("a.json", '[{"a":' + "[" * 100_000)],
        "is nested too deep",
    ),
    "numbers of thousands of digits": (
        [("a.jsonl", '{"a": ' + "9" * 5_000 + "}"), ("a.json", '[{"a": ' + "9" * 5_000 + "}]")],
        "thousands of digits",
    ),
    "half a surrogate": (
        [("a.jsonl", '{"text": "\\ud83d"}'), ("a.json", '[{"a": ["\\udc00"]}]'), ("a.jsonl", '{"\\ud800": 1}')],
        "half a surrogate pair",
    ),
    "two columns of one name": (
        [
            ("a.csv", "text,text,label\na,b,c\n"),
            ("a.tsv", "text\tlabel\tlabel\na\tb\tc\n"),
            ("a.csv", "id,text,id\n1,a,2\n"),
        ],
        "has two columns named",
    ),
    "cells too many": (
        [("a.csv", CSV + "a,b,c\n"), ("a.csv", CSV + ",,,x\n"), ("a.tsv", "text\tlabel\na\tb\nc\td\te\n")],
        "the lines before it have 2",
    ),
    "cells too few": ([("a.csv", CSV + "a\n"), ("a.tsv", "text\tlabel\na\tb\nc\n")], "the lines before it have 2"),
    "open quote": ([("a.csv", CSV + '"a,x\nb,y\n'), ("a.csv", 'text,label\n"a,x')], "cells"),
    "no gzip": (
        [("a.jsonl.gz", JSONL), ("a.csv.gz", b"\x1f\x8b"), ("a.txt.gz", b"\x1f\x8b\x08\x00junk")],
        "is no whole gzip file",
    ),
    "cut gzip": (
        [("a.jsonl.gz", gzip.compress(JSONL.encode())[:length]) for length in (12, 30, -1, -8)],
        "is no whole gzip file",
    ),
    "gzip of latin-1": ([("a.csv.gz", gzip.compress("text\nblå\n".encode("latin-1")))], "is not UTF-8"),
    "one class": ([("a.csv", "text,label\n" + "".join(f"a {n},x\n" for n in range(9)))], "has one class only"),
    "columns that mean nothing": (
        [("a.csv", "alpha,beta\n" + "".join(f"a {n},b {n}\n" for n in range(9)))],
        "cannot tell what the columns",
    ),
    "empty objects": ([("a.jsonl", "{}\n{}\n"), ("a.json", "[{}]")], "cannot tell what the columns"),
    "rows too few": (
        [("a.csv", "text,label\na,x\nb,y\n"), ("a.jsonl", '{"text": "a"}\n'), ("a.txt", "one line")],
        "cannot be split into 3 parts",
    ),
    "nothing that can be used": (
        [("a.jsonl", '{"text": "", "label": "x"}\n' * 3), ("a.csv", "text,label\n" + " ,x\n" * 4)],
        "no row of",
    ),
    "squad without questions": (
        [
            ("a.json", json.dumps({"data": [{"paragraphs": [inside]}]}))
            for inside in ({"context": "a"}, {"qas": []}, {"qas": 3, "context": ""}, 3)
        ],
        "without context or qas",
    ),
}
if find_spec("pyarrow"):
    BAD_FILES["no parquet"] = ([("a.parquet", "text"), ("a.parquet", b""), ("a.parquet", b"PAR1" * 5)], "cannot read")


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_bad_file_is_refused_with_a_hint(kind):
    files, message = BAD_FILES[kind]
    for name, content in files:
        Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(UserError) as error:
            load_task(name)
        assert message in error.value.message, (name, content[:40])
        assert name in error.value.message or "different rows" in error.value.message
        assert error.value.hint


UGLY = {
    "byte order mark": ("a.csv", b"\xef\xbb\xbf" + CSV.encode()),
    "line ends of Windows": ("a.csv", CSV.replace("\n", "\r\n").encode()),
    "line ends of old": ("a.csv", CSV.replace("\n", "\r").encode()),
    "line ends of all kinds": (
        "a.tsv",
        CSV.replace(",", "\t").replace("x\n", "x\r").replace("y\n", "y\r\r\n").encode(),
    ),
    "jsonl of Windows": ("a.jsonl", JSONL.replace("\n", "\r\n").encode()),
    "no line end at the end": ("a.jsonl", JSONL.rstrip().encode()),
    "blank lines": ("a.jsonl", JSONL.replace("\n", "\n\n \n").encode()),
    "index of pandas": (
        "a.csv",
        b",text,label\n" + b"".join(b"%d,a %d,%s\n" % (n, n, b"xy"[n % 2 :][:1]) for n in range(12)),
    ),
    "NUL amid text": ("a.csv", CSV.replace("a b", "a\0b", 1).encode()),
    "separators of Unicode": ("a.jsonl", JSONL.replace("a b", "a b\u2028\u0085c").encode()),
    "keys of one name": ("a.jsonl", JSONL.replace("}", ', "label": "z"}', 1).encode()),
    "semicolons": ("a.csv", CSV.replace(",", ";").encode()),
    "upper-case suffix": ("A.CSV", CSV.encode()),
}


@pytest.mark.parametrize("kind", UGLY)
def test_what_is_only_ugly_is_read_whole(kind):
    name, content = UGLY[kind]
    # every text another one, so that there is something to split
    parts = content.replace(b"a b", b"a%d b").split(b"a%d b")
    Path(name).write_bytes(parts[0] + b"".join(b"a%d b" % n + part for n, part in enumerate(parts[1:])))
    task = load_task(name)
    assert task.ledger.rows == task.ledger.trained == 12
    assert task.kind == "classification"
    adds_up(task)


def test_how_many_there_are():
    n_rows = sum(6 * len(changes) for _, changes, _ in BAD_ROWS.values())
    n_files = sum(len(files) for files, _ in BAD_FILES.values())
    assert len(BAD_ROWS) + len(BAD_FILES) + len(UGLY) >= 80
    assert n_rows + n_files + len(UGLY) >= 700


texts = st.text(max_size=8) | st.sampled_from(
    ["user", "assistant", "gpt", "[{", '{"name": "f"}', "null", "\0", "\ufeff"]
)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from("role from content value tool_calls name text label".split()), inner, max_size=3
        )
    ),
    max_leaves=8,
)
PATTERNS = [
    LABELLED,
    VALUED,
    PROMPTED,
    INSTRUCTED,
    WITH_TOOLS,
    SHARED,
    PREFERRED,
    PREFERRED_TALKS,
    ASKED,
    CHOSEN,
    TAGGED,
    PAIRED,
    PLAIN,
]
wild = st.sampled_from(PATTERNS).flatmap(
    lambda pattern: st.tuples(
        st.just(pattern),
        st.lists(st.dictionaries(st.sampled_from([*pattern, "system", "tools", "id"]), values), min_size=1, max_size=4),
    )
)


def told_or_exact(name: str) -> bool:
    """Whether the file was read with a ledger that adds up, or refused with a message and a hint."""
    try:
        adds_up(load_task(name))
    except UserError as error:
        return bool(error.message and error.hint)
    return True


@given(wild)
@settings(deadline=None, max_examples=200)
def test_rows_of_anything(case):
    pattern, changes = case
    rows = good_rows(pattern, 12)
    rows += [row | change for row, change in zip(rows, changes)]
    Path("wild.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert told_or_exact("wild.jsonl")


pieces = st.sampled_from(
    ['"', "{", "}", "[", "]", ",", ":", "\n", "\r", "\t", "\\", "text", "label", "a", "1", "\0", ";"]
)
contents = st.binary(max_size=60) | st.lists(pieces, max_size=30).map("".join).map(str.encode)


@given(contents, st.sampled_from([".csv", ".tsv", ".jsonl", ".json", ".txt", ".jsonl.gz", ".parquet"]), st.booleans())
@settings(deadline=None, max_examples=300)
def test_files_of_anything(content, suffix, behind_rows):
    before = {".csv": CSV, ".jsonl": JSONL, ".txt": "one\n\ntwo\nthree\n"}.get(suffix, "").encode()
    whole = before * behind_rows + content
    Path(f"wild{suffix}").write_bytes(gzip.compress(whole) if suffix.endswith(".gz") else whole)
    assert told_or_exact(f"wild{suffix}")


@pytest.mark.parametrize("told", ["NaN", "-Infinity", "inf"])
def test_a_value_that_is_none_makes_no_classes_of_the_others(told, tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("text,score\n" + "".join(f"soup {i},{told if i == 7 else i * 0.31}\n" for i in range(40)))
    task = load_task(path)
    assert task.kind == "regression"
    (note,) = task.ledger.rejected
    assert (note.line, note.reason) == (9, f"its value {told!r} is no number")
