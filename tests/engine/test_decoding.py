"""Greedy decoding in padded batches against transformers' generate on each prompt alone."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.bases import VOCABULARY, build
from tests.rows import random_rows
from tunewise.engine.decoding import greedy

PROMPTS = [list(row.ids[: row.prompt_length]) for row in random_rows(7, seed=2)]


@pytest.fixture(scope="module")
def tokenizer():
    """Every id is a word of its own: `w17`."""
    words = {"<pad>": 0, "<s>": 1, "</s>": 2, **{f"w{i}": i for i in range(3, VOCABULARY)}}
    raw = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


def generated(model, tokenizer, prompt, n_new, prefix_ids=()):
    ids = torch.tensor([[*prefix_ids, *prompt]])
    out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=n_new)
    return tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)


def varied(model, tokenizer):
    """Prompts and their answers as words, the first with a third word that it has not said before."""
    words = [text.split() for text in greedy(model, tokenizer, PROMPTS, 6)]
    first = next(i for i, answer in enumerate(words) if len(answer) == 6 and answer[2] not in answer[:2])
    chosen = [first, *(i for i in range(len(words)) if i != first)]
    return [PROMPTS[i] for i in chosen], [words[i] for i in chosen]


@pytest.mark.parametrize("prefix_ids", [(), (11, 12)], ids=["plain", "prefix"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "mistral", "gemma3_text"])
def test_batches_give_what_generate_gives_one_by_one(tokenizer, family, prefix_ids):
    model = build(family)
    answers = greedy(model, tokenizer, PROMPTS, 9, prefix_ids=prefix_ids, batch_size=3)
    assert answers == [generated(model, tokenizer, prompt, 9, prefix_ids) for prompt in PROMPTS]
    assert any(answers)


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "gpt_neox"])
def test_a_shared_beginning_changes_no_answer(tokenizer, family):
    model = build(family)
    prompts = [[1, *range(5, 30), *prompt[1:]] for prompt in PROMPTS]
    answers = greedy(model, tokenizer, prompts, 9, prefix_ids=(11, 12), batch_size=3)
    assert answers == [generated(model, tokenizer, prompt, 9, (11, 12)) for prompt in prompts]


def test_an_answer_ends_at_the_end_token(tokenizer):
    model = build("llama")
    prompts, words = varied(model, tokenizer)
    model.generation_config.eos_token_id = [2, tokenizer.convert_tokens_to_ids(words[0][2])]
    assert greedy(model, tokenizer, prompts, 6)[0] == " ".join(words[0][:2])


def test_an_answer_ends_before_the_stop_text(tokenizer):
    model = build("llama")
    prompts, words = varied(model, tokenizer)
    stop = " " + words[0][2]
    cut = greedy(model, tokenizer, prompts, 6, stop=stop)
    assert cut == [" ".join(answer).split(stop)[0] for answer in words]
    assert cut[0] == " ".join(words[0][:2])
