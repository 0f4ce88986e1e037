"""Words as numbers against words as text."""

import random

import numpy as np
import pytest

from tests.data.doctor.sick_rows import sentence
from tunewise.data.doctor import words as of
from tunewise.data.doctor.words import words_in, words_of

TEXTS = [
    "", "  ", "...", "One word", "It's well-known; isn't it?", "don't DON’T dont", "a  b\tc\nd", "Ünïcödé ÜNÏCÖDÉ",
    "漢字かな交じり文 and Latin", "नमस्ते दुनिया", "ΣΑΣ σας", "x" * 5_000, "1,000 and 1000", "emoji 😀 twice 😀",
    "İstanbul i̇stanbul", "\ufeffmarked", "\x00null\x00byte",
]  # fmt: skip


@pytest.mark.parametrize("chunk", [1, 7, 400_000])
def test_numbers_are_equal_where_words_are(chunk, monkeypatch):
    monkeypatch.setattr(of, "CHUNK", chunk)
    found = words_of(TEXTS)
    assert found.counts.tolist() == [len(words_in(text)) for text in TEXTS]
    written = [word for text in TEXTS for word in words_in(text)]
    assert len(written) >= 35
    assert len(set(written)) == len(set(found.hashes.tolist()))
    assert len(set(zip(written, found.hashes.tolist(), strict=True))) == len(set(written))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("It's WELL-known;", ["its", "wellknown"]),
        ("漢字 a", ["漢", "字", "a"]),
        ("a漢b", ["a", "漢", "b"]),
        ("--", []),
        ("\x00a\x00b c", ["ab", "c"]),
    ],
)
def test_what_a_word_is(text, words):
    assert words_in(text) == words


@pytest.mark.parametrize("n", [1, 3, 13])
def test_sequences_are_those_of_each_text_alone(n):
    draw = random.Random(0)
    texts = [sentence(k, draw.randrange(0, 20)) for k in range(200)] + [sentence(3, 19)]
    hashes, owners, places = words_of(texts).sequences(n)
    written = [
        (" ".join(words[place : place + n]), owner, place)
        for owner, words in enumerate(map(words_in, texts))
        for place in range(len(words) - n + 1)
    ]
    assert len(written) > 300
    assert list(zip(owners.tolist(), places.tolist())) == [(owner, place) for _, owner, place in written]
    of_text = dict(zip((text for text, _, _ in written), hashes.tolist()))
    assert len(set(of_text.values())) == len(of_text)
    assert all(of_text[text] == value for (text, _, _), value in zip(written, hashes.tolist(), strict=True))


def test_wholes_tell_texts_apart_by_their_words_in_order():
    texts = ["a b", "A, b!", "b a", "a b b", "", "-", "a"]
    wholes = words_of(texts).wholes().tolist()
    assert wholes[0] == wholes[1]
    assert wholes[4] == wholes[5]
    assert len(set(wholes)) == 5


def test_no_texts_have_no_words():
    found = words_of([])
    assert len(found.hashes) == 0
    assert found.sequences(3)[0].dtype == np.uint64
