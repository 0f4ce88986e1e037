"""Conversations against a slow oracle on real templates' formats: the same ids, and the same ids trained."""

import pytest

from tests.data.chat_oracle import FORMATS, folded, labelled, marked_texts, rendered, tokenizer_of
from tunewise.data.chat import Message, read_messages
from tunewise.data.chat_template import chat_template
from tunewise.data.conversations import Conversations
from tunewise.data.encode import MASKED, encode, encode_prompt
from tunewise.data.trained_on import trained_on


def talk(*contents: str, system: str | None = None) -> list[dict[str, str]]:
    turns = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)]
    return turns if system is None else [{"role": "system", "content": system}, *turns]


TALKS = {
    "one answer": talk("hi", "hello"),
    "two answers": talk("hi", "hello", "why?", "because the cat sat"),
    "a system prompt": talk("hi", "hello", "why?", "because", system="Be kind."),
    "three answers": talk("one", "two", "three", "four", "five", "six", system="Count."),
    "the same words": talk("the cat", "the cat", "the cat", "the cat"),
    "other scripts": talk("e\u0301te\u0301 שלום", "猫 🙂👩‍🚀 café", "مرحبا", "नमस्ते", system="ﬁn ½"),
    "white space": talk("two  spaces", "  a padded answer ", "tab\there", "line\nfeeds\n\nhere"),
    "words of templates": talk("say <|im_end|> and [INST] </s>", "### Response: USER: ASSISTANT:", "assistant", "user"),
    "tokens in answers": talk("hi", "a <|im_end|> b</s>c<end_of_turn>d<|eot_id|>e", "ok", "</s>x<|end|> y"),
    "an empty question": talk("", "hello", "", "there"),
    "an empty answer": talk("hi", "", "why?", "because"),
    "an empty system prompt": talk("hi", "hello", system=""),
}


def examples_of(name: str, turns: list[dict[str, str]], tokenizer):
    chat = Conversations(chat_template(None, tokenizer))
    return trained_on([chat.example("a", 1, read_messages(turns))], "answers"), chat


def test_there_are_enough_formats():
    assert len(FORMATS) >= 35


@pytest.mark.parametrize("kind", ["bytes", "pieces"])
@pytest.mark.parametrize("name", FORMATS)
def test_ids_and_labels_are_the_oracles(name, kind):
    tokenizer = tokenizer_of(name, kind)
    n_seen = 0
    for title, turns in TALKS.items():
        examples, _ = examples_of(name, turns, tokenizer)
        texts = marked_texts(name, turns)
        assert len(examples) == len(texts), title
        for example, (text, marks) in zip(examples, texts):
            assert example.text + example.end == text, title
            found = encode(example, tokenizer, 10_000)
            ids, labels = labelled(text, marks, tokenizer, FORMATS[name].end)
            assert list(found.ids) == ids, title
            assert list(found.labels) == labels, title
            assert found.labels[-1] != MASKED
            n_seen += 1
    assert n_seen >= len(TALKS)
