import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests import more_bases
from tests.bases import DECODERS, build, drawn
from tests.rows import random_rows
from tunewise.engine.scoring import option_log_probabilities, sequence_losses
from tunewise.methods import parse_method
from tunewise.methods.attach import attach

PROMPTS = [list(row.ids[: row.prompt_length]) for row in random_rows(7)]


@torch.no_grad()
def log_probability(model, prompt, answer, prefix_ids=()):
    ids = [*prefix_ids, *prompt]
    total = 0.0
    for token in answer:
        total += model(torch.tensor([ids]), use_cache=False).logits[0, -1].log_softmax(-1)[token].item()
        ids.append(token)
    return total


SHOWN = [5, 9, 17, 33, 12, 8, 40, 41, 6, 7, 21, 22, 23, 9, 50, 51, 3, 4]  # what every prompt begins with

NOT_SHARED = ("qwen3_5_text", "lfm2", "mpt", "gpt_neo")
"""Where padding behind it would be carried on by a recurrence, move keys away, or stand in a window of columns."""


@pytest.mark.parametrize(
    "family", [*(family for family in DECODERS if family != "gemma2"), *NOT_SHARED, "falcon_alibi"]
)
@pytest.mark.parametrize("prefix_ids", [(), (11, 12)], ids=["plain", "prefix"])
def test_a_shared_beginning_and_shared_prompts_change_nothing(family, prefix_ids):
    model = build(family) if family in DECODERS else more_bases.build(family, torch.float32)
    prompts = [[1, *SHOWN, *rest] for rest in (*(prompt[1:] for prompt in PROMPTS[1:]), (7,))]
    options = [[[i + 3, 5, 7], [i + 4], [9, 8]] for i in range(7)]
    scores = option_log_probabilities(model, prompts, options, pad_id=0, prefix_ids=prefix_ids, batch_size=3)
    for prompt, row, found in zip(prompts, options, scores, strict=True):
        expected = [log_probability(model, prompt, option, prefix_ids) for option in row]
        assert found == pytest.approx(expected, abs=1e-10 if family in DECODERS else 1e-4)


def test_a_window_that_is_wider_than_what_is_tried_is_told_by_its_name():
    """Nothing that is tried reaches beyond 40 columns, and these prompts do."""
    small = more_bases.DECODERS["gpt_neo"]
    config = AutoConfig.for_model(small.model_type, **{**small.fields, "window_size": 40})
    model = drawn(lambda: AutoModelForCausalLM.from_config(config))
    prompts = [[1, *SHOWN, *SHOWN, 7, 9, *range(3, 3 + n)] for n in (1, 12)]
    scores = option_log_probabilities(model, prompts, [[[5, 9], [6]]] * 2, pad_id=0, packing=False)
    expected = [[log_probability(model, prompt, option) for option in ([5, 9], [6])] for prompt in prompts]
    for found, wanted in zip(scores, expected, strict=True):
        assert found == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("family", ["qwen3_5_text", "lfm2"])
def test_biases_that_are_added_reach_no_padding_of_a_convolution_or_a_recurrence(family):
    model = more_bases.build(family, torch.float32)
    tuned = attach(model, parse_method({"name": "bitfit", "add": True}))
    with torch.no_grad():
        for number, tensor in enumerate(tuned.trainable.values()):
            tensor.copy_(torch.randn(tensor.shape, generator=torch.Generator().manual_seed(number)) / 3)
    prompts, option = [[5, 7, 9], [1, *SHOWN], [8] * 9], [[4], [6, 3]]
    together = option_log_probabilities(model, prompts, [option] * 3, pad_id=0, packing=False)
    for prompt, found in zip(prompts, together, strict=True):
        assert found == pytest.approx([log_probability(model, prompt, each) for each in option], abs=1e-4)
    tuned.detach()


@pytest.mark.parametrize("family", ["gpt_oss", "granite_swa"])
def test_sinks_of_an_attention_count_on_padded_rows(family):
    """As they do in the model's own forward of one row; without them it says something else."""
    model = (more_bases.build if family in more_bases.MORE else build)(family, torch.float32)
    sinks = [each for name, each in model.named_parameters() if "sinks" in name]
    assert len(sinks) == 2
    prompts, option, found = [[5, 7, 9], [1, *SHOWN], [8] * 9], [[4], [6, 3]], []
    for value in (2.0, -1e9):
        for sink in sinks:
            torch.nn.init.constant_(sink, value)
        together = option_log_probabilities(model, prompts, [option] * 3, pad_id=0)
        alone = [[log_probability(model, prompt, each) for each in option] for prompt in prompts]
        assert torch.tensor(together) == pytest.approx(torch.tensor(alone), abs=1e-4)
        found.append(torch.tensor(together))
    assert float((found[0] - found[1]).abs().max()) > 0.1


def test_a_shared_beginning_is_read_once():
    calls = []
    for family in ("llama", "mistral"):
        model, shapes = build(family), []

        def note(module, args, kwargs, shapes=shapes):
            shapes.append(tuple(kwargs["input_ids"].shape))

        prompts = [[1, *SHOWN, *prompt[1:]] for prompt in PROMPTS]
        for _ in range(2):  # what is tried first is so once
            hook = model.register_forward_pre_hook(note, with_kwargs=True)
            shapes.clear()
            option_log_probabilities(model, prompts, [[[5], [6]]] * 7, pad_id=0, batch_size=7)
            hook.remove()
        calls.append(shapes)
    longest = max(map(len, PROMPTS))
    assert calls[0] == [(1, 1 + len(SHOWN)), (7, longest - 1)]
    # mistral's window of 8 tokens counts columns, and padding would stand inside it
    assert calls[1] == [(7, longest + len(SHOWN))]


@pytest.mark.parametrize("prefix_ids", [(), (11, 12)], ids=["plain", "prefix"])
@pytest.mark.parametrize(
    "options",
    [[[[5], [6], [7]]] * 7, [[[5], [6, 9, 8]]] * 7, [[[i + 3, 5], [i + 4]] for i in range(7)]],
    ids=["one token each", "of unlike length", "own options a prompt"],
)
def test_each_option_gets_its_summed_log_probability(options, prefix_ids):
    model = build("llama")
    scores = option_log_probabilities(model, PROMPTS, options, pad_id=0, prefix_ids=prefix_ids, batch_size=3)
    for prompt, row, found in zip(PROMPTS, options, scores, strict=True):
        expected = [log_probability(model, prompt, option, prefix_ids) for option in row]
        assert found == pytest.approx(expected, abs=1e-10)


def test_one_token_options_cost_one_forward_a_prompt():
    model, calls = build("llama"), []
    model.register_forward_pre_hook(lambda module, args, kwargs: calls.append(kwargs["input_ids"]), with_kwargs=True)
    option_log_probabilities(model, PROMPTS, [[[5], [6], [7], [8]]] * 7, pad_id=0, batch_size=7)
    assert [tuple(ids.shape) for ids in calls] == [(7, max(map(len, PROMPTS)))]


def test_documents_are_scored_in_the_order_given():
    model = build("gpt2")
    documents = [[9], *(list(row.ids) for row in random_rows(5, seed=1)), []]
    found = sequence_losses(model, documents, pad_id=0, batch_size=2)
    for ids, (loss, n_tokens) in zip(documents, found, strict=True):
        assert n_tokens == max(0, len(ids) - 1)
        assert loss == pytest.approx(-log_probability(model, ids[:1], ids[1:]), abs=1e-10)
