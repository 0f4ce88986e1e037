"""Texts of encoders and encoder-decoders, which are cut many at once: each as the tokenizer cuts it alone."""

from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from tests.bytes_tokenizer import bytes_tokenizer
from tunewise.data import labelled, written
from tunewise.data.encode import Encoded, Rejected
from tunewise.data.examples import Example, Part
from tunewise.data.labelled import labelled_each
from tunewise.data.written import SeparateIds, written_each

words = st.text("abc \n", max_size=8)


def tokenizer_of(**named) -> PreTrainedTokenizerFast:
    raw = bytes_tokenizer(begin=False).backend_tokenizer
    raw.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B:1 </s>:1", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, model_input_names=inputs, pad_token="<pad>", eos_token="</s>", **named
    )


PAIRS, NO_PAIRS = tokenizer_of(sep_token="</s>"), tokenizer_of()


@given(st.lists(st.lists(words, min_size=1, max_size=2), min_size=1, max_size=8), st.integers(6, 12))
@settings(max_examples=80, deadline=None)
@pytest.mark.parametrize("tokenizer", [PAIRS, NO_PAIRS], ids=["pairs", "no pairs"])
def test_a_classifier_reads_each_text_as_it_is_alone(tokenizer, texts, max_length):
    task = SimpleNamespace(kind="classification", labels=("a", "b"), name="some")
    examples = [Example(f"r{n}", (), "ab"[n % 2], n, tuple(one)) for n, one in enumerate(texts)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(labelled, "CHUNK", 3)
        found = list(labelled_each(task, examples, tokenizer, max_length))
    for number, (line, row) in enumerate(found):
        one, *other = texts[number]
        given_texts = (one, "".join(other) or None) if tokenizer is PAIRS else ("\n".join(texts[number]), None)
        whole = tokenizer(*given_texts)
        cut = tokenizer(*given_texts, truncation=True, max_length=max_length)
        assert line == number
        assert row == Encoded(
            f"r{number}", tuple(cut["input_ids"]), (number % 2,), len(cut["input_ids"]),
            len(whole["input_ids"]) > max_length, tuple(cut["token_type_ids"]),
        )  # fmt: skip
    assert len(found) == len(texts)


@given(st.lists(st.tuples(words, words), min_size=1, max_size=8), st.integers(3, 12))
@settings(max_examples=80, deadline=None)
def test_an_encoder_decoder_too(pairs, max_length):
    examples = [Example(f"r{n}", (Part(a, False), Part(b, True)), None, n) for n, (a, b) in enumerate(pairs)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(written, "CHUNK", 3)
        found = list(written_each(examples, NO_PAIRS, max_length))
    for (prompt, answer), (_, row) in zip(pairs, found, strict=True):
        ids = SeparateIds(NO_PAIRS)
        read, wrote = ids.prompt(prompt), [*ids.answer(prompt, answer), NO_PAIRS.eos_token_id]
        if isinstance(row, Rejected):
            assert len(wrote) > max_length or len(wrote) < 2
        else:
            assert (list(row.ids), list(row.labels)) == (read[-max_length:], wrote)
            assert row.truncated == (len(read) > max_length)
