import json
import logging
import os
import re
import resource
import shutil
import signal

import pytest
import torch

from tests.alike import alike
from tests.small_base import QUICK, write_base, write_place
from tunewise.config import parse, read_yaml
from tunewise.engine.native.build import library, why_not
from tunewise.engine.objectives import NextToken
from tunewise.engine.packing import NAME
from tunewise.engine.trunk_store import store_of
from tunewise.errors import UserError
from tunewise.files import verify
from tunewise.methods import METHODS, parse_method
from tunewise.methods.attach import attach
from tunewise.methods.store import check_probe, load_adapter, read_card
from tunewise.models.load import load_base
from tunewise.planning.correction import in_warm_process
from tunewise.planning.rehearsal import rehearse
from tunewise.planning.rows import made_up_row
from tunewise.planning.shell import shell_of
from tunewise.planning.work import Work
from tunewise.run import Recipe, build_recipe, evaluate, longest_batch, prove_adapter, run, run_folder, train
from tunewise.training import proofs
from tunewise.training.interrupt import Interrupted
from tunewise.training.progress import Silent
from tunewise.training.proofs import check_longest_batch, check_rows, check_tuned, checksums, untouched
from tunewise.training.state import State


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a base, data and held-out texts."""
    folder = write_place(tmp_path_factory.mktemp("place"))
    texts = "".join(json.dumps({"text": f"the kitchen water number {i} was cold"}) + "\n" for i in range(30))
    (folder / "texts.jsonl").write_text(texts)
    return folder


@pytest.fixture(scope="module")
def base(place):
    return load_base(str(place / "base"), "float32")


def write_answers(path):
    rows = [{"prompt": f"count {i}:", "completion": f" the {i} boat"} for i in range(30)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def recipe(place, method="lora", overrides=None, **fields):
    given = {"model": str(place / "base"), "data": str(place / "reviews.csv"), "dtype": "float32", "method": method}
    return build_recipe(given | fields, {**QUICK, **(overrides or {})})


@pytest.fixture(scope="module")
def finished(place):
    """One whole run, reload in a fresh process included."""
    out = place / "finished"
    asked = recipe(place, retention=str(place / "texts.jsonl"))
    return asked, out, run(asked, out)


def test_the_folder_holds_everything(finished):
    asked, out, metrics = finished
    assert sorted(path.name for path in out.iterdir()) == [
        "DONE", "adapter", "env.json", "ledger.json", "log.jsonl", "metrics.json", "predictions.jsonl", "recipe.yaml",
        "retention.jsonl",
    ]  # fmt: skip
    assert parse(Recipe, read_yaml(out / "recipe.yaml")) == asked
    assert json.loads((out / "metrics.json").read_text()) == metrics
    assert sum("loss" in line for line in (out / "log.jsonl").read_text().splitlines()) == metrics["steps"] == 6
    rows = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    n_right = sum(row["correct"] for row in rows)
    assert metrics["test"]["accuracy"] == pytest.approx(100 * n_right / len(rows))
    assert metrics["task"] == "reviews"
    assert (metrics["method"], metrics["seed"]) == ("lora", 0)
    assert metrics["retention"]["change"] == metrics["retention"]["tuned"] - metrics["retention"]["base"] != 0
    sizes = [file.stat().st_size for file in (out / "adapter").iterdir()]
    assert metrics["adapter_bytes"] == sum(sizes)
    verify(out / "adapter")
    ledger = json.loads((out / "ledger.json").read_text())
    assert ledger["data"]["rows"] == 60
    assert ledger["train"]["trained"] == ledger["train"]["rows"] == 48


FIELDS = {
    "bitfit": {"add": True},
    "top_layers": {"layers": 1},
    "oft": {"block_size": 8},
    "compacter": {"bottleneck": 8},
    "parallel": {"bottleneck": 8},
    "mam": {"bottleneck": 8, "virtual_tokens": 3},
    "vera": {"rank": 16},
    "intrinsic": {"dimension": 40},
    "multitask_prompt": {"virtual_tokens": 3},
}


@pytest.mark.parametrize("name", [name for name in METHODS if name != "frozen"])
def test_every_method_is_carried_out_proved_and_reloaded(name, place, tmp_path):
    asked = recipe(place, {"name": name, **FIELDS.get(name, {})})
    base = load_base(asked.model, "float32")
    metrics = run(asked, tmp_path / "run", base=base, prove=False)
    failed = {name: proof for name, proof in metrics["proofs"].items() if not proof["passed"]}
    assert not failed
    assert metrics["n_trainable"] > 0
    fresh = load_base(asked.model, "float32")
    tuned = load_adapter(fresh.model, tmp_path / "run" / "adapter", tokenizer=fresh.tokenizer)
    differences = check_probe(tuned, tmp_path / "run" / "adapter")
    assert differences["tuned"] < 1e-5
    assert differences["effect"] > 0


def test_the_run_proves_itself(finished):
    _, _, metrics = finished
    assert metrics["proofs"].keys() >= {
        "labels_are_trained", "answers_end_with_a_trained_token", "begins_once", "no_test_row_in_train",
        "longest_batch_fits", "a_save_succeeds", "the_template_is_saved", "has_an_effect", "off_is_the_base",
        "base_unchanged", "fold_equals_attached", "reloads_to_the_same_logits",
    }  # fmt: skip
    assert all(proof["passed"] is True for proof in metrics["proofs"].values()), metrics["proofs"]
    assert metrics["proofs"]["reloads_to_the_same_logits"]["value"] == 0.0
    assert metrics["proofs_left_out"] == {}


def test_a_finished_run_is_not_carried_out_again(finished):
    asked, out, metrics = finished
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert run(asked, out) == metrics
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    changed = {"seed": 5, "train": asked.train.model_copy(update={"clip": None})}
    told = r"finished run of another recipe: train\.clip was 1\.0 and is null, seed was 0 and is 5\n"
    with pytest.raises(UserError, match=told):
        run(asked.model_copy(update=changed), out)


def test_data_that_changed_is_noticed(place, base, tmp_path):
    data = shutil.copy(place / "reviews.csv", tmp_path / "reviews.csv")
    asked = recipe(place, "frozen", data=str(data))
    run(asked, tmp_path / "run", base=base)
    with (tmp_path / "reviews.csv").open("a") as stream:
        stream.write("one more boat,1\n")
    with pytest.raises(UserError, match=r"reviews\.csv has changed"):
        run(asked, tmp_path / "run", base=base)


def test_a_base_that_changed_is_noticed(place, tmp_path):
    model = shutil.copytree(place / "base", tmp_path / "model")
    asked = recipe(place, "frozen", model=str(model))
    found = run(asked, tmp_path / "run")
    assert run(asked, tmp_path / "run") == found
    shutil.rmtree(model)
    shutil.copytree(place / "base", model)
    assert run(asked, tmp_path / "run") == found, "a copy of the same"
    write_base(model, seed=1)
    with pytest.raises(UserError, match=r"the base .*model has changed since"):
        run(asked, tmp_path / "run")


def test_the_saved_adapter_answers_as_the_run_did(finished, place, tmp_path):
    _, out, metrics = finished
    found = evaluate(out, out=tmp_path / "again")
    assert found["metrics"] == metrics["test"]
    assert (tmp_path / "again" / "predictions.jsonl").read_text() == (out / "predictions.jsonl").read_text()
    by_adapter = evaluate(out / "adapter", split="dev")
    assert by_adapter["metrics"] == metrics["dev"]
    assert read_card(out / "adapter")["notes"]["template"]["answer"] == " {label}"
    with pytest.raises(UserError, match="no split named 'tset'"):
        evaluate(out, split="tset")
    for wrong, told in (({"shots": -1}, "no demonstrations"), ({"limit": 0}, "no row"), ({"limit": -1}, "no row")):
        with pytest.raises(UserError, match=told):
            evaluate(out, **wrong)
    n_rows = [evaluate(out, split=split)["n_examples"] for split in ("train", "dev", "test", "all")]
    assert n_rows[3] == sum(n_rows[:3])
    with pytest.raises(UserError, match="split=all asks its rows too"):
        evaluate(out, split="all", shots=2)
    with pytest.raises(UserError, match="nothing to evaluate"):
        evaluate(model="tiny")


def test_the_base_is_as_it_was_and_serves_the_next_run(place, base, tmp_path):
    before = checksums(base.model)
    for method in ("full", "lora", "prompt_tuning"):
        metrics = run(recipe(place, method), tmp_path / method, base=base, prove=False)
        assert all(proof["passed"] for proof in metrics["proofs"].values()), metrics["proofs"]
        assert "reloads_to_the_same_logits" not in metrics["proofs"]
        assert checksums(base.model) == before
    assert metrics["proofs_left_out"].keys() == {"fold_equals_attached"}


@pytest.mark.parametrize("method", ["head", {"name": "top_layers", "layers": 1}], ids=["head", "top_layers"])
def test_a_live_trunk_is_live_in_evaluations_too(method, place, tmp_path):
    """Nothing is kept of training rows, options or documents, and all comes out as it does from what is kept."""
    base, metrics, kept = load_base(str(place / "base"), "float32"), {}, {}
    for how in ("live", "auto"):
        asked = recipe(place, method, {"train.trunk": how}, retention=str(place / "texts.jsonl"))
        metrics[how] = run(asked, tmp_path / how, base=base, prove=False)
        kept[how] = sum(store_of(base.model).used_bytes())
    assert kept["live"] == 0 < kept["auto"]
    assert metrics["auto"]["trunk"]["cached"]
    (looks,) = zip(*(of_run["retention"].pop("suite") for of_run in metrics.values()), strict=True)
    assert looks[0].pop("interval") == pytest.approx(looks[1].pop("interval"), abs=1e-4)
    assert looks[0] == pytest.approx(looks[1], abs=1e-4)
    for name in ("test", "dev", "retention"):
        assert metrics["live"][name] == pytest.approx(metrics["auto"][name], abs=1e-4)
    assert abs(metrics["live"]["retention"]["change"]) > 1e-3


def test_answers_are_drawn_where_the_recipe_says_so(place, base, tmp_path):
    """By the run's seed: measured again they are the same, with another seed or the most probable tokens others."""
    write_answers(place / "drawn.jsonl")
    drawing = {"generation.do_sample": True, "generation.temperature": 1.5, "generation.top_p": 0.9}
    asked = recipe(place, overrides=drawing, data=str(place / "drawn.jsonl"), seed=4)
    metrics = run(asked, tmp_path / "run", base=base, prove=False)
    assert read_yaml(tmp_path / "run" / "recipe.yaml")["generation"] == {
        "do_sample": True, "temperature": 1.5, "top_k": None, "top_p": 0.9,
    }  # fmt: skip

    def predicted(place_of_it, **overrides):
        found = evaluate(tmp_path / "run", out=tmp_path / place_of_it, overrides=overrides)
        return found, (tmp_path / place_of_it / "predictions.jsonl").read_text()

    again, text = predicted("again")
    assert again["metrics"] == metrics["test"]
    assert (again["seed"], again["generation"]["temperature"]) == (4, 1.5)
    assert text == (tmp_path / "run" / "predictions.jsonl").read_text()
    assert predicted("other", seed=5)[1] != text
    coldest = predicted("coldest", **{"generation.top_k": 1})[1]
    greedy = {"do_sample": False}
    assert predicted("greedy", generation=greedy)[1] == coldest != text
    with pytest.raises(UserError, match=r"train\.epochs changes nothing in an evaluation"):
        evaluate(tmp_path / "run", overrides={"train.epochs": 2})


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"generation.temperature": 0, "generation.do_sample": True}, "temperature"),
        ({"generation.top_p": 1.5, "generation.do_sample": True}, "top_p"),
        ({"generation.top_k": 0, "generation.do_sample": True}, "top_k"),
        ({"generation.temperature": 0.7}, "temperature=0.7 has no effect without do_sample=true"),
        ({"generation.top": 3}, "top"),
        ({"temperature": 0.7}, "write generation.temperature=0.7"),
    ],
)
def test_generation_options_are_checked(wrong, told, place):
    with pytest.raises(UserError, match=told):
        recipe(place, overrides=wrong)


def test_in_context_learning_is_a_run_as_any_other(place, base, tmp_path):
    asked = recipe(place, {"name": "frozen", "shots": 2}, seed=3)
    metrics = run(asked, tmp_path / "run", base=base)
    assert (metrics["n_trainable"], metrics["adapter_bytes"], metrics["steps"]) == (0, 0, 0)
    assert not (tmp_path / "run" / "adapter").exists()
    found = evaluate(tmp_path / "run")
    assert (found["shots"], found["seed"], found["metrics"]) == (2, 3, metrics["test"])
    bare = evaluate(model=asked.model, data=asked.data.path, shots=2, overrides={"seed": 3, "dtype": "float32"})
    assert bare["metrics"] == metrics["test"]
    none = evaluate(tmp_path / "run", shots=0)
    assert (none["shots"], none["serving_tokens"]) == (0, 0), "it may be asked without its demonstrations"


@pytest.mark.skipif(library() is None, reason=f"no kernels here: {why_not()}")
@pytest.mark.parametrize("data", ["reviews.csv", "pairs.jsonl"])
def test_packing_off_reaches_every_forward_of_a_run(data, place, base, tmp_path):
    """Training, dev, test and retention: with it packed attention acts, without it nowhere, and the scores agree."""
    write_answers(place / "pairs.jsonl")
    metrics, acting = {}, {}
    for packing in (True, False):
        seen = acting[packing] = set()
        hook = base.model.register_forward_pre_hook(
            lambda model, _, seen=seen: seen.add(model.config._attn_implementation)
        )
        fields = {"data": str(place / data), "retention": str(place / "texts.jsonl")}
        asked = recipe(place, overrides={"train.packing": packing}, **fields)
        metrics[packing] = run(asked, tmp_path / f"{packing}", base=base, prove=False)
        hook.remove()
        again = evaluate(tmp_path / f"{packing}")
        assert alike(again["metrics"], metrics[packing]["test"])
        assert len(metrics[packing]["retention"].pop("suite")) == 1
    assert NAME in acting[True]
    assert acting[False] == {"sdpa"}
    for name in ("test", "dev", "retention"):
        assert metrics[True][name] == pytest.approx(metrics[False][name], abs=1e-2)


def test_an_interrupted_run_goes_on_to_the_same_end(place, base, tmp_path, monkeypatch):
    class StopAt4(Silent):
        def stepped(self, step, loss, n_tokens):
            if step == 4:
                os.kill(os.getpid(), signal.SIGINT)

    asked = recipe(place, {"name": "lora", "dropout": 0.2}, {"train.steps": 9, "train.evaluate_every": 0.5})
    whole = run(asked, tmp_path / "whole", base=base, prove=False)
    with pytest.raises(Interrupted):
        run(asked, tmp_path / "cut", base=base, progress=StopAt4(), prove=False)
    assert not (tmp_path / "cut" / "DONE").exists()
    restore = State._restore

    def long_ago(self, found):
        restore(self, found)
        self.position.seconds = 1_000.0

    monkeypatch.setattr(State, "_restore", long_ago)
    resumed = run(asked, tmp_path / "cut", base=base, prove=False)
    assert resumed["resumed_from"] == 4
    assert resumed["seconds"] >= resumed["train_seconds"] > 1_000, "what the first process took is paid too"
    for name in ("test", "dev", "loss_last", "best_step", "n_trainable"):
        assert resumed[name] == whole[name], name
    tensors = "adapter/adapter_model.safetensors"
    assert (tmp_path / "cut" / tensors).read_bytes() == (tmp_path / "whole" / tensors).read_bytes()
    assert not (tmp_path / "cut" / "checkpoints").exists()


def test_train_is_the_verb_as_a_function(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tunewise.run.reloads.prove_in_fresh_process", lambda *_: [{"passed": True}])
    found = train(
        {"path": str(place / "reviews.csv"), "train": 16},
        model=str(place / "base"),
        method={"name": "lora", "rank": 2},
        seed=4,
        overrides=QUICK | {"train.learning_rate": 2e-4},
    )
    assert found["folder"].startswith("runs/reviews/lora-")
    assert found["folder"].endswith("/seed4")
    written = read_yaml(tmp_path / found["folder"] / "recipe.yaml")
    assert (written["train"]["learning_rate"], written["data"]["train"], written["method"]["rank"]) == (2e-4, 16, 2)


def test_folders_differ_by_what_was_asked_and_not_by_the_seed(place):
    one, other = recipe(place), recipe(place, {"name": "lora", "rank": 4})
    assert run_folder(one).parent != run_folder(other).parent
    assert run_folder(one).parent == run_folder(one.model_copy(update={"seed": 1})).parent
    assert run_folder(build_recipe({"data": "tiny:sentiment", "method": "lora"}), "x").parts[:2] == (
        "x",
        "tiny-sentiment",
    )


def test_unknown_names_are_refused_with_the_nearest(place):
    with pytest.raises(UserError, match="lroa") as caught:
        recipe(place, "lroa")
    assert "lora" in caught.value.hint
    with pytest.raises(UserError, match="learning_rat") as caught:
        recipe(place, overrides={"train.learning_rat": 1.0})
    assert "learning_rate" in caught.value.hint


def test_what_was_recognised_and_cut_is_told(place, base, tmp_path, caplog):
    rows = [f"the {'soup was good and ' * (30 if i == 7 else 1)}{i},{i % 2}" for i in range(40)]
    (tmp_path / "long.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    with caplog.at_level(logging.INFO, "tunewise"):
        run(recipe(place, data=str(tmp_path / "long.csv")), tmp_path / "run", base=base, prove=False)
    assert "label" in caplog.messages[0]
    assert any("1 cut" in message and "line 9" in message for message in caplog.messages), caplog.messages


def test_a_full_disk_is_told_before_the_training(place, base, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))
    try:
        with pytest.raises(UserError, match="cannot write"):
            run(recipe(place), tmp_path / "run", base=base)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    left = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert left == ["env.json", "ledger.json", "recipe.yaml"]
    attached_again = load_base(str(place / "base"), "float32")
    assert checksums(base.model) == checksums(attached_again.model)


def test_rows_that_would_teach_nothing_or_the_wrong_thing_are_refused(base, monkeypatch):
    row = next(iter(load_rows(base)))
    with pytest.raises(UserError, match="end-of-sequence"):
        check_rows([type(row)("a", row.ids[:-1], row.labels[:-1], row.prompt_length, False)], base.tokenizer)
    with pytest.raises(UserError, match="masked"):
        check_rows([type(row)("a", row.ids, (-100,) * len(row.ids), row.prompt_length, False)], base.tokenizer)
    with pytest.raises(UserError, match="two begin tokens"):
        check_rows([type(row)("a", (1, *row.ids), (-100, *row.labels), row.prompt_length, False)], base.tokenizer)
    assert all(proof["passed"] for proof in check_rows([row], base.tokenizer).values())
    monkeypatch.setattr(proofs, "CHUNK", 2)
    masked = type(row)("b", row.ids, (-100,) * len(row.ids), row.prompt_length, False)
    with pytest.raises(UserError, match="2 training rows have all their labels masked: b, b"):
        check_rows([row, masked, row, row, masked], base.tokenizer)


def load_rows(base):
    from tunewise.data.encode import encode_all
    from tunewise.data.load import load_task

    return encode_all(load_task("tiny:sentiment").train[:4], base.tokenizer, 96)[0]


def test_the_longest_batch_is_tried_once_for_all_seeds(place, base, tmp_path, monkeypatch):
    tried = []

    def counted(*words):
        tried.append(words[2].batch_size)
        return check_longest_batch(*words)

    monkeypatch.setattr(longest_batch, "check_longest_batch", counted)
    monkeypatch.setattr(longest_batch, "free_memory", lambda: None)
    asked = recipe(place, {"name": "lora", "rank": 3})
    found = [
        run(asked.model_copy(update={"seed": seed}), tmp_path / str(seed), base=base, prove=False) for seed in (0, 1)
    ]
    proofs = [metrics["proofs"]["longest_batch_fits"] for metrics in found]
    assert tried == [asked.train.batch_size]
    assert proofs[0] == proofs[1]
    assert proofs[0]["passed"]
    smaller = asked.train.model_copy(update={"batch_size": 5})
    other = run(asked.model_copy(update={"train": smaller}), tmp_path / "smaller", base=base, prove=False)
    run(recipe(place, {"name": "lora", "rank": 5}), tmp_path / "rank", base=base, prove=False)
    assert tried == [asked.train.batch_size, 5, asked.train.batch_size]
    assert other["proofs"]["longest_batch_fits"]["value"] < proofs[0]["value"]


def test_memory_is_measured_once_for_all_seeds(place, base, tmp_path, monkeypatch):
    given_back = []
    monkeypatch.setattr("tunewise.training.memory.give_pages_back", lambda: given_back.append("pages"))
    asked = recipe(place, {"name": "lora", "rank": 9})
    first, second = (
        run(asked.model_copy(update={"seed": seed}), tmp_path / str(seed), base=base, prove=False) for seed in (3, 4)
    )
    assert len(given_back) == 2  # before the run and before its training
    assert first["peak_bytes"] == second["peak_bytes"] > 0
    assert second["train_memory_bytes"] == first["train_memory_bytes"]
    assert second["peak_measure"] == f"{first['peak_measure']}, with seed 3"
    run(recipe(place, {"name": "lora", "rank": 10}), tmp_path / "other", base=base, prove=False)
    assert len(given_back) == 4


def test_a_batch_is_not_tried_where_far_more_is_free_than_it_can_take(place, base, tmp_path, monkeypatch):
    monkeypatch.setattr(longest_batch, "check_longest_batch", None)
    asked = recipe(place, {"name": "lora", "rank": 2})
    proof = run(asked, tmp_path / "run", base=base, prove=False)["proofs"]["longest_batch_fits"]
    assert proof["passed"]
    assert 0 < proof["value"] * 1000 < 2 * proof["bytes_at_most"] < proof["bytes_free"]


@pytest.mark.parametrize("method", sorted(METHODS))
def test_no_step_takes_half_of_its_estimate(method):
    tiny, own = load_base("tiny", "float32"), {"bitfit": {"add": True}, "sparse": {"by": "magnitude"}}
    method = {"name": method, **own.get(method, {})}
    if not (tuned := attach(tiny.model, parse_method(method))).n_trainable:
        return
    work = Work(rows=8, tokens=120, labels=30, dtype=torch.float32)
    batch = [made_up_row(work, "lm", tiny.anatomy.kind, lambda n: (5,) * n) for _ in range(work.rows)]
    foretold = in_warm_process(rehearse(shell_of("tiny"), parse_method(method), work, "cpu").memory).total
    assert 0 < 2 * foretold < longest_batch.bytes_at_most(tiny, tuned, batch)


def test_a_batch_that_does_not_fit_says_what_to_change(base):
    from tunewise.training.config import TrainConfig

    tuned = attach(base.model, parse_method("lora"))

    def exhausted(*_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    hook = base.model.register_forward_pre_hook(exhausted)
    with pytest.raises(UserError, match="longest batch does not fit") as caught:
        check_longest_batch(tuned, load_rows(base), TrainConfig(batch_size=4), NextToken(0))
    assert "train.batch_size=2 train.accumulation=2" in caught.value.hint
    hook.remove()
    tuned.detach()


def test_proofs_fail_where_they_should(place):
    """Each fault is planted once: an untrained adapter, a base that was touched, an adapter swapped on disk."""
    from tunewise.methods import parse_method
    from tunewise.methods.attach import attach

    own = load_base(str(place / "base"), "float32")
    prompts = [{"input_ids": torch.tensor([ids])} for ids in ([1, 5, 9], [1, 7])]
    before = untouched(own.model, prompts)
    tuned = attach(own.model, parse_method("lora"))
    proofs, _ = check_tuned(tuned, before)
    assert [name for name, proof in proofs.items() if not proof["passed"]] == ["has_an_effect"]
    with torch.no_grad():
        for name, tensor in tuned.trainable.items():
            tensor.add_(0.1) if name.endswith("lora_B") else None
        own.model.model.layers[0].mlp.up_proj.weight[0, 0] += 1e-3
    proofs, _ = check_tuned(tuned, before)
    assert [name for name, proof in proofs.items() if not proof["passed"]] == ["off_is_the_base", "base_unchanged"]


def test_an_adapter_is_proved_at_any_time(finished, base, place, tmp_path):
    _, out, _ = finished
    proofs = prove_adapter(out / "adapter", base)
    assert proofs.keys() >= {"reloads_to_the_same_logits", "has_an_effect", "off_is_the_base", "fold_equals_attached"}
    assert all(proof["passed"] for proof in proofs.values())
    tuned = load_adapter(base.model, out / "adapter")  # and the base is free again
    tuned.detach()
    with pytest.raises(UserError, match="fingerprint"):
        prove_adapter(out / "adapter", load_base(str(write_base(tmp_path / "other", seed=1)), "float32"))


def test_a_length_that_the_base_does_not_read_is_told_where_it_was_typed_or_matters(place, base, tmp_path, caplog):
    told = "as many as .*base reads: train.max_length=4096 is lowered to that"
    few = {"train.steps": 1, "train.max_length": 4096, "data.train": 8}
    with caplog.at_level(logging.WARNING, logger="tunewise"):
        run(recipe(place, overrides=few), tmp_path / "typed", base=base, prove=False)
        assert re.search(told, caplog.text)
        caplog.clear()
        run(recipe(place, overrides=few | {"train.max_length": 512}), tmp_path / "usual", base=base, prove=False)
        assert "is lowered" not in caplog.text, "every row fits, and nobody asked"
        rows = [{"text": "the boat was late " * 60 + str(n), "label": "ab"[n % 2]} for n in range(40)]
        long = recipe(place, overrides=few | {"train.max_length": 512}, data=rows)
        run(long, tmp_path / "long", base=base, prove=False)
        assert "train.max_length=512 is lowered to that" in caplog.text
