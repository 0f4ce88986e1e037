"""Training from what leaves the frozen trunk against training the whole model: the same losses and gradients."""

import logging
import os
import signal
from dataclasses import replace

import pytest
import torch

from tests import bases
from tests.rows import random_rows
from tests.small_base import write_image_model, write_pictures
from tests.tuned import losses_and_gradients
from tests.tuned import moved as moved_from_its_start
from tunewise.data.encode import Encoded
from tunewise.engine.from_trunk import FromTrunk, from_trunk, route_for
from tunewise.engine.native.build import library, why_not
from tunewise.engine.objectives import Images, Labels, NextToken, PackedNextToken, Writing, objective_for
from tunewise.engine.trunk_store import Store, store_of
from tunewise.errors import UserError
from tunewise.methods import parse_method
from tunewise.methods.attach import attach
from tunewise.models.heads import TaskHead
from tunewise.models.load import Base, load_base
from tunewise.training.config import TrainConfig
from tunewise.training.interrupt import Interrupted
from tunewise.training.loop import fit
from tunewise.training.progress import Silent

packs = pytest.mark.skipif(library() is None, reason=f"no kernels here: {why_not()}")
METHODS = {
    "head": {"name": "head"},
    "top_layers": {"name": "top_layers", "layers": 1},
    "lora": {"name": "lora", "rank": 2, "layers": [-1], "roles": ["all"]},
    "bitfit": {"name": "bitfit", "roles": ["o", "down"], "layers": [-1]},
    "bottleneck": {"name": "bottleneck", "bottleneck": 4, "layers": [-1]},
}
DECODERS = ["llama", "llama_tied", "gpt2", "gemma2", "gpt_neox", "opt"]
CLASSIFIERS = ["bert_classes", "roberta_classes", "distilbert_classes", "deberta-v2_classes", "llama_classes"]


def tuned_model(family, method, dtype=torch.float64, moved=True):
    model = bases.build(family, dtype)
    for module in model.modules():  # gpt2's and opt's defaults drop
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name in ("dropout", "attention_dropout"):
            if isinstance(vars(module).get(name), float):
                setattr(module, name, 0.0)
    tuned = attach(model, parse_method(METHODS[method] if isinstance(method, str) else method), seed=1)
    return moved_from_its_start(tuned) if moved else tuned


def base_of(tuned, kind="classes"):
    head = TaskHead(kind, ("a", "b", "c"))
    return Base(tuned.model, bases.Padding(), tuned.anatomy, "", "", tuned.model.dtype, head)


def classified(n=9, tags=False, pairs=False):
    generator = torch.Generator().manual_seed(3)
    made = []
    for number in range(n):
        length = int(torch.randint(3, 20, (1,), generator=generator))
        ids = torch.randint(1, bases.VOCABULARY, (length,), generator=generator).tolist()
        segments = (0,) * 2 + (1,) * (length - 2) if pairs else ()
        labels = tuple(place % 3 for place in range(length)) if tags else (number % 3,)
        made.append(Encoded(str(number), tuple(ids), labels, length, False, segments))
    return made


def even_rows(n):
    """Rows of one length: in float64, transformers' eager attention (gemma2) gives NaN where a row is all padding."""
    return [
        replace(row, ids=row.ids[:6], labels=(-100,) * 3 + row.ids[3:6])
        for row in random_rows(3 * n)
        if len(row.ids) > 5
    ][:n]


def compare(tuned, objective, rows, live, tolerance=1e-10):
    route = route_for(tuned, objective, rows, group_size=4)
    assert route.reason == ""
    assert route.trunk.live == live
    some = [rows[i] for i in (5, 1, 6, 3)]
    plain = losses_and_gradients(tuned, objective, some)
    for _ in range(2):  # computed, then from the store
        kept = losses_and_gradients(tuned, route.objective, some)
        assert kept[2] == plain[2]
        torch.testing.assert_close(kept[0], plain[0], rtol=0, atol=tolerance)
        assert kept[1].keys() == plain[1].keys() == tuned.trainable.keys()
        for name, gradient in plain[1].items():
            torch.testing.assert_close(kept[1][name], gradient, rtol=0, atol=tolerance, msg=name)
    return route


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", DECODERS)
def test_a_decoder_trains_from_its_trunk_as_whole(family, method):
    tuned = tuned_model(family, method)
    rows = even_rows(8) if family == "gemma2" else random_rows(9)
    route = compare(tuned, NextToken(0), rows, "head" if method == "head" else "layer")
    told = {"layers": 2 if method == "head" else 1, "cached": True, "reason": ""}
    assert route.told() == {**told, "n_computed": route.objective.n_computed}


@pytest.mark.parametrize("method", ["head", "lora", "bitfit", "top_layers"])
@pytest.mark.parametrize("family", [*CLASSIFIERS, "bert_tokens"])
def test_a_classifier_trains_from_its_trunk_as_whole(family, method):
    tuned, tags = tuned_model(family, method), family.endswith("tokens")
    objective = Labels(base_of(tuned, "tags" if tags else "classes"))
    compare(
        tuned, objective, classified(tags=tags, pairs=family == "bert_classes"), "head" if method == "head" else "layer"
    )


@pytest.mark.parametrize("method", ["head", "lora", "top_layers"])
@pytest.mark.parametrize("family", ["t5", "bart"])
def test_an_encoder_is_run_once_for_each_row(family, method):
    tuned = tuned_model(family, {"name": "lora", "layers": [-1], "roles": ["q", "o"]} if method == "lora" else method)
    rows = [replace(row, labels=row.ids[: 1 + number % 3]) for number, row in enumerate(classified())]
    compare(tuned, Writing(base_of(tuned)), rows, "decoder")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_runs_from_its_trunk(dtype):
    tuned, rows = tuned_model("llama", "top_layers", dtype), random_rows(9)
    tuned.model.eval()
    route = route_for(tuned, NextToken(0), rows)
    assert (route.reason, route.trunk.n_layers) == ("", 1)
    plain = NextToken(0).row_losses(tuned.model, NextToken(0).collate(rows))
    with route.objective.ready(tuned.model):
        found = route.objective.row_losses(tuned.model, route.objective.collate(rows))
    torch.testing.assert_close(found, plain, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("method", ["head", "lora", "top_layers"])
def test_images_are_read_once(tmp_path, method):
    write_image_model(tmp_path / "base")
    files = sorted(write_pictures(tmp_path / "pictures", n=4).glob("*/*.png"))
    base = load_base(str(tmp_path / "base"), dtype="float64", head=TaskHead("classes", ("bright", "dark")))
    tuned = attach(base.model, parse_method(METHODS[method]), seed=1)
    rows = [Encoded(str(path), (), (number % 2,), 0, False, image=str(path)) for number, path in enumerate(files)]
    route = compare(tuned, Images(base), rows, "head" if method == "head" else "layer")
    route.objective.loss(base.model, route.objective.collate(rows))
    for path in files:
        path.unlink()
    with route.objective.ready(base.model):
        assert route.objective.loss(base.model, route.objective.collate(rows)).isfinite()


@packs
@pytest.mark.parametrize("method", ["head", "lora", "top_layers"])
@pytest.mark.parametrize("family", ["t5", "bart"])
def test_a_packed_encoder_is_run_once_for_each_row(family, method):
    method = {"name": "lora", "layers": [-1], "roles": ["q", "o"]} if method == "lora" else method
    tuned = tuned_model(family, method, torch.float32)
    rows = [replace(row, labels=row.ids[: 1 + number % 3]) for number, row in enumerate(classified())]
    packed = objective_for(base_of(tuned, "lm"), packing=True)
    assert packed.layout == "packed"
    compare(tuned, packed, rows, "decoder", tolerance=1e-4)


@packs
@pytest.mark.parametrize("method", ["head", "lora"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_packed_rows_train_from_the_trunk_as_whole(family, method):
    tuned = tuned_model(family, method, torch.float32)
    compare(tuned, PackedNextToken(0), random_rows(9), "head" if method == "head" else "layer", tolerance=2e-5)


@packs
@pytest.mark.parametrize("method", ["head", "lora"])
@pytest.mark.parametrize("family", CLASSIFIERS[:4])
def test_packed_texts_train_from_the_trunk_as_whole(family, method):
    tuned = tuned_model(family, method, torch.float32)
    packed = objective_for(base_of(tuned), packing=True)
    assert packed.layout == "packed"
    compare(tuned, packed, classified(), "head" if method == "head" else "layer", tolerance=2e-5)


def train(tuned, rows, folder, how="auto", progress=None, objective=None, **fields):
    fields = {"learning_rate": 1e-2, "batch_size": 4, "schedule": "constant", "epochs": 3, **fields}
    config = TrainConfig(trunk=how, **fields)
    route = route_for(tuned, objective or NextToken(0), rows, how, group_size=4)
    folder.mkdir(exist_ok=True)
    return fit(tuned, rows, config, seed=0, folder=folder, objective=route.objective, progress=progress), route


@pytest.mark.parametrize(
    "objective", [NextToken(0), pytest.param(PackedNextToken(0), marks=packs)], ids=lambda o: o.layout
)
@pytest.mark.parametrize("method", ["head", "top_layers", "lora"])
def test_a_fit_from_the_trunk_is_the_fit_of_the_whole_model(tmp_path, method, objective):
    dtype, tolerance = (torch.float64, 1e-10) if objective.layout == "padded" else (torch.float32, 1e-5)
    rows = random_rows(16)
    kept, live = tuned_model("llama", method, dtype, moved=False), tuned_model("llama", method, dtype, moved=False)
    one, route = train(kept, rows, tmp_path / "kept", objective=objective)
    other, plain = train(live, rows, tmp_path / "live", "live", objective=objective)
    assert isinstance(route.objective, FromTrunk)
    assert plain.objective is objective
    assert len(one.losses) == 12
    assert one.losses == pytest.approx(other.losses, abs=tolerance)
    assert abs(one.losses[-1] - one.losses[0]) > 1e-2
    assert one.tokens == other.tokens


def test_dropout_of_what_is_attached_draws_the_same_numbers(tmp_path):
    lora = {**METHODS["lora"], "dropout": 0.3}
    one, route = train(tuned_model("llama", lora), random_rows(12), tmp_path / "a")
    other, _ = train(tuned_model("llama", lora), random_rows(12), tmp_path / "b", "live")
    assert isinstance(route.objective, FromTrunk)
    assert one.losses == pytest.approx(other.losses, abs=1e-10)


def test_checkpointing_recomputes_from_the_same_states(tmp_path):
    one, route = train(tuned_model("llama", "lora"), random_rows(12), tmp_path / "a", checkpointing=True)
    other, _ = train(tuned_model("llama", "lora"), random_rows(12), tmp_path / "b", "live")
    assert isinstance(route.objective, FromTrunk)
    assert one.losses == pytest.approx(other.losses, abs=1e-10)


def calls_of(module):
    calls = []
    module.register_forward_pre_hook(lambda *_: calls.append(1))
    return calls


@pytest.mark.parametrize("method", ["head", "lora"])
def test_after_the_first_epoch_no_frozen_layer_runs(tmp_path, method):
    tuned, rows = tuned_model("llama", method), random_rows(12)
    below, embedded = calls_of(tuned.model.model.layers[0].mlp), calls_of(tuned.model.model.embed_tokens)
    top = calls_of(tuned.model.model.layers[1].mlp)
    route = route_for(tuned, NextToken(0), rows, group_size=4)
    counts = []
    for epoch in range(2):
        for calls in (below, embedded, top):
            calls.clear()
        folder = tmp_path / str(epoch)
        fit(tuned, rows, TrainConfig(epochs=1, batch_size=4), seed=epoch, folder=folder, objective=route.objective)
        counts.append((len(below), len(embedded), len(top)))
    # three groups of four and three steps; on the way to a head the groups pass the top as well
    assert counts == ([(3, 3, 3), (0, 0, 0)] if method == "head" else [(3, 6, 3), (0, 3, 3)])


def test_seeds_and_methods_share_what_was_computed():
    tuned, rows = tuned_model("llama", "lora"), random_rows(12)
    below = calls_of(tuned.model.model.layers[0].mlp)
    states = []
    for method in (METHODS["lora"], METHODS["bitfit"], METHODS["lora"]):
        tuned.detach()
        tuned = attach(tuned.model, parse_method(method), seed=len(states))
        objective = route_for(tuned, NextToken(0), rows[:: -1 if states else 1], group_size=4).objective
        below.clear()
        with objective.ready(tuned.model):
            states.append(objective.row_losses(tuned.model, objective.collate(rows)))
        assert (len(below), objective.n_computed) == ((3, 12) if len(states) == 1 else (0, 0))
    assert torch.equal(states[0], states[2])  # their own start is the identity


def test_a_run_goes_on_bit_for_bit_in_another_process(tmp_path):
    """Another store, other batches first: what is kept of a row is the same."""
    rows, lora = random_rows(13), {**METHODS["lora"], "dropout": 0.3}

    class Stop(Silent):
        def stepped(self, step, loss, n_tokens):
            if step == 6:
                os.kill(os.getpid(), signal.SIGINT)

    for objective in (NextToken(0), *([PackedNextToken(0)] if library() else [])):
        folder = tmp_path / objective.layout
        whole, cut, again = (tuned_model("llama", lora, torch.float32) for _ in range(3))
        expected, route = train(whole, rows, tmp_path / f"{objective.layout} whole", objective=objective)
        assert isinstance(route.objective, FromTrunk)
        with pytest.raises(Interrupted):
            train(cut, rows, folder, objective=objective, progress=Stop())
        assert store_of(again.model).used_bytes() == (0, 0)
        result, _ = train(again, rows, folder, objective=objective)
        assert result.resumed_from == 6
        assert result.losses == expected.losses
        assert all(torch.equal(value, again.state()[name]) for name, value in whole.state().items())


def names(tuned, objective, rows):
    route = route_for(tuned, objective, rows, group_size=4)
    return (route.trunk.digest, *route.objective._names)


def test_another_weight_precision_prefix_or_text_is_another_key():
    rows = random_rows(6)
    tuned = tuned_model("llama", "lora")
    seen = [names(tuned, NextToken(0), rows)]
    assert names(tuned_model("llama", "lora"), NextToken(0), rows) == seen[0]
    assert names(tuned, NextToken(0), rows[::-1]) == seen[0]
    with torch.no_grad():
        tuned.model.model.layers[1].mlp.up_proj.weight[0, 0] += 1.0  # above the trunk
        assert names(tuned, NextToken(0), rows) == seen[0]
        tuned.model.model.layers[0].mlp.up_proj.weight[0, 0] += 1e-12
    seen.append(names(tuned, NextToken(0), rows))
    assert seen[1][0] != seen[0][0]
    seen.append(names(tuned_model("llama", "lora", torch.float32), NextToken(0), rows))
    assert seen[2][0] not in (seen[0][0], seen[1][0])
    seen.append(names(tuned, NextToken(0, (5, 6)), rows))
    assert all(not set(a[1:]) & set(b[1:]) for number, a in enumerate(seen) for b in seen[:number])
    other_text = [*rows[:5], replace(rows[5], ids=(*rows[5].ids[:-1], 7))]
    assert len(set(names(tuned, NextToken(0), other_text)[1:]) & set(seen[1][1:])) == 1  # the group it is not in
    head = tuned_model("llama", "head")
    fewer = [replace(row, labels=(*(-100,) * (len(row.ids) - 1), row.ids[-1])) for row in rows]
    assert not set(names(head, NextToken(0), rows)[1:]) & set(names(head, NextToken(0), fewer)[1:])


def test_a_trunk_whose_weight_has_changed_is_computed_again():
    tuned, rows = tuned_model("llama", "lora"), random_rows(8)
    compare(tuned, NextToken(0), rows, "layer")
    with torch.no_grad():
        tuned.model.model.layers[0].mlp.up_proj.weight += 0.1
    compare(tuned, NextToken(0), rows, "layer")


def test_the_store_keeps_its_caps_and_the_bits(tmp_path):
    store = Store(1000, 2000, tmp_path)
    blocks = {f"{number}": torch.randn(5, 10, generator=torch.Generator().manual_seed(number)) for number in range(6)}
    blocks["narrow"] = torch.randn(5, 10).bfloat16()
    kept = {name: store.put("a", name, block, (0, 2, 5)) for name, block in blocks.items()}  # 200 bytes each
    assert [block.is_mapped for block in kept.values()] == [False] * 5 + [True, True]
    assert store.used_bytes() == (1000, 300)
    for name, block in blocks.items():
        found = store.get("a", name)
        assert found.states.dtype == block.dtype
        assert torch.equal(found.states, block)
        assert torch.equal(found.row(1), block[2:])
    assert not list(tmp_path.iterdir())  # the files are gone as soon as nobody reads them
    assert store.put("a", "large", torch.zeros(500), (0, 500)) is None
    assert store.get("a", "large") is None
    assert store.put("b", "large", torch.zeros(500), (0, 500)) is not None  # the older trunk makes room
    assert store.get("a", "0") is None
    assert store.used_bytes() == (0, 2000)
    assert store.put("b", "small", torch.zeros(100), (0, 100)).is_mapped is False
    assert (store.bytes_of_others("b"), store.bytes_of_others("a")) == (0, 400)


@pytest.mark.parametrize(("memory", "disk"), [(0, 0), (20_000, 0), (0, 10**6), (20_000, 15_000)])
def test_rows_that_find_no_room_are_computed_again(monkeypatch, tmp_path, memory, disk):
    monkeypatch.setenv("TUNEWISE_TRUNK_MEMORY_GB", str(memory / 1e9))
    monkeypatch.setenv("TUNEWISE_TRUNK_DISK_GB", str(disk / 1e9))
    one, route = train(tuned_model("llama", "lora"), random_rows(12), tmp_path / "a")
    other, _ = train(tuned_model("llama", "lora"), random_rows(12), tmp_path / "b", "live")
    used = store_of(route.trunk.model).used_bytes()
    assert used[0] <= memory
    assert used[1] <= disk
    assert (used != (0, 0)) == (memory + disk > 0)
    assert one.losses == pytest.approx(other.losses, abs=1e-10)


def test_a_cap_that_is_no_number_is_refused(monkeypatch):
    monkeypatch.setenv("TUNEWISE_TRUNK_MEMORY_GB", "lots")
    with pytest.raises(UserError, match="no number of gigabytes"):
        store_of(bases.build("llama"))


def test_dropout_in_the_trunk_is_not_passed_over_unasked(tmp_path, caplog):
    model = bases.build("llama")
    model.model.layers[0].self_attn.attention_dropout = 0.1
    tuned, rows = attach(model, parse_method(METHODS["lora"]), seed=1), random_rows(8)
    with caplog.at_level(logging.INFO):
        route = route_for(tuned, NextToken(0), rows)
    assert route.objective == NextToken(0)
    assert route.told()["layers"] == 1
    assert not route.told()["cached"]
    assert "dropout acts in the frozen layers" in route.reason
    assert route.reason in caplog.text
    asked = route_for(tuned, NextToken(0), rows, "cached").objective
    assert isinstance(asked, FromTrunk)
    plain = losses_and_gradients(tuned, NextToken(0), rows)  # in evaluation mode, without dropout
    model.train()
    torch.testing.assert_close(losses_and_gradients(tuned, asked, rows)[0], plain[0], rtol=0, atol=1e-10)
    model.model.layers[0].self_attn.attention_dropout = 0.0
    model.model.layers[1].self_attn.attention_dropout = 0.1  # above it
    assert route_for(tuned, NextToken(0), rows).reason == ""
    assert model.training


@pytest.mark.parametrize(
    ("method", "family", "reason"),
    [
        ({"name": "lora"}, "llama", "attached in the first layer"),
        ({"name": "full"}, "llama", "attached in the first layer"),
        ({"name": "prompt_tuning", "virtual_tokens": 2}, "llama", "from the first layer on"),
        ({"name": "prefix_tuning", "virtual_tokens": 2}, "llama", "from the first layer on"),
        ({"name": "frozen"}, "llama", "nothing is trained"),
        ({"name": "lora", "roles": ["q"], "layers": [1]}, "t5", "in or below the encoder"),
    ],
)
def test_without_a_trunk_the_whole_model_is_trained(method, family, reason):
    tuned = tuned_model(family, method)
    objective = Writing(base_of(tuned)) if family == "t5" else NextToken(0, tuned.prefix_ids)
    route = route_for(tuned, objective, classified(tags=True), "cached")
    assert route.objective is objective
    assert route.trunk is None
    assert reason in route.reason


def test_a_quantised_trunk_is_kept_where_rows_do_not_touch_each_other():
    pytest.importorskip("bitsandbytes")
    rows, lora = random_rows(8), parse_method(METHODS["lora"])
    route = route_for(attach(bases.quantised("nf4"), lora), NextToken(0), rows)
    assert (route.trunk.n_layers, route.reason) == (1, "")
    assert "int8 products" in route_for(attach(bases.quantised("int8"), lora), NextToken(0), rows).reason


def test_one_look_at_each_row_is_no_reason_to_keep_it():
    tuned, rows = tuned_model("llama", "lora"), random_rows(8)
    assert route_for(tuned, NextToken(0), rows, passes=0.5).reason == "no row is seen twice"
    assert route_for(tuned, NextToken(0), rows, passes=1.0).reason == ""
    assert route_for(tuned, NextToken(0), rows, "live").trunk is None


def test_a_model_that_goes_another_way_is_found_out():
    """What is kept has to be all that the live part sees: here the logits see the ids too."""
    tuned = tuned_model("llama", "head")

    def looks_at_ids(module, args, kwargs, output):
        output.logits = output.logits * (1 + kwargs["input_ids"].double().mean())
        return output

    tuned.model.register_forward_hook(looks_at_ids, with_kwargs=True)
    route = route_for(tuned, NextToken(0), random_rows(8))
    assert "gives other losses from its trunk" in route.reason
    assert isinstance(route.objective, NextToken)


def test_an_evaluation_starts_from_the_trunk():
    tuned = tuned_model("bert_classes", "head")
    objective, rows = Labels(base_of(tuned)), classified()
    trunk = route_for(tuned, objective, rows).trunk
    below = calls_of(tuned.model.bert.encoder.layer[0])
    expected = objective.logits(tuned.model, objective.collate(rows))
    for n_calls in (3, 0):
        below.clear()
        kept = from_trunk(objective, trunk, rows, 4)
        with kept.ready(tuned.model):
            batch = kept.collate(rows)
            torch.testing.assert_close(kept.logits(tuned.model, batch), expected, rtol=0, atol=1e-10)
        assert len(below) == n_calls
    assert from_trunk(objective, None, rows, 4) is objective
