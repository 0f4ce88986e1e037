"""lm-evaluation-harness on tuned models: the figures of its own model class, answered by our engine."""

import builtins
import random
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from tests.harness_tasks import write_tasks
from tests.tuned import moved
from tunewise.errors import UserError
from tunewise.evaluation.harness import harness_scores
from tunewise.methods import parse_method
from tunewise.methods.attach import attach
from tunewise.models.heads import TaskHead
from tunewise.models.load import load_base

needs_harness = pytest.mark.skipif(not find_spec("lm_eval"), reason="lm_eval, of the extra `eval`, is not installed")
TASKS = ("boats", "boats_written", "boats_text")
LONG = "The boat was late and the soup was cold. " * 80  # far beyond the context
PAIRS = [
    ("The boat was", " late"), ("The boat was", " wet and cold in the harbour"), ("Is it? ", "yes"), ("", "The boat"),
    (LONG, " late again"), ("Olav:", " the"),
]  # fmt: skip


@pytest.fixture(scope="module")
def base():
    return load_base("tiny", "float32")


@pytest.fixture
def lora(base):
    tuned = attach(base.model, parse_method({"name": "lora", "rank": 4}), seed=1)
    with torch.no_grad():
        for name, tensor in tuned.trainable.items():
            tensor.copy_(0.1 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(len(name))))
    base.model.eval()
    yield tuned
    tuned.detach()


@pytest.fixture
def prompt(base):
    tuned = moved(
        attach(base.model, parse_method({"name": "prompt_tuning", "virtual_tokens": 5}), tokenizer=base.tokenizer)
    )
    base.model.eval()
    yield tuned
    tuned.detach()


def both(base):
    """The harness's model of transformers, and ours."""
    from lm_eval.models.huggingface import HFLM

    from tunewise.evaluation.harness_model import HarnessModel

    return HFLM(pretrained=base.model, tokenizer=base.tokenizer, batch_size=4), HarnessModel(base)


def asked(kind, of):
    from lm_eval.api.instance import Instance

    return [Instance(request_type=kind, doc={}, arguments=arguments, idx=0) for arguments in of]


@needs_harness
def test_likelihoods_of_a_tuned_lora_are_those_of_the_harness(base, lora):
    theirs, ours = both(base)
    (greedy,) = ours.generate_until(asked("generate_until", [("The boat was", {"max_gen_toks": 3})]))
    requests = asked("loglikelihood", [*PAIRS, ("The boat was", greedy)])
    found = ours.loglikelihood(requests)
    for (value, is_greedy), (expected, was_greedy) in zip(found, theirs.loglikelihood(requests), strict=True):
        assert value == pytest.approx(expected, abs=1e-4)
        assert is_greedy == was_greedy
    assert [is_greedy for _, is_greedy in found][-1:] == [True]
    assert not all(is_greedy for _, is_greedy in found)
    lora.scale = 0.0
    assert abs(ours.loglikelihood(requests)[0][0] - found[0][0]) > 0.1


@needs_harness
def test_whole_texts_and_generations_are_those_of_the_harness(base, lora):
    theirs, ours = both(base)
    texts = [("The boat was late.",), (LONG,)]
    assert ours.loglikelihood_rolling(asked("loglikelihood_rolling", texts)) == pytest.approx(
        theirs.loglikelihood_rolling(asked("loglikelihood_rolling", texts)), rel=1e-5, abs=1e-4
    )
    hows = [{"until": ["\n", "."], "max_gen_toks": 20}, {"until": [" the"], "max_gen_toks": 9, "do_sample": False}]
    wanted = [(text, how) for text in ("The boat was", "Olav and Kari", LONG) for how in hows]
    written = ours.generate_until(asked("generate_until", wanted))
    assert written == theirs.generate_until(asked("generate_until", wanted))
    assert len({text for text in written if text}) >= 3


@needs_harness
def test_a_soft_prompt_stands_before_every_text(base, prompt, caplog):
    from tunewise.evaluation.harness_model import HarnessModel

    def log_probability(context, continuation):
        ids = [base.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (context, continuation)]
        whole = torch.tensor([[*prompt.prefix_ids, *ids[0], *ids[1]]])
        logits = base.model(whole, use_cache=False).logits[0, -len(ids[1]) - 1 : -1].log_softmax(-1)
        return sum(row[token].item() for row, token in zip(logits, ids[1], strict=True))

    pairs = PAIRS[:2]
    with torch.no_grad():
        expected = [log_probability(*pair) for pair in pairs]
    found = HarnessModel(base, prompt.prefix_ids).loglikelihood(asked("loglikelihood", pairs))
    assert [value for value, _ in found] == pytest.approx(expected, abs=1e-4)
    bare = HarnessModel(base).loglikelihood(asked("loglikelihood", pairs))
    assert abs(bare[0][0] - found[0][0]) > 1e-2
    caplog.clear()
    tuned = HarnessModel(base, prompt.prefix_ids)
    (long,) = tuned.loglikelihood(asked("loglikelihood", [(LONG, " late")]))
    room = base.anatomy.context_length - len(prompt.prefix_ids)
    ids = base.tokenizer(LONG.rstrip(), add_special_tokens=False)["input_ids"][-room:]
    (cut,) = tuned._loglikelihood_tokens([(None, ids, base.tokenizer("  late", add_special_tokens=False)["input_ids"])])
    assert len(ids) == room
    assert long == cut
    assert "1 of 1 prompts of the harness lost their beginning" in caplog.text


@needs_harness
def test_tasks_score_as_in_the_harness_itself(base, lora, tmp_path):
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    folder = write_tasks(tmp_path / "tasks")
    random.seed(5)
    np.random.seed(6)
    torch.manual_seed(7)
    before = random.random(), float(np.random.rand()), torch.rand(1).item()
    random.seed(5)
    np.random.seed(6)
    torch.manual_seed(7)
    found = harness_scores(base, TASKS, include_path=folder, limit=9, shots=1)
    assert (random.random(), float(np.random.rand()), torch.rand(1).item()) == before
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    expected = simple_evaluate(
        both(base)[0], tasks=list(TASKS), limit=9, num_fewshot=1, task_manager=manager, bootstrap_iters=100
    )["results"]
    assert list(found) == list(TASKS)
    for task, names in zip(TASKS, (("acc", "acc_norm"), ("exact_match",), ("word_perplexity",)), strict=True):
        for name in names:
            assert found[task][name] == pytest.approx(expected[task][f"{name},none"], rel=1e-5)
            if name != "word_perplexity":
                assert found[task][f"{name}_stderr"] == pytest.approx(expected[task][f"{name}_stderr,none"])
        assert found[task]["n"] == len(found[task]["items"]) == 9
    items = found["boats"]["items"]
    assert [item["id"] for item in items] == [*range(9)]
    assert np.mean([item["acc"] for item in items]) == pytest.approx(found["boats"]["acc"])
    assert 0 < found["boats"]["acc"] < 1


@needs_harness
def test_what_cannot_be_asked_is_told(base, tmp_path):
    folder = write_tasks(tmp_path / "tasks")
    with pytest.raises(UserError) as error:
        harness_scores(base, ["boat"], include_path=folder)
    assert error.value.message == "the harness has no task named 'boat'"
    assert error.value.hint.startswith("did you mean 'boats'?")
    with pytest.raises(UserError, match="no such file"):
        harness_scores(base, ["boats"], include_path=tmp_path / "nowhere")
    written = (folder / "written.yaml").read_text()
    (folder / "written.yaml").write_text(written.replace("max_gen_toks: 12", "max_gen_toks: 100000"))
    with pytest.raises(UserError, match="leave no room in the context of tiny"):
        harness_scores(base, ["boats_written"], include_path=folder)
    (folder / "rows.jsonl").unlink()
    with pytest.raises(UserError, match="the harness cannot carry out boats: "):
        harness_scores(base, ["boats"], include_path=folder)


@needs_harness
def test_the_definitions_of_glue_agree_with_the_harness():
    """Its answers to class 0, 1, ... in the order of the ids; ours may be other words for the same."""
    import yaml
    from lm_eval import tasks

    from tunewise.data.benchmarks import BENCHMARKS

    class Loader(yaml.SafeLoader):
        """Reads `!function` as its name."""

    Loader.add_constructor("!function", lambda loader, node: node.value)
    same = {"True": ("yes", "true"), "False": ("no", "false"), "Neither": ("unclear",)}
    root = next(iter(tasks.__path__))
    n_seen = 0
    for name, benchmark in BENCHMARKS.items():
        suite, _, task = name.partition(":")
        file = f"{root}/{suite}/{task.removesuffix('_mismatched')}/default.yaml"
        if task in ("stsb", "copa"):  # the harness has none, and makes its answers of the row
            continue
        with open(file, encoding="utf-8") as stream:
            theirs = yaml.load(stream, Loader)
        assert (theirs["dataset_path"], theirs["dataset_name"]) == (
            {"glue": "nyu-mll/glue", "super_glue": "aps/super_glue"}[suite], benchmark.config or task,
        )  # fmt: skip
        for ours, word in zip(benchmark.words, theirs["doc_to_choice"], strict=True):
            assert ours in same.get(word, (word,)), name
        n_seen += 1
    assert n_seen == 14


def test_a_classifier_is_refused(base):
    with pytest.raises(UserError, match="tiny is no decoder with its language-model head"):
        harness_scores(replace(base, head=TaskHead("classes", ("no", "yes"))), ["mmlu"])


def test_without_the_harness_the_hint_names_the_extra(base, monkeypatch):
    plain = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("lm_eval"):
            raise ImportError("No module named 'lm_eval'")
        return plain(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError) as error:
        harness_scores(base, ["mmlu"])
    assert error.value.message == "the package lm_eval cannot be imported: No module named 'lm_eval'"
    assert error.value.hint == "pip install 'tunewise[eval]'"
