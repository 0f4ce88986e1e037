"""Every token belongs to the part that holds its last character, whatever the tokenizer keeps of where tokens stand."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from tests.data.chat_oracle import last_places, tokenizer_of
from tests.data.tokenizers_for_tests import TOKENIZERS, bytes_without_begin
from tunewise.data import borders
from tunewise.data.borders import last_characters, owners

TEXTS = st.lists(st.text("abehlLt \n.é猫🙂\u0301ﬁ", min_size=1, max_size=8), min_size=1, max_size=6)


def ids_of(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(TEXTS)
@settings(max_examples=150, deadline=None)
def test_by_offsets_as_by_the_tokens_spellings(kind, pieces):
    tokenizer, text = TOKENIZERS[kind](), "".join(pieces)
    ids = ids_of(tokenizer, text)
    ends = [len("".join(pieces[: n + 1])) for n in range(len(pieces))]
    wanted = [next(n for n, end in enumerate(ends) if place < end) for place in last_places(text, ids, tokenizer)]
    assert owners(pieces, ids, tokenizer) == wanted


def test_a_token_across_a_border_belongs_to_the_part_behind_it():
    tokenizer = bytes_without_begin()
    pieces = ["the Lab", "el", " is"]
    tokens = tokenizer.convert_ids_to_tokens(ids_of(tokenizer, "the Label is"))
    assert "ĠLabel" in tokens
    assert [
        tokens[i] for i, n in enumerate(owners(pieces, ids_of(tokenizer, "the Label is"), tokenizer)) if n == 1
    ] == ["ĠLabel"]


def test_a_normaliser_that_takes_letters_apart_keeps_their_places():
    vocabulary = {character: n for n, character in enumerate(["?", *"fiabc①1½2⁄ég"])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    raw.normalizer, raw.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Split("", "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="?")
    pieces = ["ﬁﬁ", "a①", "½b", "ﬁc"]
    ids = ids_of(tokenizer, "".join(pieces))
    wanted = [number for number, piece in enumerate(pieces) for _ in unicodedata.normalize("NFKC", piece)]
    assert len(ids) == len(wanted)
    assert owners(pieces, ids, tokenizer) == wanted


@given(TEXTS)
@settings(max_examples=50, deadline=None)
def test_a_tokenizer_without_offsets_goes_by_prefixes(pieces):
    tokenizer = ByT5Tokenizer()
    assert last_characters("a", tokenizer) is None
    wanted = [number for number, piece in enumerate(pieces) for _ in piece.encode()]
    assert owners(pieces, ids_of(tokenizer, "".join(pieces)), tokenizer) == wanted


class Shifted(PreTrainedTokenizerFast):
    """A tokenizer whose offsets are one too far."""

    def __call__(self, *texts, **options):
        found = super().__call__(*texts, **options)
        if options.get("return_offsets_mapping"):
            found["offset_mapping"] = [(start + 1, stop + 1) for start, stop in found["offset_mapping"]]
        return found


def test_offsets_that_are_wrong_are_found_out():
    right = bytes_without_begin()
    shifted = Shifted(tokenizer_object=right.backend_tokenizer, eos_token="<|im_end|>")
    pieces = ["the cat", " sat on", " the mat<|im_end|>", "\nthe end"]
    ids = ids_of(right, "".join(pieces))
    assert owners(pieces, ids, shifted) == owners(pieces, ids, right)
    assert borders._TRUSTED[right]
    assert not borders._TRUSTED[shifted]
    assert all(borders._are_right(tokenizer_of(name, kind)) for name in ("llama-2", "qwen2.5") for kind in TOKENIZERS)
