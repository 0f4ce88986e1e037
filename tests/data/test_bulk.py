"""Ids of many texts at once are those of the tokenizer's own call, text by text."""

from copy import deepcopy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from tests.data.tokenizers_for_tests import TOKENIZERS, bytes_without_begin
from tunewise.data import bulk
from tunewise.data.bulk import FEW, Words, ids_of
from tunewise.models.load import load_tokenizer

ALL = {**TOKENIZERS, "tiny": lambda: load_tokenizer("tiny")}
texts = st.text(st.one_of(st.sampled_from("abeht :.\n<|>s/"), st.characters(exclude_categories=["Cs"])), max_size=12)


def called(given_texts, tokenizer) -> list[list[int]]:
    return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in given_texts]


@pytest.mark.parametrize("name", ALL)
@given(some=st.lists(texts, max_size=30))
@settings(max_examples=60, deadline=None)
def test_the_core_says_what_the_call_says(name, some):
    tokenizer = ALL[name]()
    special = [tokenizer.eos_token, f"a{tokenizer.eos_token} b", f"{tokenizer.bos_token} c"]
    wanted = ["the cat"] * FEW + special + some
    assert ids_of(wanted, tokenizer) == called(wanted, tokenizer)


def test_what_an_earlier_call_left_behind_changes_nothing():
    tokenizer, wanted = bytes_without_begin(), [f"the cat sat on the mat {n}" for n in range(2 * FEW)]
    tokenizer.backend_tokenizer.enable_truncation(2)
    tokenizer.backend_tokenizer.enable_padding(length=50)
    found = ids_of(wanted, tokenizer)
    assert found == called(wanted, tokenizer)
    assert all(2 < len(ids) < 50 for ids in found)


def test_a_class_that_does_more_than_its_core_is_called():
    class Whispering(PreTrainedTokenizerFast):
        def _encode_plus(self, text, *args, **told):
            return super()._encode_plus([one.lower() for one in text], *args, **told)

    tokenizer = Whispering(tokenizer_object=bytes_without_begin().backend_tokenizer)
    wanted = [f"THE cat {n}" for n in range(2 * FEW)]
    assert ids_of(wanted, tokenizer) == ids_of([text.lower() for text in wanted], bytes_without_begin())


def test_none_and_few():
    tokenizer = bytes_without_begin()
    assert ids_of([], tokenizer) == []
    assert ids_of(["the cat"], tokenizer) == called(["the cat"], tokenizer)


@pytest.mark.parametrize("name", ALL)
@given(
    rows=st.lists(st.lists(texts, min_size=1, max_size=6), min_size=1, max_size=9), n_before=st.sampled_from([0, FEW])
)
@settings(max_examples=60, deadline=None)
def test_words_are_read_as_the_call_reads_their_row(name, rows, n_before):
    tokenizer = ALL[name]()
    rows = [["the", "cat"]] * n_before + rows + [["a", f"{tokenizer.eos_token}b", tokenizer.bos_token or "c"]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bulk, "MOST_WORDS", 3)
        words = Words(tokenizer, rows)
        found = [*words.read(rows), *words.read(rows)]
    for row, read in zip([*rows, *rows], found, strict=True):
        one = tokenizer(row, is_split_into_words=True)
        assert (read.ids, read.words) == (one["input_ids"], one.word_ids())
        assert read.segments == one.get("token_type_ids", [])


def test_words_are_read_by_word_where_that_is_the_same_and_by_the_call_where_it_is_not():
    for name, make in ALL.items():
        assert Words(make(), [["the", "cat"], ["sat"]])._is_by_word, name

    class Numbering(PreTrainedTokenizerFast):
        def __call__(self, rows, **given):
            return super().__call__([[f"{n}{word}" for n, word in enumerate(row)] for row in rows], **given)

    own = Numbering(tokenizer_object=bytes_without_begin().backend_tokenizer, eos_token="</s>")
    rows = [["the", "cat"], ["sat", "on"]]
    words = Words(own, rows)
    assert not words._is_by_word
    assert [read.ids for read in words.read(rows)] == own(rows, is_split_into_words=True)["input_ids"]


def test_what_was_read_last_is_known_and_nobodys_to_change(monkeypatch):
    tokenizer, wanted = deepcopy(bytes_without_begin()), [f"the cat sat on the mat {n}" for n in range(2 * FEW)]
    first = ids_of(wanted, tokenizer)
    expected = called(wanted, tokenizer)
    first[-1].append(7)
    monkeypatch.setattr(bulk, "_core", None)  # nothing is asked
    assert ids_of(wanted, tokenizer) == expected


def test_a_token_more_is_seen_though_the_first_texts_lack_it():
    tokenizer, wanted = deepcopy(bytes_without_begin()), ["the cat"] * FEW + ["a <whole> thing"]
    ids_of(wanted, tokenizer)
    tokenizer.add_tokens(["<whole>"])
    assert ids_of(wanted, tokenizer) == called(wanted, tokenizer)


def test_large_sets_are_not_kept(monkeypatch):
    monkeypatch.setattr(bulk, "MOST_IDS", 20)
    tokenizer, wanted = deepcopy(bytes_without_begin()), [f"the cat sat on the mat {n}" for n in range(2 * FEW)]
    assert ids_of(wanted, tokenizer) == called(wanted, tokenizer)
    assert not bulk._KNOWN[tokenizer]
