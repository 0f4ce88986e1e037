"""What a rehearsal tells, against counts by hand, the real optimiser, and what torch's allocator counts of a fit."""

import gc
import json
from dataclasses import asdict, replace
from functools import cache
from typing import Any, get_args

import pytest
import torch
from torch import nn
from torch._C._profiler import _EventType
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoModelForSequenceClassification

from tunewise.data.encode import Encoded
from tunewise.engine.batches import IGNORED
from tunewise.engine.criterion import CrossEntropy, minimising
from tunewise.engine.from_trunk import route_for
from tunewise.engine.fused import held
from tunewise.engine.objectives import objective_for
from tunewise.errors import UserError
from tunewise.methods import parse_method
from tunewise.methods.attach import attach
from tunewise.models import aside
from tunewise.models.anatomy import read_anatomy
from tunewise.models.heads import TaskHead
from tunewise.models.load import Base
from tunewise.planning import stage
from tunewise.planning.moments import Moments
from tunewise.planning.process import held_by_process
from tunewise.planning.rehearsal import rehearse
from tunewise.planning.shell import Shell, shell_of
from tunewise.planning.work import Seen, Work
from tunewise.training.config import TrainConfig
from tunewise.training.loop import fit
from tunewise.training.optimiser import Optimiser

LLAMA = {
    "model_type": "llama", "vocab_size": 512, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 7,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
}  # fmt: skip
T5 = {"model_type": "t5", "vocab_size": 512, "d_model": 64, "d_ff": 128, "d_kv": 16, "num_heads": 4, "num_layers": 6,
      "dropout_rate": 0.0, "decoder_start_token_id": 0, "pad_token_id": 0}  # fmt: skip
BERT = {"model_type": "bert", "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 5,
        "num_attention_heads": 4, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}  # fmt: skip
DEBERTA = {"model_type": "deberta-v2", "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128,
           "num_hidden_layers": 5, "num_attention_heads": 4, "hidden_dropout_prob": 0.0, "relative_attention": True,
           "attention_probs_dropout_prob": 0.0, "position_buckets": 16, "pos_att_type": ["p2c", "c2p"],
           "share_att_key": True, "norm_rel_ebd": "layer_norm", "pooler_hidden_size": 64}  # fmt: skip
CLASSIFIERS = ("bert", "deberta-v2")
WORK = Work(rows=4, tokens=32, labels=16, dtype=torch.float32)
N_ROWS = 2 * WORK.rows
LORA = {"name": "lora", "rank": 8}
AUTO = {
    "llama": AutoModelForCausalLM,
    "t5": AutoModelForSeq2SeqLM,
    **dict.fromkeys(CLASSIFIERS, AutoModelForSequenceClassification),
}


@pytest.fixture(scope="module")
def shells(tmp_path_factory):
    """A function that gives one shell for each configuration."""

    @cache
    def shell(text: str) -> Shell:
        folder = tmp_path_factory.mktemp("shell")
        (folder / "config.json").write_text(text)
        return shell_of(str(folder), head_of(json.loads(text)))

    return lambda config: shell(json.dumps(config))


def head_of(config: dict[str, object]) -> TaskHead:
    return TaskHead("classes", ("0", "1")) if config["model_type"] in CLASSIFIERS else TaskHead()


def test_a_small_llama_trained_whole_is_counted_by_hand(shells):
    d, inner, vocabulary, layers = 64, 160, 512, 7
    by_layer = 2 * d * d + 2 * d * 32 + 3 * d * inner + 2 * d
    n = 2 * vocabulary * d + layers * by_layer + d
    shell = shells(LLAMA)
    assert n == shell.n_parameters
    found = rehearse(shell, parse_method("full"), WORK)
    update = found.peaks["update", 0]
    rotation = 2 * 8 * 4  # inverse frequencies of heads of 16, and their original
    assert update["weights"] == 2 * 4 * n + rotation  # with what they were before, to which a dial can turn
    assert (update["gradients"], update["optimiser"]) == (4 * n, 8 * n)
    narrow = rehearse(shell, parse_method("full"), replace(WORK, dtype=torch.bfloat16)).peaks["update", 0]
    assert narrow["weights"] == 2 * 2 * n + rotation
    assert narrow["optimiser"] == 12 * n, "moments and masters in float32"
    best = rehearse(shell, parse_method("full"), replace(WORK, keeps_best=True)).peaks["update", 0]
    assert best["weights"] == 3 * 4 * n + rotation


def test_large_copies_lie_on_the_disk_and_one_layer_is_updated_at_a_time(shells, monkeypatch):
    shell, full = shells(LLAMA), parse_method("full")
    work = replace(WORK, dtype=torch.bfloat16, keeps_best=True)
    n, n_embedded, n_layer = shell.n_parameters, 512 * 64, 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 160 + 2 * 64
    few = rehearse(shell, full, work)
    assert few.peaks["update", 0]["weights"] == 3 * 2 * n + 64
    monkeypatch.setattr(aside, "LARGEST_IN_MEMORY_BYTES", 0)
    found, whole = (rehearse(shell, full, work, whole=each) for each in (False, True))
    assert found.memory == whole.memory
    first = whole.peaks["update of base.model.embed_tokens.weight", 0]
    assert (first["weights"], first["optimiser"]) == (2 * n + 64, 12 * n)
    assert first["gradients"] == 2 * n + 4 * n_embedded  # before the narrow one makes room
    second = whole.peaks["update", 0]
    assert second["gradients"] == pytest.approx(2 * (n - n_embedded) + 4 * n_layer - 2 * n_layer, abs=2 * 64 * 160)
    assert whole.memory.allocated == few.memory.allocated - 2 * 2 * n


@pytest.mark.parametrize("kind", get_args(TrainConfig.model_fields["optimiser"].annotation))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_moments_are_those_of_the_real_optimiser(dtype, kind):
    shapes = {"layers.0.a": (70, 90), "embedding": (70, 90), "layers.0.experts": (3, 20, 30), "layers.0.b": (13,)}
    tensors = {name: nn.Parameter(torch.ones(shape, dtype=dtype)) for name, shape in shapes.items()}
    optimiser = Optimiser(tensors, TrainConfig(optimiser=kind))
    for tensor in tensors.values():
        tensor.grad = torch.ones_like(tensor)
    optimiser.gradient_norm(1.0)
    optimiser.step(1e-3)
    real = sum(tensor.nbytes for name, tensor in optimiser.state().items() if not name.startswith("step."))
    counted = Moments(tensors, kind)
    held = [tensor for moments in counted._moments.values() for tensor in moments] + list(counted._masters.values())
    assert sum(tensor.nbytes for tensor in held) == real
    with pytest.raises(UserError, match="optimiser"):
        Moments(tensors, "adamv")


@pytest.mark.parametrize(
    ("config", "method", "checkpointing"),
    [
        (LLAMA, LORA, False),
        (LLAMA, "full", True),
        (LLAMA, {"name": "top_layers", "layers": 2}, False),
        (T5, LORA, False),
        (BERT, "bitfit", True),
    ],
    ids=["lora", "full, checkpointing", "top_layers", "t5", "bert, checkpointing"],
)
def test_a_few_layers_tell_what_all_of_them_tell(shells, config, method, checkpointing):
    work = replace(WORK, checkpointing=checkpointing, labels=1 if config is BERT else 16)
    shell, chosen = shells(config), parse_method(method)
    few, whole = (rehearse(shell, chosen, work, whole=each) for each in (False, True))
    assert few.memory == whole.memory
    assert (few.flops, few.bytes_moved, few.n_operations) == (whole.flops, whole.bytes_moved, whole.n_operations)


def _rows(kind: str, n_labels: int = WORK.labels) -> list[Encoded]:
    ids = [tuple(torch.randint(3, 512, (WORK.tokens,), generator=torch.Generator().manual_seed(i)).tolist())
           for i in range(N_ROWS)]  # fmt: skip
    n = WORK.tokens - n_labels
    labels = {
        "llama": lambda each: (*[IGNORED] * n, *each[n:]),
        "t5": lambda each: each[:n_labels],
        **dict.fromkeys(CLASSIFIERS, lambda each: (each[0] % 2,)),
    }
    return [Encoded(str(i), each, labels[kind](each), n, False) for i, each in enumerate(ids)]


def peak_of(profile: torch.profiler.profile) -> int:
    """The most that was allocated at a time; what earlier profiles have left is taken off."""
    pending, found = list(profile.profiler.kineto_results.experimental_event_tree()), []
    while pending:
        event = pending.pop()
        pending += event.children
        if event.tag == _EventType.Allocation:
            told = event.extra_fields
            found.append((event.start_time_ns, told.total_allocated, told.alloc_size))
    _, first, size = min(found)
    return max(total for _, total, _ in found) - (first - size)


class _Padding:
    pad_token_id = 0


@pytest.mark.parametrize(
    ("config", "method", "checkpointing"),
    [
        (LLAMA, LORA, False),
        (LLAMA, LORA, True),
        (LLAMA, "full", False),
        (LLAMA, "prefix_tuning", False),
        (T5, LORA, False),
        (BERT, "full", False),
        (DEBERTA, "full", False),
    ],
    ids=["lora", "lora, checkpointing", "full", "prefix", "t5", "bert", "deberta"],
)
def test_it_is_what_the_allocator_counts_of_real_steps(shells, tmp_path, config, method, checkpointing):
    """Within 1 % and 128 KiB: ids, and the states of generators that are kept with checkpoints, 5 KB a layer."""
    predicted, peak = _both(shells, tmp_path, config, method, replace(WORK, checkpointing=checkpointing))
    assert predicted.allocated == pytest.approx(peak, rel=0.01, abs=1 << 17)
    assert predicted.total == predicted.allocated + predicted.process
    assert predicted.process >= held_by_process(0)


@pytest.mark.parametrize(("config", "dtype"), [(LLAMA, torch.bfloat16), (BERT, torch.float32)])
@pytest.mark.parametrize("most_in_memory", [0, 1 << 28], ids=["on the disk", "in memory"])
def test_so_it_is_with_the_best_state_kept(shells, tmp_path, monkeypatch, config, dtype, most_in_memory):
    monkeypatch.setattr(aside, "LARGEST_IN_MEMORY_BYTES", most_in_memory)
    work = replace(WORK, dtype=dtype, keeps_best=True)
    predicted, peak = _both(shells, tmp_path, config, "full", work)
    assert predicted.allocated == pytest.approx(peak, rel=0.01, abs=1 << 17)


@pytest.mark.parametrize(
    ("optimiser", "decays"), [("adafactor", False), ("muon", False), ("sgd", False), ("sgd", True)]
)
def test_so_it_is_with_other_optimisers(shells, tmp_path, optimiser, decays):
    """Of a short row the update is the highest moment."""
    work = replace(WORK, rows=1, tokens=8, optimiser=optimiser, decays=decays)
    predicted, peak = _both(shells, tmp_path, LLAMA, "full", work)
    assert predicted.allocated == pytest.approx(peak, rel=0.01, abs=1 << 15)


@pytest.mark.parametrize("packing", [True, False])
def test_so_it_is_with_smoothed_labels(shells, tmp_path, monkeypatch, packing):
    """They take nothing more, by the plan and by the allocator."""
    if not packing:
        monkeypatch.setattr(stage, "objective_for", lambda base, prefix=(), **_: objective_for(base, prefix))
    method = {"name": "lora", "rank": 3 if packing else 5}  # what is tried of a method is kept with its shell
    work = replace(WORK, labels=31, checkpointing=True)
    plain = rehearse(shells(LLAMA), parse_method(method), work).memory
    smoothed, peak = _both(shells, tmp_path, LLAMA, method, replace(work, label_smoothing=0.1), packing)
    assert smoothed.allocated == pytest.approx(plain.allocated, abs=1 << 10)
    assert smoothed.allocated == pytest.approx(peak, rel=0.01, abs=1 << 17)


def _both(shells, tmp_path, config, method, work, packing=True):
    """What is predicted, and what is counted at the peak of two epochs of two steps."""
    kind, shell = str(config["model_type"]), shells(config)
    model = AUTO[kind].from_config(shell.config).to(work.dtype)
    at_rest = sum(each.nbytes for each in {*model.parameters(), *model.buffers()})
    work = replace(work, labels=1 if kind in CLASSIFIERS else work.labels)
    predicted = rehearse(shell, parse_method(method), work).memory
    looks = {"evaluate_every": 1.0 if work.keeps_best else None, "optimiser": work.optimiser}
    looks |= {"weight_decay": 0.1 if work.decays else 0.0}
    train = TrainConfig(steps=4, batch_size=work.rows, checkpoint_every=0, checkpointing=work.checkpointing, **looks)
    gc.collect()  # what earlier tests left behind is not to be freed on the way, and counted as given back
    recorded = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True)
    with held(model), recorded as profile:
        tuned = attach(model, parse_method(method))
        base = Base(model, _Padding(), read_anatomy(model), "", "", model.dtype, shell.head)
        objective: Any = objective_for(base, tuned.prefix_ids, packing=packing)
        objective = minimising(objective, CrossEntropy(work.label_smoothing))
        if work.seen is not None:
            route = route_for(tuned, objective, _rows(kind, work.labels), group_size=work.rows)
            assert not route.reason
            objective = route.objective
        told = {"seed": 0, "folder": tmp_path / "fit", "objective": objective}
        fit(tuned, _rows(kind, work.labels), train, dev_score=(lambda: 0.5) if work.keeps_best else None, **told)
    peak = peak_of(profile)
    assert peak > 0
    return predicted, at_rest + peak


def test_operations_are_those_of_a_real_step(shells):
    shell = shells(LLAMA)
    found = rehearse(shell, parse_method("full"), WORK)
    model = AUTO["llama"].from_config(shell.config)
    tuned = attach(model, parse_method("full"))
    objective = objective_for(Base(model, _Padding(), tuned.anatomy, "", "", model.dtype), packing=True)
    batch = objective.collate(_rows("llama")[: WORK.rows])
    model.train()
    with FlopCounterMode(display=False) as counted, objective.ready(model):
        objective.loss(model, batch).backward()
    of_attention = 7 * 7 * (2 * WORK.rows * WORK.tokens**2 // 2 * 64)  # 7 products of all pairs in each of 7 layers
    assert found.flops == {torch.float32: counted.get_total_flops() + of_attention}


def test_more_rows_take_more_and_checkpoints_less(shells):
    shell, method = shells(LLAMA), parse_method(LORA)
    totals = [rehearse(shell, method, replace(WORK, rows=rows)).memory.total for rows in (1, 2, 8, 16)]
    assert totals == sorted(set(totals))
    plain, checkpointed = (rehearse(shell, method, replace(WORK, checkpointing=each)) for each in (False, True))
    assert checkpointed.memory.activations < plain.memory.activations / 3
    assert checkpointed.flops[torch.float32] > plain.flops[torch.float32]
    on_gpu = rehearse(shell, method, WORK, "cuda").memory
    assert on_gpu.process == 0
    assert on_gpu.total == on_gpu.allocated == sum(asdict(on_gpu).values())


def test_a_quantised_base_is_four_bits_a_weight_and_its_scales(shells):
    shell, work = shells(LLAMA), replace(WORK, dtype=torch.bfloat16, quantise="nf4")
    n = 7 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 160)
    n_copied = 7 * (2 * 64 * 192 + 64 * 160)  # to multiply by, of those that are large; its rows are in blocks of 64
    plain = rehearse(shell, parse_method(LORA), replace(work, quantise="")).memory
    found = rehearse(shell, parse_method(LORA), work).memory
    assert plain.weights - found.weights == 2 * (n + n_copied) - n // 2
    blocks = n // 64
    assert blocks <= found.constants - 7 * 7 * 4 * 272 <= blocks + 4 * (blocks / 256 + 7 * 7 * 2)
    assert rehearse(shell, parse_method(LORA), replace(work, quantise="int8")).memory.weights > found.weights
    with pytest.raises(UserError, match="codes"):
        rehearse(shell, parse_method("full"), work)


@pytest.mark.parametrize("tied", [False, True])
def test_ends_in_8_bits_are_a_byte_a_weight_and_a_scale_a_row(shells, tied):
    shell, work = shells({**LLAMA, "tie_word_embeddings": tied}), replace(WORK, dtype=torch.bfloat16, quantise="nf4")
    rows = shell.config.vocab_size * (1 if tied else 2)
    found = rehearse(shell, parse_method(LORA), work).memory
    packed = rehearse(shell, parse_method(LORA), replace(work, quantise="nf4-ends8")).memory
    assert found.weights - packed.weights == 64 * rows
    assert packed.constants - found.constants == 4 * rows
    assert (packed.gradients, packed.optimiser) == (found.gradients, found.optimiser)
    method = "full" if tied else "head"
    with pytest.raises(UserError, match=r"embed_tokens\.weight: a quantised|lm_head\.weight: a quantised"):
        rehearse(shell, parse_method(method), replace(work, quantise="nf4-ends8"))


@pytest.mark.parametrize(
    ("config", "method", "counted_by"),
    [
        (LLAMA, {"name": "top_layers", "layers": 2}, "tokens"),
        (LLAMA, "head", "labels"),
        (BERT, "head", "rows"),
        (BERT, {"name": "top_layers", "layers": 2}, "tokens"),
        (T5, {"name": "top_layers", "layers": 2}, "tokens"),
    ],
    ids=["llama, top layers", "llama, head", "bert, head", "bert, top layers", "t5, top layers"],
)
def test_so_it_is_from_what_left_a_frozen_trunk(shells, tmp_path, config, method, counted_by):
    """The store of all rows among it, its first pass, and the steps from there: within 1 % of what is counted."""
    labels = 1 if config is BERT else WORK.labels
    n = {"rows": N_ROWS, "tokens": N_ROWS * WORK.tokens, "labels": N_ROWS * labels}
    seen = Seen(**n, passes=2.0)
    work = replace(WORK, labels=labels, seen=seen)
    predicted, peak = _both(shells, tmp_path, config, method, work)
    assert predicted.cache == n[counted_by] * 64 * 4
    assert predicted.allocated == pytest.approx(peak, rel=0.01, abs=1 << 16)


@pytest.mark.parametrize("method", [{"name": "top_layers", "layers": 2}, "head"], ids=["top layers", "head"])
def test_a_trunk_is_run_once_and_what_leaves_it_kept_where_there_is_room(shells, method):
    seen = Seen(rows=100, tokens=3200, labels=1600)
    work, shell, chosen = replace(WORK, seen=seen), shells(LLAMA), parse_method(method)
    few, whole = (rehearse(shell, chosen, work, whole=each) for each in (False, True))
    assert replace(few, peaks={}) == replace(whole, peaks={})
    live = rehearse(shell, chosen, WORK)
    assert live.memory.cache == 0
    sums = [sum(each.values()) for each in (few.flops, few.trunk_pass.flops, live.flops)]
    assert sums[0] < 0.6 * sums[2]
    assert sums[0] + sums[1] == pytest.approx(sums[2], rel=0.02)
    full = rehearse(shell, chosen, replace(work, seen=replace(seen, memory_bytes=3000, disk_bytes=1000)))
    told, n_bytes = full.trunk_plan, few.memory.cache
    assert (told.memory_bytes, told.mapped_bytes, told.missing_bytes) == (3000, 1000, n_bytes - 4000)
    assert (full.memory.cache, told.missing) == (3000, 1 - 4000 / n_bytes)
    assert rehearse(shell, chosen, work, "cuda").memory.cache == 0, "on a GPU it stays with the host"


@pytest.mark.parametrize(
    ("config", "method", "changes", "reason"),
    [
        (LLAMA, LORA, {}, "first layer"),
        (LLAMA, "head", {"passes": 0.9}, "no row is seen twice"),
        (LLAMA, "head", {"how": "live"}, "train.trunk=live"),
        ({**BERT, "hidden_dropout_prob": 0.1}, "head", {}, "dropout acts in the frozen layers"),
        ({**BERT, "hidden_dropout_prob": 0.1}, "head", {"how": "cached"}, ""),
    ],
)
def test_what_a_run_would_not_keep_is_planned_live_with_the_reason(shells, config, method, changes, reason):
    seen = replace(Seen(rows=100, tokens=3200, labels=1600), **changes)
    found = rehearse(shells(config), parse_method(method), replace(WORK, labels=1, seen=seen))
    assert reason in found.trunk_plan.reason
    assert found.trunk_plan.is_cached == (not reason) == bool(found.memory.cache)


def test_what_cannot_be_run_is_told_by_name(shells):
    shape = {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    with pytest.raises(UserError, match=r"a step of multitask_prompt on .* cannot be rehearsed: IndexError"):
        rehearse(shells({"model_type": "gpt2", **shape}), parse_method("multitask_prompt"), replace(WORK, tokens=16))


def test_405_billion_parameters_are_rehearsed_from_a_few_layers(shells):
    shape = {"vocab_size": 128256, "hidden_size": 16384, "intermediate_size": 53248, "num_hidden_layers": 126}
    heads = {"num_attention_heads": 128, "num_key_value_heads": 8, "max_position_embeddings": 131072}
    shell = shells({"model_type": "llama", **shape, **heads})
    found = rehearse(shell, parse_method(LORA), Work(1, 1024, 256), "cuda")
    n, n_lora = 405_853_388_800, 126 * 8 * (2 * 16384 + 16384 + 1024)
    assert found.memory.weights == pytest.approx(2 * n + 4 * n_lora, rel=1e-6)
    assert found.memory.optimiser == 8 * n_lora
    assert found.flops[torch.bfloat16] == pytest.approx(4 * n * 1024, rel=0.05)
    assert found.memory.activations > 126 * 1024 * 16384 * 2 * 3
