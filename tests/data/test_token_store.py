"""The token store: rows read back as they were written, anew where anything they depend on has changed."""

import json
import os
import shutil
from functools import partial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.data.tokenizers_for_tests import TOKENIZERS, bytes_without_begin
from tunewise import files
from tunewise.data import token_store
from tunewise.data.encode import ANSWERS, Encoded, Told, encode_all, encode_each
from tunewise.data.examples import Example, Part
from tunewise.data.token_store import StoredRows, by_length, encoded, lengths, longest
from tunewise.errors import UserError

texts = st.text(st.sampled_from("abe t\n:é🙂\0"), max_size=12)
TOKENIZER = bytes_without_begin()


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    """A store of its own that keeps everything; where its folders are."""
    monkeypatch.setenv("TUNEWISE_CACHE", str(tmp_path))
    monkeypatch.setattr(token_store, "WORTH_KEEPING", 1)
    token_store._OPENED.clear()
    return tmp_path / "tokens"


def examples(*pairs: tuple[str, str]) -> list[Example]:
    return [
        Example(f"é{line}", (Part(prompt, False), Part(answer, True)), line=line)
        for line, (prompt, answer) in enumerate(pairs, start=2)
    ]


def cut(rows, max_length=12, mark="decoder", tokenizer=TOKENIZER):
    each = partial(encode_each, tokenizer=tokenizer, max_length=max_length)
    return encoded(rows, each, ANSWERS, f"{mark} {max_length}")


SOME = examples(
    ("the cat sat on the mat, the cat ate", " ham"), ("a", " b" * 40), ("a", ""), ("", " spam"), ("a:", " b")
)


@given(pairs=st.lists(st.tuples(texts, texts), min_size=1, max_size=8), max_length=st.integers(6, 20))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("name", TOKENIZERS)
def test_rows_come_back_as_they_are_made(name, pairs, max_length):
    tokenizer, rows = TOKENIZERS[name](), examples(*pairs, ("a", "b"))
    expected = encode_all(rows, tokenizer, max_length)
    cut(rows, max_length, name, tokenizer)
    token_store._OPENED.clear()
    found, ledger = cut(rows, max_length, name, tokenizer)
    assert isinstance(found, StoredRows)
    assert (list(found), ledger) == expected
    assert [found[number] for number in range(len(found))] == expected[0]
    assert found[-1] == expected[0][-1]
    assert found[1:3] == expected[0][1:3]
    assert found[::-2] == expected[0][::-2]
    assert lengths(found).tolist() == lengths(expected[0]).tolist() == [len(row.ids) for row in expected[0]]
    assert [expected[0][n] for n in by_length(found)] == sorted(expected[0], key=lambda row: len(row.ids))
    down = sorted(expected[0], key=lambda row: len(row.ids), reverse=True)
    assert [expected[0][n] for n in longest(found, 3)] == down[:3]


def test_where_no_row_is_left_the_error_is_the_same(store):
    rows = examples(("a", ""), ("b", " b" * 40))
    errors = []
    for make in (lambda: encode_all(rows, TOKENIZER, 12), lambda: cut(rows)):
        with pytest.raises(UserError) as error:
            make()
        errors.append((error.value.message, error.value.hint))
    assert errors[0] == errors[1]
    assert "(line 2: nothing in it is trained)" in errors[0][0]
    assert list(store.iterdir()) == []


def test_longer_than_a_chunk(monkeypatch):
    monkeypatch.setattr(token_store, "CHUNK", 3)
    rows = examples(*((f"row {n}", " ham" * (n % 3 + 1)) for n in range(11)))
    found, _ = cut(rows, 100)
    assert list(found) == encode_all(rows, TOKENIZER, 100)[0]
    assert found[2:9] == list(found)[2:9]
    with pytest.raises(IndexError):
        found[11]


@pytest.mark.parametrize("labels", [(1.5,), (3,), (-100, 2, -100)])
def test_rows_of_classifiers_come_back_too(labels):
    rows = [Encoded(f"r{n}", (1, 2, 3), labels, 3, n == 1, (0, 0, 1)) for n in range(3)]
    found, ledger = encoded(SOME, lambda _: ((n + 1, row) for n, row in enumerate(rows)), Told(cut="it"), "classifier")
    assert list(found) == rows
    assert type(found[0].labels[0]) is type(labels[0])
    assert [(note.line, note.reason) for note in ledger.truncated] == [(2, "it was cut to 3 tokens")]


def test_the_second_time_nothing_is_cut(store):
    first = cut(SOME)
    found = encoded(SOME, lambda _: pytest.fail("it was to be read"), ANSWERS, "decoder 12")
    assert found == first
    token_store._OPENED.clear()
    again, ledger = encoded(SOME, lambda _: pytest.fail("it was to be read"), ANSWERS, "decoder 12")
    assert (list(again), ledger) == (list(first[0]), first[1])
    assert len(list(store.iterdir())) == 1


def test_whatever_changes_is_another_key():
    one = SOME[0]
    changed = [
        examples(("the cat sat on the mat, the cat ate", " hat")),
        [Example("other", one.parts, line=one.line)],
        [Example(one.id, one.parts, line=9)],
        [Example(one.id, (Part(one.prompt, True), one.parts[1]), line=one.line)],
        [Example(one.id, (Part(one.prompt + one.answer, True),), line=one.line)],
        [Example(one.id, one.parts, "ham", one.line)],
        [Example(one.id, one.parts, None, one.line, ("the cat",))],
        [Example(one.id, one.parts, None, one.line, ("the", "cat"))],
        [Example(one.id, one.parts, None, one.line, (), ("B",))],
        [one, one],
        [],
    ]
    keys = {token_store._key([one], "a"), token_store._key([one], "b"), *(token_store._key(c, "a") for c in changed)}
    assert len(keys) == len(changed) + 2


@pytest.mark.parametrize("name", ["ids.bin", "labels.bin", "rows.bin", "names.bin", "account.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["cut short", "changed", "gone"])
def test_what_is_damaged_is_made_again(store, name, damage, caplog):
    expected = list(cut(SOME)[0])
    token_store._OPENED.clear()
    file = next(store.iterdir()) / name
    content = file.read_bytes()
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(content[:-2] if damage == "cut short" else bytes([content[0] ^ 1]) + content[1:])
    assert list(cut(SOME)[0]) == expected
    assert f"{file.parent} is damaged" in caplog.text
    assert file.read_bytes() == content


def test_nothing_half_written_is_left(store, monkeypatch):
    monkeypatch.setattr(token_store, "CHUNK", 2)
    done = iter(range(3))

    def killed(rows):
        for outcome in encode_each(rows, TOKENIZER, 12):
            if next(done, None) is None:
                raise KeyboardInterrupt
            yield outcome

    with pytest.raises(KeyboardInterrupt):
        encoded(SOME, killed, ANSWERS, "decoder 12")
    assert list(store.iterdir()) == []
    assert list(cut(SOME)[0]) == encode_all(SOME, TOKENIZER, 12)[0]


def test_another_process_may_have_been_first(store, caplog):
    """Both make the rows, and whoever is last finds the folder there."""

    def late(rows):
        yield from encode_each(rows, TOKENIZER, 12)
        cut(SOME)

    found, _ = encoded(SOME, late, ANSWERS, "decoder 12")
    assert list(found) == encode_all(SOME, TOKENIZER, 12)[0]
    assert len(list(store.iterdir())) == 1
    assert not caplog.text


def test_no_room_is_told_and_the_rows_are_there(monkeypatch, caplog):
    def full(*_):
        raise UserError("cannot write it: no space left on device")

    monkeypatch.setattr(files, "append_bytes", full)
    found, ledger = cut(SOME)
    assert (found, ledger) == encode_all(SOME, TOKENIZER, 12)
    assert "not kept: cannot write it: no space left" in caplog.text


def test_it_can_be_turned_off_and_capped(store, monkeypatch):
    monkeypatch.setenv(token_store.CAP, "0")
    assert cut(SOME) == encode_all(SOME, TOKENIZER, 12)
    assert not store.exists()
    monkeypatch.setenv(token_store.CAP, "many")
    with pytest.raises(UserError, match="'many' is no number of gigabytes"):
        cut(SOME)
    monkeypatch.setenv(token_store.CAP, "1")
    for n in range(4):
        cut(SOME, 12 + n)
        for age, folder in enumerate(sorted(store.iterdir(), key=lambda one: one.stat().st_mtime, reverse=True)):
            os.utime(folder, (1e9 - age, 1e9 - age))
    size = sum(file.stat().st_size for file in next(store.iterdir()).iterdir())
    cut(SOME, 13)  # is used, and so the last to go
    half_written = store / ".left.1234.tmp"
    shutil.copytree(next(store.iterdir()), half_written)
    os.utime(half_written, (1e9, 1e9))
    monkeypatch.setenv(token_store.CAP, str(2.5 * size / 1e9))
    cut(SOME, 20)
    lengths_left = {json.loads((one / "account.json").read_text())["rejected"][0][1][-2:] for one in store.iterdir()}
    assert lengths_left == {"13", "20"}


def test_few_texts_and_images_are_not_kept(store, monkeypatch):
    image = [Example("one", (), "a", image="a.png")]
    row = Encoded("one", (), (0,), 0, False, image="a.png")
    assert encoded(image, lambda _: [(1, row)], Told(), "")[0] == [row]
    monkeypatch.setattr(token_store, "WORTH_KEEPING", 1000)
    assert cut(SOME) == encode_all(SOME, TOKENIZER, 12)
    assert not store.exists()
