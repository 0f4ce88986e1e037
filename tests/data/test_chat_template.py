"""Which template is taken, and what is known of it."""

import copy

import pytest

from tests.data.chat_oracle import FORMATS, tokenizer_of
from tests.data.tokenizers_for_tests import bytes_without_begin, pieces_with_begin
from tunewise.data.chat_template import OWN, chat_template, named
from tunewise.errors import UserError

TALK = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]


def test_the_tokenizers_own_or_a_plain_one():
    assert chat_template(None, bytes_without_begin()).name == OWN
    assert chat_template("own", bytes_without_begin()) == chat_template(None, bytes_without_begin())
    assert chat_template(None, pieces_with_begin()).name == "the template plain"
    assert chat_template(None, None).name == "the template plain"
    assert named() == ("alpaca", "chatml", "plain", "vicuna")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("plain", "Human: hi\nAssistant: hello</s>"),
        ("chatml", "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nhello<|im_end|>\n"),
        ("alpaca", "### Instruction:\nhi\n\n### Response:\nhello</s>"),
        ("vicuna", "USER: hi ASSISTANT: hello</s>"),
    ],
)
def test_the_plain_templates(name, text):
    template = chat_template(name, pieces_with_begin())
    assert template.render(TALK) == text
    opened = template.render(TALK[:1], opened=True)
    assert text.startswith(opened)
    assert template.around.goes_on
    tools = [{"type": "function", "function": {"name": "tide"}}]
    calls = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "tide", "arguments": {}}}]}
    more = [{"role": "system", "content": "Be kind."}, TALK[0], calls, {"role": "tool", "content": "six"}, *TALK]
    written = template.render(more, tools)
    assert all(said in written for said in ("Be kind.", '{"name": "tide", "arguments": {}}', "six"))
    assert written.count('"tide"') == 2


def test_a_file(tmp_path):
    path = tmp_path / "my.jinja"
    path.write_text("{% for m in messages %}[{{ m.content }}]{{ eos_token }}{% endfor %}", "utf-8")
    template = chat_template(str(path), pieces_with_begin())
    assert template.name == str(path)
    assert template.render(TALK) == "[hi]</s>[hello]</s>"
    assert (template.around.lead, template.around.tail, template.around.end) == ("[", "]</s>", "]</s>")


def test_what_is_not_there_is_told(tmp_path):
    with pytest.raises(UserError, match="chatmll") as error:
        chat_template("chatmll", None)
    assert "chatml" in error.value.hint
    with pytest.raises(UserError, match=r"nothing\.jinja"):
        chat_template(str(tmp_path / "nothing.jinja"), None)
    (tmp_path / "bad.jinja").write_text("{% for %}", "utf-8")
    with pytest.raises(UserError, match="is no Jinja template, line 1"):
        chat_template(str(tmp_path / "bad.jinja"), None)
    with pytest.raises(UserError, match="the model's tokenizer has no chat template of its own"):
        chat_template("own", pieces_with_begin())
    several = copy.copy(tokenizer_of("chatml"))
    several.chat_template = {"rag": "x", "tool_use": "y"}
    with pytest.raises(UserError, match="named rag, tool_use, and none of them is the default"):
        chat_template(None, several)


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_learned_of_a_template_is_what_its_makers_say(name):
    around = chat_template(None, tokenizer_of(name)).around
    assert (around.lead, around.end) == (FORMATS[name].lead, FORMATS[name].end)
    assert around.goes_on == (name != "deepseek-r1")
