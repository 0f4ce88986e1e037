"""Which characters and tokens of a conversation are trained, told slowly, by other means than tunewise's.

The text is transformers' own rendering. Every content is first a letter of its own: where the assistant's letters
stand, with what the format (written down here by hand) puts before and behind them, is what is trained. Then the
letters become the contents, and each token's characters are read off its own spelling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from unittest.mock import patch

from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.data.tokenizers_for_tests import TOKENIZERS
from tunewise.data.encode import MASKED

FOLDER = Path(__file__).parent / "chat_templates"
FIRST_LETTER = 0xE100


class Day(datetime):
    """Always the same one."""

    @classmethod
    def now(cls, tz: object = None) -> Day:
        return cls(2024, 7, 26)


@dataclass(frozen=True)
class Format:
    """What a template's makers say of it."""

    eos: str
    end: str
    """What ends an answer; "" where nothing does and the end token is added."""
    lead: str = ""
    """What stands between the generation prompt and the answer, which the model has to write."""
    bos: str = ""
    others: tuple[str, ...] = ()
    """Its other tokens."""
    trims: str = ""
    """Whose contents are stripped: assistant's, or all."""
    takes_system: bool = True
    apart: str = "never"
    """Whether earlier answers are written in another way than last ones: never, always, or where there is a system."""
    items: bool = False
    """Whether contents are lists of items."""


IM = ("<|im_start|>", "<|im_end|>")
LLAMA3 = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|end_of_text|>")
GEMMA = ("<start_of_turn>", "<end_of_turn>")
COMMAND = ("<|START_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|SYSTEM_TOKEN|>", "<|CHATBOT_TOKEN|>")
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
FORMATS = {
    "llama-2": Format("</s>", " </s>", " ", "<s>", trims="all"),
    "llama-3": Format("<|end_of_text|>", "<|eot_id|>", "", "<|begin_of_text|>", LLAMA3, trims="all"),
    "llama-3.1": Format("<|eot_id|>", "<|eot_id|>", "", "<|begin_of_text|>", LLAMA3, trims="all"),
    "chatml": Format("<|im_end|>", "<|im_end|>", "", "", IM),
    "qwen2": Format("<|im_end|>", "<|im_end|>", "", "", IM),
    "qwen2.5": Format("<|im_end|>", "<|im_end|>", "", "", (*IM, "<tool_call>", "</tool_call>")),
    "qwen3": Format(
        "<|im_end|>", "<|im_end|>", "<think>\n\n</think>\n\n", "", (*IM, "<think>", "</think>"), apart="always"
    ),
    "gemma": Format("<eos>", "<end_of_turn>", "", "<bos>", GEMMA, trims="all", takes_system=False),
    "gemma-3": Format("<eos>", "<end_of_turn>", "", "<bos>", GEMMA, trims="all"),
    "phi-3": Format("<|endoftext|>", "<|end|>", "", "", (*ROLES, "<|end|>")),
    "phi-4": Format("<|im_end|>", "<|im_end|>", "", "", (*IM, "<|im_sep|>")),
    "mistral-v1": Format("</s>", "</s>", "", "<s>", takes_system=False),
    "mistral-v3": Format(
        "</s>", "</s>", " ", "<s>", ("[INST]", "[/INST]", "[TOOL_CALLS]"), trims="assistant", apart="system"
    ),
    "mistral-v7": Format("</s>", "</s>", "", "<s>", ("[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]")),
    "zephyr": Format("</s>", "</s>", "", "<s>"),
    "vicuna": Format("</s>", "</s>", " ", "<s>", trims="all"),
    "alpaca": Format("</s>", "</s>", "", "<s>", trims="all"),
    "command-r": Format("<|END_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "", "<BOS_TOKEN>", COMMAND, trims="all"),
    "command-a": Format(
        "<|END_OF_TURN_TOKEN|>", "<|END_RESPONSE|><|END_OF_TURN_TOKEN|>", "<|START_RESPONSE|>", "<BOS_TOKEN>",
        (*COMMAND, "<|START_RESPONSE|>", "<|END_RESPONSE|>"),
    ),
    "deepseek-v2": Format("<｜end▁of▁sentence｜>", "<｜end▁of▁sentence｜>", " ", "<｜begin▁of▁sentence｜>"),
    "deepseek-r1": Format(
        "<｜end▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "", "<｜begin▁of▁sentence｜>",
        ("<｜User｜>", "<｜Assistant｜>", "<think>"),
    ),
    "falcon": Format("<|endoftext|>", "", " ", apart="always"),
    "openchat": Format("<|end_of_turn|>", "<|end_of_turn|>", " ", "<s>"),
    "solar": Format("</s>", "</s>", "", "<s>"),
    "granite": Format("<|end_of_text|>", "<|end_of_text|>", "", "", ("<|start_of_role|>", "<|end_of_role|>")),
    "smollm": Format("<|im_end|>", "<|im_end|>", "", "", IM),
    "internlm-2": Format("</s>", "<|im_end|>", "", "<s>", IM),
    "baichuan-2": Format("</s>", "</s>", "", "<s>", ("<reserved_106>", "<reserved_107>")),
    "glm-4": Format("<|endoftext|>", "", "\n", "", ("[gMASK]", "<sop>", *ROLES), apart="always"),
    "tulu": Format("<|endoftext|>", "<|endoftext|>"),
    "starchat": Format("<|endoftext|>", "<|end|>", "\n", "", (*ROLES, "<|end|>")),
    "nemotron": Format("<|endoftext|>", "<|endoftext|>", "", "", ("<extra_id_0>", "<extra_id_1>"), trims="all"),
    "hermes": Format("<|im_end|>", "<|im_end|>", "", "<s>", IM),
    "gpt-oss": Format(
        "<|return|>", "<|return|>", "<|channel|>final<|message|>", "",
        ("<|start|>", "<|end|>", "<|message|>", "<|channel|>"), apart="always",
    ),
    "idefics": Format(
        "<|end_of_text|>", "<end_of_utterance>", " ", "<|begin_of_text|>", ("<end_of_utterance>",), items=True
    ),
    "chatml-generation": Format("<|im_end|>", "<|im_end|>", "", "", IM),
    "llama-3-generation": Format("<|end_of_text|>", "<|eot_id|>", "", "<|begin_of_text|>", LLAMA3, trims="all"),
    "mistral-generation": Format("</s>", "</s>", " ", "<s>"),
}  # fmt: skip


@cache
def tokenizer_of(name: str, kind: str = "bytes") -> PreTrainedTokenizerFast:
    """A small tokenizer with a format's template and tokens: `bytes`, `pieces`, or `single` bytes without merges."""
    shape = FORMATS[name]
    if kind == "single":
        raw = Tokenizer(
            models.BPE({letter: n for n, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, [])
        )
        raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        raw = Tokenizer.from_str(TOKENIZERS[kind]().backend_tokenizer.to_str())
    made = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token=shape.bos or None,
        eos_token=shape.eos,
        chat_template=(FOLDER / f"{name}.jinja").read_text("utf-8").removesuffix("\n"),
    )
    made.add_tokens([AddedToken(token, special=True, normalized=False) for token in shape.others])
    return made


def rendered(name: str, talk: Sequence[dict[str, object]], opened: bool = False, tools: object = None) -> str:
    """What transformers writes of a conversation, on the day that tunewise has."""
    shape = FORMATS[name]
    if shape.items:
        talk = [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in talk]
    with patch("transformers.utils.chat_template_utils.datetime", Day):
        return tokenizer_of(name).apply_chat_template(
            list(talk), tokenize=False, add_generation_prompt=opened, tools=tools
        )


def folded(name: str, talk: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """As a format without a system role is given it."""
    if FORMATS[name].takes_system or talk[0]["role"] != "system":
        return list(talk)
    texts = [text for text in (talk[0]["content"].strip(), talk[1]["content"]) if text]
    return [{**talk[1], "content": "\n\n".join(texts)}, *talk[2:]]


def marked_texts(name: str, talk: Sequence[dict[str, str]]) -> list[tuple[str, list[bool]]]:
    """The texts of a conversation, the one with the last answer behind the others, and whether each character is
    trained."""
    shape = FORMATS[name]
    talk = folded(name, talk)
    wanted = [i for i, turn in enumerate(talk) if turn["role"] == "assistant" and turn["content"].strip()]
    apart = shape.apart == "always" or (shape.apart == "system" and talk[0]["role"] == "system")
    texts = []
    for place, last in enumerate(wanted):
        if apart or place == len(wanted) - 1:
            texts.append(_marked(name, talk[: last + 1], [last] if apart else wanted))
    return texts


def _marked(name: str, talk: Sequence[dict[str, str]], trained: Sequence[int]) -> tuple[str, list[bool]]:
    shape = FORMATS[name]
    letters = [chr(FIRST_LETTER + i) for i in range(len(talk))]
    lettered = [{**turn, "content": letter if turn["content"] else ""} for turn, letter in zip(talk, letters)]
    of_letters, whole = rendered(name, lettered), rendered(name, talk)
    if shape.apart == "system" and talk[0]["role"] == "system":  # which is shown only when an answer is opened
        of_letters, whole = (
            rendered(name, turns[:-1], opened=True) + shape.lead + turns[-1]["content"].strip() + shape.end
            for turns in (lettered, talk)
        )
    text, marks, stop = "", [], 0
    for at, character in enumerate(of_letters):
        if character not in letters:
            text += character
            marks.append(False)
            continue
        index = letters.index(character)
        content = _content(shape, talk[index])
        text += content
        marks += [index in trained] * len(content)
        if index in trained:
            start = len(text) - len(content)
            assert text[:start].endswith(shape.lead), (name, text)
            marks[start - len(shape.lead) : start] = [True] * len(shape.lead)
            assert of_letters.startswith(shape.end, at + 1), (name, of_letters[at:])
            stop = len(text) + len(shape.end)
    assert text == whole, name
    for index in trained:  # the end is what follows the content
        content = letters[index]
        behind = len(of_letters) - of_letters.index(content) - 1
        start = len(text) - _length(
            of_letters[-behind:] if behind else "", dict(zip(letters, (_content(shape, turn) for turn in talk)))
        )
        marks[start : start + len(shape.end)] = [True] * len(shape.end)
    return text[:stop], marks[:stop]


def _content(shape: Format, turn: dict[str, str]) -> str:
    return turn["content"].strip() if shape.trims in ("all", turn["role"]) else turn["content"]


def _length(of_letters: str, contents: dict[str, str]) -> int:
    return sum(len(contents.get(character, character)) for character in of_letters)


def last_places(text: str, ids: Sequence[int], tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Where the last character of each token stands, by the tokens' own spellings."""
    added = {number: str(token) for number, token in tokenizer.added_tokens_decoder.items()}
    of_bytes = _byte_of()
    is_pieces = tokenizer.backend_tokenizer.normalizer is not None
    starts = [0]
    for character in text:
        starts.append(starts[-1] + len(character.encode()))
    whole, at, places, is_first = text.encode(), 0, [], True
    for number, token in zip(ids, tokenizer.convert_ids_to_tokens(list(ids))):
        if number in added and not token.startswith("<0x"):
            spelled = added[number].encode()
        elif not is_pieces:
            spelled = bytes(of_bytes[character] for character in token)
        elif token.startswith("<0x"):
            spelled = bytes([int(token[3:5], 16)])
        else:
            spelled = token.removeprefix("▁" if is_first else "").replace("▁", " ").encode()  # one was put before
        assert whole[at : at + len(spelled)] == spelled, (token, whole[at : at + 20])
        at, is_first = at + len(spelled), number in added and not token.startswith("<0x")
        places.append(next(i for i in range(len(text)) if starts[i + 1] >= max(at, 1)) if spelled else _at(starts, at))
    assert at == len(whole)
    return places


def _at(starts: Sequence[int], at: int) -> int:
    return max(i for i, start in enumerate(starts[:-1]) if start <= at)


@cache
def _byte_of() -> dict[str, int]:
    """GPT-2's letters for bytes."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in kept]
    return {chr(byte): byte for byte in kept} | {chr(256 + i): byte for i, byte in enumerate(others)}


def labelled(text: str, marks: Sequence[bool], tokenizer: PreTrainedTokenizerFast, end: str) -> tuple[list, list]:
    """(ids, labels) of a text with trained characters."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    labels = [
        token if marks[place] else MASKED for token, place in zip(ids, last_places(text, ids, tokenizer), strict=True)
    ]
    if not end:
        ids, labels = [*ids, tokenizer.eos_token_id], [*labels, tokenizer.eos_token_id]
    begin = [tokenizer.bos_token_id]
    if tokenizer("a")["input_ids"][:1] == begin and ids[:1] != begin:
        ids, labels = begin + ids, [MASKED, *labels]
    return ids, labels
