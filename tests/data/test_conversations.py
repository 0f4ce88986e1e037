"""Conversations against a slow oracle on real templates' formats: the same ids, and the same ids trained."""

import copy
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.chat_oracle import FORMATS, folded, labelled, marked_texts, rendered, tokenizer_of
from tests.data.tokenizers_for_tests import with_template
from tunewise.data.chat_template import chat_template
from tunewise.data.conversations import Conversations
from tunewise.data.encode import MASKED, encode, encode_prompt
from tunewise.data.examples import Example, Ledger, Part
from tunewise.data.messages import Message, read_messages
from tunewise.data.task import Task
from tunewise.data.template import Template
from tunewise.data.trained_on import trained_on
from tunewise.errors import UserError
from tunewise.evaluation.questions import ask


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


PIECES = [
    *"ab \n\t<>|/[]:#é猫🙂\u0301",
    "<|im_end|>",
    "</s>",
    "[/INST]",
    "<end_of_turn>",
    "<think>",
    "user",
    "ASSISTANT:",
]
CONTENTS = st.lists(st.lists(st.sampled_from(PIECES), max_size=6).map("".join), min_size=2, max_size=6)


@given(name=st.sampled_from(sorted(FORMATS)), contents=CONTENTS, system=st.none() | st.sampled_from(["", "Be kind."]))
@settings(max_examples=200, deadline=None)
def test_whatever_is_said_the_ids_and_labels_are_the_oracles(name, contents, system):
    turns = talk(*contents[: len(contents) // 2 * 2], system=system)
    for turn in turns if name == "qwen3" else ():
        turn["content"] = turn["content"].lstrip("\n")  # as it does itself, of answers
    if not turns[-1]["content"].strip():
        turns[-1]["content"] = "yes"
    if system is not None:
        turns[1]["content"] = turns[1]["content"].strip() or "so"  # some strip the two together
    tokenizer = tokenizer_of(name, "single")
    examples, _ = examples_of(name, turns, tokenizer)
    wanted = [labelled(*text, tokenizer, FORMATS[name].end) for text in marked_texts(name, turns)]
    found = [encode(example, tokenizer, 10_000) for example in examples]
    assert [(list(one.ids), list(one.labels)) for one in found] == wanted


@pytest.mark.parametrize("name", FORMATS)
def test_a_serving_program_writes_what_stands_before_the_answer(name):
    turns = TALKS["a system prompt"]
    tokenizer = tokenizer_of(name)
    examples, chat = examples_of(name, turns, tokenizer)
    example = examples[-1]
    opened = chat.opened([Message(turn["role"], turn["content"], False) for turn in turns[:-1]])
    assert opened == rendered(name, folded(name, turns)[:-1], opened=True)
    found = encode(example, tokenizer, 10_000)
    if name == "deepseek-r1":  # whose generation prompt begins a thought that these answers do not have
        assert opened == f"{example.prompt}<think>\n"
        assert "2 answers that do not go on from the template's generation prompt" in chat.sentence()
    else:
        assert (example.prompt, example.answer) == (opened, f"{FORMATS[name].lead}because")
        assert list(found.ids[: found.prompt_length]) == encode_prompt(opened, tokenizer)
    (asked,) = ask(task_of(example), [example], tokenizer).prompts
    assert asked == list(found.ids[: found.prompt_length]), "evaluation asks what training shows"
    n_begin = found.ids.count(tokenizer.bos_token_id) if tokenizer.bos_token_id is not None else 1
    assert n_begin <= 1 or name == "llama-2", "no begin token is doubled (llama-2 begins every pair of turns)"


def task_of(example):
    return Task(
        name="t", kind="generation", template=Template("", ""), labels=(), metrics=("chrf",), train=(), dev=(),
        test=(example,), ledger=Ledger(), separator="\n\n", max_new_tokens=4, source="t",
    )  # fmt: skip


@pytest.mark.parametrize("name", [name for name in FORMATS if name.endswith("-generation")])
def test_the_mask_is_that_of_transformers_where_a_template_marks_answers(name):
    tokenizer = tokenizer_of(name)
    for title in ("two answers", "three answers", "the same words", "tokens in answers", "words of templates"):
        turns = TALKS[title]
        (example,), _ = examples_of(name, turns, tokenizer)
        told = tokenizer.apply_chat_template(turns, return_dict=True, return_assistant_tokens_mask=True)
        found = encode(example, tokenizer, 10_000)
        n = len(found.ids)  # theirs has the line feed behind the last end token
        assert list(found.ids) == told["input_ids"][:n]
        assert [int(label != MASKED) for label in found.labels] == told["assistant_masks"][:n]
        assert sum(told["assistant_masks"][n:]) == 0


TOOLS = [{"type": "function", "function": {"name": "tide", "description": "When?", "parameters": {}}}]


@dataclass(frozen=True)
class Call(Message):
    """An assistant's turn that calls a tool."""

    arguments: str = ""

    def plain(self):
        call = {"type": "function", "function": {"name": "tide", "arguments": {"harbour": self.arguments}}}
        return {**super().plain(), "tool_calls": [call]}


@pytest.mark.parametrize("name", ["llama-3.1", "qwen2.5", "hermes", "mistral-v3"])
def test_calls_of_tools_are_answers_too(name):
    tokenizer = tokenizer_of(name)
    chat = Conversations(chat_template(None, tokenizer))
    messages = [
        Message("user", "High water in Bergen?", False), Call("assistant", "", True, arguments="Bergen"),
        Message("tool", "at six", False), Message("assistant", "At six.", True),
    ]  # fmt: skip
    turns = [message.plain() for message in messages]
    (*others, last) = chat.written(messages, TOOLS)
    assert len(others) == 0
    text = "".join(part.text for part in last.parts) + last.end
    assert text == rendered(name, turns, tools=TOOLS).rstrip("\n")
    opened = [rendered(name, turns[:n], opened=True, tools=TOOLS) for n in (1, 3)]
    assert last.parts[0].text == opened[0], "all up to the first answer, tools included"
    call, answer = (part.text for part in last.parts if part.trained)
    assert '"Bergen"' in call
    assert call.endswith(FORMATS[name].end)
    assert (answer.strip(), last.end) == ("At six.", FORMATS[name].end)
    assert "".join(part.text for part in last.parts[:-1]) == opened[1]


@pytest.mark.parametrize("name", ["llama-3.1", "qwen2.5", "hermes", "mistral-v3"])
def test_of_a_call_with_a_text_beside_it_the_call_is_trained(name):
    chat = Conversations(chat_template(None, tokenizer_of(name)))
    asked, call = Message("user", "High water?", False), Call("assistant", "I look.", True, arguments="Bergen")
    (written,) = chat.written([asked, call], TOOLS)
    prompt, said = (part.text for part in written.parts)
    assert prompt == rendered(name, [asked.plain()], opened=True, tools=TOOLS)
    assert prompt + said + written.end == rendered(name, [asked.plain(), call.plain()], tools=TOOLS).rstrip("\n")
    assert '"Bergen"' in said
    assert ("I look." in said) == (name == "qwen2.5")
    assert ("1 texts beside calls of tools that the template leaves out" in chat.sentence()) == (name != "qwen2.5")


def test_a_call_that_a_template_leaves_out_is_told_and_alone_is_refused():
    chat = Conversations(chat_template(None, tokenizer_of("chatml")))
    asked = Message("user", "High water?", False)
    (written,) = chat.written([asked, Call("assistant", "I look.", True, arguments="Bergen")], TOOLS)
    assert written.parts[-1].text == "I look."
    assert "1 user's and system turns and calls of tools that the template leaves out" in chat.sentence()
    with pytest.raises(UserError, match="writes nothing of answer 2"):
        chat.written([asked, Call("assistant", "", True, arguments="Bergen")], TOOLS)


def test_of_several_templates_that_for_tools_is_taken():
    tokenizer = copy.copy(tokenizer_of("chatml"))
    tokenizer.chat_template = {
        "default": tokenizer_of("chatml").chat_template,
        "tool_use": tokenizer_of("hermes").chat_template,
    }
    chat = Conversations(chat_template(None, tokenizer))
    asked = [Message("user", "hi", False), Message("assistant", "hello", True)]
    (plain,), (with_tools,) = chat.written(asked), chat.written(asked, TOOLS)
    assert plain.parts[0].text == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert with_tools.parts[0].text.startswith("<|im_start|>system\nFunctions: <tools> {")


THOUGHT = "<think>\nOr is it?\n</think>\n\nIt is."


@pytest.mark.parametrize(
    ("name", "before", "said"),
    [("qwen3", "assistant\n", THOUGHT), ("deepseek-r1", "<｜Assistant｜><think>\n", THOUGHT.removeprefix("<think>\n"))],
)
def test_thoughts_that_a_template_leaves_out_are_trained_where_they_are_thought(name, before, said):
    turns = talk("Is it?", THOUGHT, "And this?", THOUGHT)
    (first, last), chat = examples_of(name, turns, tokenizer_of(name))
    for example in (first, last):
        assert example.prompt.endswith(before)
        assert (example.answer, example.end) == (said, FORMATS[name].end)
        assert len([part for part in example.parts if part.trained]) == 1
    assert (first.id, last.id) == ("a#1", "a")
    assert "Or is it?" not in last.prompt, "later turns do not see earlier thoughts"
    assert last.prompt == rendered(name, turns[:-1], opened=True)
    assert "1 answers in texts of their own, because the template writes earlier turns" in chat.sentence()


def test_a_system_prompt_goes_into_the_first_turn_where_a_template_has_no_place_for_it():
    (example,), chat = examples_of("gemma", TALKS["a system prompt"], tokenizer_of("gemma"))
    assert example.prompt.startswith("<bos><start_of_turn>user\nBe kind.\n\nhi<end_of_turn>")
    assert "1 system prompts written at the beginning of the first user's turn" in chat.sentence()


def test_turns_of_one_role_in_a_row_are_joined_where_a_template_wants_them_to_alternate():
    messages = [
        Message("user", "hi", False), Message("user", "there", False), Message("assistant", "yes", True),
        Message("assistant", "what?", True),
    ]  # fmt: skip
    for name, joined in (("gemma", True), ("chatml", False)):
        chat = Conversations(chat_template(None, tokenizer_of(name)))
        (written,) = chat.written(messages)
        texts = [part.text for part in written.parts if part.trained]
        assert texts == (["yes\n\nwhat?"] if joined else ["yes<|im_end|>", "what?"])
        assert ("joined by an empty line" in chat.sentence()) == joined


def test_a_conversation_that_no_form_fits_is_told():
    chat = Conversations(chat_template(None, tokenizer_of("gemma")))
    with pytest.raises(UserError, match="refuses the turns assistant, user, assistant: user and assistant have to"):
        chat.written([Message("assistant", "hi", True), Message("user", "a", False), Message("assistant", "b", True)])


def test_a_turn_that_a_template_leaves_out_is_told():
    silent = with_template("{% for m in messages if m.role == 'assistant' %}{{ m.content }}<|im_end|>{% endfor %}")
    (_,), chat = examples_of("chatml", talk("unheard", "hello"), silent)
    assert "1 user's and system turns and calls of tools that the template leaves out" in chat.sentence()


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "idefics"])
def test_turns_of_other_roles_are_trained_where_they_are_asked_for(name):
    turns = talk("my <b>question</b>", "hello", "another", "there")
    template = chat_template(None, tokenizer_of(name))
    messages = read_messages(turns)
    (users,) = Conversations(template, ("user",)).written(messages)
    end = FORMATS[name].end
    trained = [part.text.removesuffix(end) for part in users.parts if part.trained]
    assert trained == ["my <b>question</b>", "another"]
    assert users.end in ("", end)
    both = Conversations(template, ("user", "assistant")).written(messages)[-1]
    texts = " ".join(part.text for part in both.parts if part.trained)
    assert "question" in texts
    assert "another" in texts
    assert "there" in texts


def test_what_is_trained_of_a_row():
    (example,), _ = examples_of("chatml", TALKS["two answers"], tokenizer_of("chatml"))
    prompt_row = Example("p", (Part("the prompt", False), Part(" the answer", True)))
    texts = {
        what: [[part.text for part in one.parts if part.trained] for one in trained_on([example, prompt_row], what)]
        for what in ("answers", "last_answer", "everything")
    }
    assert texts["answers"] == [["hello<|im_end|>", "because the cat sat"], [" the answer"]]
    assert texts["last_answer"] == [["because the cat sat"], [" the answer"]]
    assert texts["everything"][1] == ["the prompt", " the answer"]
    assert "".join(texts["everything"][0]) == example.text
    for name, kind in (("chatml", "bytes"), ("llama-2", "pieces")):
        tokenizer = tokenizer_of(name, kind)
        (whole,) = trained_on([prompt_row], "everything")
        found = encode(whole, tokenizer, 100)
        assert list(found.labels[-(len(found.ids) - (kind == "pieces")) :]) == list(found.ids[kind == "pieces" :])
    (thoughtful,) = trained_on([examples_with_thoughts()], "last_answer")
    assert thoughtful.apart == ()


def examples_with_thoughts():
    chat = Conversations(chat_template(None, tokenizer_of("qwen3")))
    example = chat.example("q", 1, read_messages(talk("a", "b", "c", "d")))
    assert len(example.apart) == 1
    return example


def test_a_long_conversation_is_one_text():
    turns = talk(*(f"turn {n}" for n in range(200)))
    (example,), _ = examples_of("chatml", turns, tokenizer_of("chatml"))
    assert sum(part.trained for part in example.parts) == 100
    found = encode(example, tokenizer_of("chatml"), 100_000)
    ids, labels = labelled(*marked_texts("chatml", turns)[0], tokenizer_of("chatml"), "<|im_end|>")
    assert (list(found.ids), list(found.labels)) == (ids, labels)


def test_demonstrations_begin_once_and_end_their_turns():
    examples = [examples_of("gemma", talk(f"{n}?", "yes"), tokenizer_of("gemma"))[0][0] for n in range(4)]
    tokenizer = tokenizer_of("gemma")
    task = replace(task_of(examples[0]), train=tuple(examples[1:]), chat=chat_template(None, tokenizer))
    (prompt,) = ask(task, [examples[0]], tokenizer, shots=2).prompts
    assert prompt.count(tokenizer.bos_token_id) == 1
    assert tokenizer.decode(prompt).count("yes<end_of_turn>\n\n<start_of_turn>user") == 2
