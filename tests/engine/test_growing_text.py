"""The text of tokens that come one by one is what the tokenizer makes of all of them, in time that grows as they do."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.bytes_tokenizer import bytes_tokenizer
from tunewise.engine.growing_text import HELD, UNFINISHED, GrowingText

TEXT = "  the soup was good, naïve 日本語 und 🍲🍲 — “été”.\n\n the  boat " * 6


def like_sentencepiece():
    """As Llama's: a space before the text that decoding drops, and bytes of what has no token."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"theboatsupgd.,"]
    raw = Tokenizer(
        models.BPE({piece: number for number, piece in enumerate(pieces)}, [], byte_fallback=True, unk_token="<unk>")
    )
    raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    raw.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def like_bert():
    """Whose pieces lose their ## and whose full stops lose the space before them."""
    words = {word: number for number, word in enumerate(["[UNK]", "the", "boat", "##s", ".", "'", "s", "do", "n", "t"])}
    raw = Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    raw.decoder = decoders.WordPiece(cleanup=True)
    return PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="[UNK]", clean_up_tokenization_spaces=True)


TOKENIZERS = {"bytes": bytes_tokenizer, "sentencepiece": like_sentencepiece, "bert": like_bert}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_text_grows_as_it_is_decoded_whole(kind):
    tokenizer = TOKENIZERS[kind]()
    text = TEXT if kind != "bert" else "the boats . don ' t do . the boat ' s " * 9
    check(tokenizer, tokenizer(text)["input_ids"])


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([*TOKENIZERS]), st.data())
def test_whatever_tokens_come(kind, data):
    tokenizer = MADE[kind]
    check(tokenizer, data.draw(st.lists(st.integers(0, len(tokenizer) - 1), max_size=8 * HELD)))


MADE = {kind: make() for kind, make in TOKENIZERS.items()}


def check(tokenizer, tokens):
    growing, before = GrowingText(tokenizer), ""
    for n in range(1, len(tokens) + 1):
        found, expected = growing.of(tokens[:n]), tokenizer.decode(tokens[:n], skip_special_tokens=True)
        if not expected.endswith(UNFINISHED):
            assert found == expected
        elif found != expected:  # bytes of a character are missing
            assert found == before
        before = found


def test_time_grows_as_the_text():
    tokenizer, n_decoded = like_sentencepiece(), []
    decode = tokenizer.decode
    tokenizer.decode = lambda tokens, **how: n_decoded.append(len(tokens)) or decode(tokens, **how)
    tokens = (tokenizer(TEXT)["input_ids"] * 5)[:2000]
    growing = GrowingText(tokenizer)
    for n in range(1, len(tokens) + 1):
        growing.of(tokens[:n])
    assert sum(n_decoded) < 6 * HELD * len(tokens)
