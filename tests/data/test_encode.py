"""Prompt and answer are cut alike in training and evaluation; every row is in the ledger."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.data.tokenizers_for_tests import TOKENIZERS, bytes_without_begin, pieces_with_begin
from tunewise.data.encode import MASKED, Rejected, encode, encode_all, encode_answer, encode_prompt
from tunewise.data.examples import Example, Part
from tunewise.errors import UserError

pytestmark = pytest.mark.parametrize("tokenizer", [make() for make in TOKENIZERS.values()], ids=list(TOKENIZERS))

texts = st.text(st.sampled_from("abeht \n:.é猫▁L"), max_size=24)
answers = texts.filter(bool)


def row(*parts: tuple[str, bool], line: int = 1) -> Example:
    return Example(f"row:{line}", tuple(Part(text, trained) for text, trained in parts), None, line)


@given(prompt=texts, answer=answers)
@example(prompt="a review\nLab", answer="el")
@example(prompt="the cat ", answer="sat")
@example(prompt="", answer="▁a")
@settings(max_examples=150, deadline=None)
def test_training_and_evaluation_agree(tokenizer, prompt, answer):
    encoded = encode(row((prompt, False), (answer, True)), tokenizer, 10_000)
    n = encoded.prompt_length
    assert list(encoded.ids[:n]) == encode_prompt(prompt, tokenizer)
    assert list(encoded.ids[n:-1]) == encode_answer(prompt, answer, tokenizer)
    assert encoded.labels == (MASKED,) * n + encoded.ids[n:]
    assert encoded.ids[-1] == tokenizer.eos_token_id
    assert not encoded.truncated
    if tokenizer.bos_token_id is not None:
        assert encoded.ids.index(tokenizer.bos_token_id) == 0
        assert encoded.ids.count(tokenizer.bos_token_id) == 1


def decoded(tokenizer, ids) -> str:
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


@given(
    prompt=st.text(st.sampled_from("abeht :."), min_size=1, max_size=20),
    answer=st.sampled_from(["el", " ham", "a", " a b"]),
)
@settings(max_examples=80, deadline=None)
def test_the_ids_say_the_text_also_where_words_meet(tokenizer, prompt, answer):
    encoded = encode(row((prompt, False), (answer, True)), tokenizer, 10_000)
    assert decoded(tokenizer, encoded.ids) == prompt + answer


def test_a_border_inside_a_token_does_not_change_the_prompt(tokenizer):
    prompt, answer = "the weather\nLab", "el"
    whole, alone = encode_prompt(prompt + answer, tokenizer), encode_prompt(prompt, tokenizer)
    assert whole[: len(alone)] != alone, "the tokenizer was to merge across this border"
    assert decoded(tokenizer, [*alone, *encode_answer(prompt, answer, tokenizer)]) == prompt + answer


def test_a_prompt_that_brings_its_begin_token_gets_no_second_one(tokenizer):
    if tokenizer.bos_token_id is None:
        assert encode_prompt("the cat", tokenizer) == tokenizer("the cat")["input_ids"]
    else:
        assert encode_prompt("the cat", tokenizer) == tokenizer("the cat")["input_ids"]
        assert encode_prompt("<s>the cat", tokenizer).count(tokenizer.bos_token_id) == 1


def test_an_answer_that_brings_its_end_token_gets_no_second_one(tokenizer):
    encoded = encode(row(("the cat", False), (f" sat{tokenizer.eos_token}", True)), tokenizer, 100)
    assert encoded.ids.count(tokenizer.eos_token_id) == 1
    assert encoded.labels[-1] == tokenizer.eos_token_id


@given(st.integers(1, 40))
@settings(max_examples=40, deadline=None)
def test_a_long_prompt_loses_its_beginning_and_the_answer_stays(tokenizer, max_length):
    long = row(("the cat sat on the mat and " * 3 + "Label:", False), (" ham", True))
    whole = encode(long, tokenizer, 1000)
    n_answer = len(whole.ids) - whole.prompt_length
    n_begin = 0 if tokenizer.bos_token_id is None else 1
    if max_length < n_answer + n_begin + 1:
        with pytest.raises(Rejected, match=f"its answer has {n_answer} tokens, max_length is {max_length}") as error:
            encode(long, tokenizer, max_length)
        assert f"raise train.max_length to {n_answer + n_begin + 1} or more" in error.value.hint
        return
    cut = encode(long, tokenizer, max_length)
    assert cut.truncated == (len(whole.ids) > max_length)
    assert len(cut.ids) == len(cut.labels) == min(max_length, len(whole.ids))
    assert cut.ids[:n_begin] == whole.ids[:n_begin]
    n_kept = len(cut.ids) - n_begin
    assert cut.ids[n_begin:] == whole.ids[len(whole.ids) - n_kept :]
    assert cut.labels[cut.prompt_length :] == whole.labels[whole.prompt_length :]


def test_earlier_answers_of_a_conversation_are_trained_too(tokenizer):
    turns = row(
        ("Human: a\nAssistant:", False), (" the cat", True), ("\nHuman: b\nAssistant:", False), (" the mat", True)
    )
    encoded = encode(turns, tokenizer, 1000)
    trained = [label for label in encoded.labels if label != MASKED]
    assert decoded(tokenizer, trained).split() == ["the", "cat", "the", "mat"]
    assert list(encoded.ids[: encoded.prompt_length]) == encode_prompt(turns.prompt, tokenizer)
    assert encoded.labels[encoded.prompt_length - 1] == MASKED
    assert all(label in (MASKED, token) for token, label in zip(encoded.ids, encoded.labels))
    quiet = row(
        ("Human: a\nAssistant:", False), (" the cat", False), ("\nHuman: b\nAssistant:", False), (" the mat", True)
    )
    silent = encode(quiet, tokenizer, 1000)
    assert silent.ids == encoded.ids
    assert decoded(tokenizer, [label for label in silent.labels if label != MASKED]).split() == ["the", "mat"]


def test_plain_text_is_trained_whole(tokenizer):
    encoded = encode(row(("the cat sat", True)), tokenizer, 100)
    n_begin = 0 if tokenizer.bos_token_id is None else 1
    assert encoded.prompt_length == n_begin
    assert encoded.labels[n_begin:] == encoded.ids[n_begin:]


some_rows = st.lists(st.tuples(texts, texts), min_size=1, max_size=12)


@given(some_rows, st.integers(4, 30))
@settings(max_examples=80, deadline=None)
def test_the_ledger_adds_up(tokenizer, pairs, max_length):
    rows = [row((prompt, False), (answer, True), line=line) for line, (prompt, answer) in enumerate(pairs, start=1)]
    whole = encode_all([*rows, row(("", True), line=99), row(("a", True), line=100)], tokenizer, 1000)[1]
    assert [note.line for note in whole.rejected] == [
        line for line, (_, answer) in enumerate(pairs, 1) if not answer
    ] + [99]
    rows.append(row(("a", True), line=100))
    encoded, ledger = encode_all(rows, tokenizer, max_length)
    assert ledger.rows == len(rows) == ledger.trained + len(ledger.rejected)
    assert ledger.trained == len(encoded) > 0
    assert [one.id for one in encoded if one.truncated] == [f"row:{note.line}" for note in ledger.truncated]
    kept = {one.id for one in encoded}
    assert kept.isdisjoint(f"row:{note.line}" for note in ledger.rejected)
    assert all(len(one.ids) <= max_length for one in encoded)
    alone = [encode(one, tokenizer, max_length) for one in rows if one.id in kept]
    assert alone == encoded


def test_all_masked_is_told_with_the_first_line(tokenizer):
    rows = [row(("a question", False), line=7), row(("another", False), ("", True), line=8)]
    with pytest.raises(UserError) as error:
        encode_all(rows, tokenizer, 100)
    assert error.value.message == (
        "all labels are masked: no row of 2 can be trained on (line 7: nothing in it is trained)"
    )
    assert error.value.hint == "give it an answer"
    with pytest.raises(UserError, match=r"no row of 0 can be trained on \(there are no rows\)"):
        encode_all([], tokenizer, 100)
    with pytest.raises(UserError, match="max_length is 2") as error:
        encode_all([row(("the cat", False), (" sat on the mat", True))], tokenizer, 2)
    assert error.value.hint.startswith("raise train.max_length to ")


def test_the_ledger_in_words(tokenizer):
    rows = [
        row(("the cat sat on the mat and the cat ate the fish:", False), (" a", True), line=2),
        row(("a", False), (" b" * 40, True), line=3),
        row(("a", False), line=4),
        row(("a:", False), (" a", True), line=5),
    ]
    _, ledger = encode_all(rows, tokenizer, 8)
    told = ledger.sentence()
    assert told.startswith("4 rows: 2 used, 1 cut, 2 rejected; cut: line 2: its prompt was cut to ")
    assert "; rejected: line 3: its answer has" in told
    assert told.endswith("max_length is 8 (and 1 more)")


def test_a_tokenizer_without_an_end_is_refused(tokenizer):
    endless = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer)
    with pytest.raises(UserError, match="no end-of-sequence token") as error:
        encode(row(("a", False), (" b", True)), endless, 10)
    assert "tokenizer_config.json" in error.value.hint


def test_the_two_tokenizers_differ_in_their_conventions(tokenizer):
    assert bytes_without_begin().bos_token_id is None
    begin = pieces_with_begin().bos_token_id
    assert pieces_with_begin()("a")["input_ids"][0] == begin
    assert pieces_with_begin().chat_template is None
