"""Checks of tokens: rows that a base would be trained on wrongly, by tokenizers that make it so."""

from dataclasses import replace

import numpy as np
import pytest

from tests.bytes_tokenizer import bytes_tokenizer
from tests.data.doctor.sick_rows import answered, but, labelled, of_folder, only, read_by
from tests.data.tokenizers_for_tests import bytes_without_begin, pieces_with_begin
from tunewise.data.doctor import examine
from tunewise.data.doctor.reading import flattened
from tunewise.data.doctor.tokens import doubled, endless, unlabelled
from tunewise.data.encode import MASKED, Encoded, encode_all

TOKENS = ("tokens",)


def codes(rows):
    return {finding.code: finding.severity for finding in examine(rows, TOKENS).findings}


def spoilt(change):
    """An encoder whose rows are changed."""

    def encode(examples, tokenizer, max_length):
        rows, ledger = encode_all(examples, tokenizer, max_length)
        return [change(row) if number % 4 == 0 else row for number, row in enumerate(rows)], ledger

    return encode


@pytest.mark.parametrize(
    ("code", "change"),
    [
        ("all-labels-masked", lambda row: replace(row, labels=(*[MASKED] * (len(row.labels) - 1), MASKED))),
        ("end-token-untrained", lambda row: replace(row, labels=(*row.labels[:-1], MASKED))),
        ("doubled-begin-token", lambda row: replace(row, ids=(1, *row.ids), labels=(MASKED, *row.labels))),
    ],
)
def test_rows_that_are_trained_wrongly_are_errors(code, change, tmp_path):
    rows = of_folder(tmp_path / "rows", labelled())
    tokenizer = bytes_tokenizer()
    found = examine(read_by(rows, tokenizer, encode=spoilt(change)), TOKENS)
    assert only(found, code).severity == "error"
    assert only(found, code).n_rows == 10
    assert only(found, code).rows[1].line == 5
    assert code not in codes(read_by(rows, tokenizer))


def test_what_is_wrong_is_told_row_by_row():
    rows = [
        Encoded("good", (1, 5, 6, 2), (MASKED, MASKED, 6, 2), 2, False),
        Encoded("first label only", (1, 5, 6), (1, MASKED, MASKED), 2, False),
        Encoded("masked", (1, 5), (MASKED, MASKED), 2, False),
        Encoded("doubled", (1, 1, 6, 2), (MASKED, MASKED, 6, 2), 2, False),
        Encoded("short", (2,), (2,), 0, False),
    ]
    flat = flattened(rows)
    assert unlabelled(flat).tolist() == [1, 2, 4]
    assert endless(flat, [2]).tolist() == [1, 2]
    assert endless(flat, [2, MASKED]).tolist() == []
    assert doubled(flat, 1, 2).tolist() == [3]
    assert doubled(flat, None, 2).tolist() == doubled(flat, 1, 1).tolist() == []
    assert flat.n_trained.tolist() == [2, 1, 0, 2, 1]


def test_a_part_of_which_nothing_fits_is_an_error_and_accounted_for(tmp_path):
    found = examine(read_by(of_folder(tmp_path / "rows", labelled()), bytes_tokenizer(), max_length=4), TOKENS)
    assert only(found, "all-labels-masked").severity == "error"
    assert "no training row of 40" in only(found, "all-labels-masked").message
    assert len(found.account.rejected) >= 40
    assert found.account.proved


def test_special_tokens_that_stand_in_the_text(tmp_path):
    tokenizer = pieces_with_begin()
    clean = of_folder(tmp_path / "clean", labelled())
    assert "special-tokens-in-text" not in codes(read_by(clean, tokenizer))
    rows = of_folder(tmp_path / "rows", but(labelled(), text={6: "the cat</s>sat on the mat"}))
    finding = only(examine(read_by(rows, tokenizer), TOKENS), "special-tokens-in-text")
    assert (finding.severity, finding.n_rows, finding.rows[0].line) == ("warning", 1, 7)
    assert "</s>" in finding.message


def test_characters_that_a_tokenizer_does_not_know(tmp_path):
    tokenizer = bytes_tokenizer()
    tokenizer.unk_token = "q"
    few = but(labelled(), text={6: "a quay"})
    finding = only(examine(read_by(of_folder(tmp_path / "few", few), tokenizer), TOKENS), "unknown-tokens")
    assert (finding.severity, finding.n_rows, finding.rows[0].line) == ("note", 1, 7)
    many = but(labelled(), text=dict.fromkeys(range(9), "q" * 50))
    assert codes(read_by(of_folder(tmp_path / "many", many), tokenizer))["unknown-tokens"] == "warning"
    assert "unknown-tokens" not in codes(read_by(of_folder(tmp_path / "none", labelled()), tokenizer))


def chat(n=20):
    turns = [("user", row["prompt"], "assistant", row["completion"]) for row in answered(n)]
    return [{"messages": [{"role": a, "content": b}, {"role": c, "content": d}]} for a, b, c, d in turns]


@pytest.mark.parametrize(
    ("make", "tokenizer", "severity"),
    [
        (answered, bytes_without_begin, "warning"),
        (labelled, bytes_without_begin, "note"),
        (answered, pieces_with_begin, None),
        (chat, pieces_with_begin, "note"),
        (chat, bytes_without_begin, None),
    ],
)
def test_rows_that_are_asked_otherwise_than_the_base_was_tuned(make, tokenizer, severity, tmp_path):
    rows = make(20)
    held_out = {"dev": chat(25)[20:], "test": chat(30)[25:]} if make is chat else {}
    found = codes(read_by(of_folder(tmp_path / "rows", rows, **held_out), tokenizer()))
    assert found.get("template-differs") == severity


def test_padding_with_the_end_token_is_told_to_be_harmless(tmp_path):
    tokenizer = bytes_tokenizer()
    rows = of_folder(tmp_path / "rows", labelled())
    assert "pad-is-end" not in codes(read_by(rows, tokenizer))
    tokenizer.pad_token = tokenizer.eos_token
    assert codes(read_by(rows, tokenizer))["pad-is-end"] == "note"


def test_flat_rows_are_the_rows():
    rows = [Encoded("a", (1, 2, 3), (MASKED, 2, 3), 1, False), Encoded("b", (), (), 0, False)]
    flat = flattened(rows)
    assert flat.ids.tolist() == [1, 2, 3]
    assert flat.starts.tolist() == flat.label_starts.tolist() == [0, 3, 3]
    assert np.array_equal(flat.labels, [MASKED, 2, 3])
