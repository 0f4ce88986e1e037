"""Whole runs on encoders, encoder-decoders, image models and decoders with a classifier: data to proved adapter."""

import json

import pytest
import torch

from tests.small_base import (
    QUICK,
    write_base,
    write_encoder,
    write_encoder_decoder,
    write_image_model,
    write_pictures,
    write_reviews,
)
from tunewise.data.config import DataConfig
from tunewise.data.load import load_task
from tunewise.engine.decoding import Decoding, Sampling
from tunewise.engine.native.build import library, why_not
from tunewise.engine.objectives import encode_rows, objective_for
from tunewise.engine.writing import write
from tunewise.errors import UserError
from tunewise.methods.store import check_probe, load_adapter, read_card
from tunewise.models.heads import TaskHead, head_of
from tunewise.models.load import load_base
from tunewise.run import build_recipe, evaluate, run
from tunewise.run.examined import rows_of
from tunewise.run.prepare import load_for

LONGER = {**QUICK, "train.steps": 40}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a base of each kind and data of each kind."""
    folder = tmp_path_factory.mktemp("place")
    write_base(folder / "decoder")
    write_encoder(folder / "encoder")
    write_encoder_decoder(folder / "encoder_decoder")
    write_image_model(folder / "vision")
    write_pictures(folder / "pictures")
    write_reviews(folder / "reviews.csv", n=120)
    pairs = "".join(f"the soup {i},it was {'warm' if i % 2 else 'cold'},{i % 2}\n" for i in range(80))
    (folder / "pairs.csv").write_text("sentence1,sentence2,label\n" + pairs)
    values = "".join(f"the water {'good ' * (i % 5)}{i},{(i % 5) / 2}\n" for i in range(100))
    (folder / "values.csv").write_text("text,score\n" + values)
    words = [
        {"tokens": ["the", "boat", str(i), "was", "good"], "tags": ["O", "B-THING", "I-THING", "O", "O"]}
        if i % 2
        else {"tokens": ["soup", "was", str(i)], "tags": ["B-THING", "O", "O"]}
        for i in range(80)
    ]
    (folder / "words.jsonl").write_text("".join(json.dumps(row) + "\n" for row in words))
    answers = [{"prompt": f"is {i} warm?", "completion": "yes" if i % 2 else "no"} for i in range(60)]
    (folder / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers))
    # cold is right, wherever it stands
    quiz = [
        {"question": f"soup {i}", "choices": ["warm", "cold"] if i % 2 else ["cold", "warm"], "answer": i % 2}
        for i in range(80)
    ]
    (folder / "quiz.jsonl").write_text("".join(json.dumps(row) + "\n" for row in quiz))
    sentences = [{"sentence_good": f"the soup {i} was", "sentence_bad": f"was soup {i} the"} for i in range(60)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in sentences))
    return folder


def recipe(place, model, data, overrides=None, **fields):
    given = {"model": str(place / model), "data": str(place / data), "dtype": "float32", "method": "lora"}
    return build_recipe(given | fields, {**LONGER, **(overrides or {})})


# base, data, further fields of the recipe, main metric, what it must reach (at random: 50, 50, 0, 0, 50, ...)
RUNS = {
    "encoder, classes": ("encoder", "reviews.csv", {}, "accuracy", 80),
    "encoder, pairs": ("encoder", "pairs.csv", {}, "accuracy", 80),
    "encoder, values": ("encoder", "values.csv", {}, "pearson", 70),
    "encoder, tags": ("encoder", "words.jsonl", {}, "span_f1", 80),
    "decoder, new head": ("decoder", "reviews.csv", {"head": "classifier"}, "accuracy", 80),
    "decoder, values": ("decoder", "values.csv", {}, "pearson", 70),
    "decoder, tags": ("decoder", "words.jsonl", {}, "span_f1", 60),
    "decoder, choices": ("decoder", "quiz.jsonl", {}, "accuracy", 80),
    "decoder, minimal pairs": ("decoder", "pairs.jsonl", {}, "accuracy", 90),
    "encoder-decoder, choices": ("encoder_decoder", "quiz.jsonl", {}, "accuracy", 80),
    "encoder-decoder, classes": ("encoder_decoder", "reviews.csv", {}, "accuracy", 80),
    "encoder-decoder, answers": ("encoder_decoder", "answers.jsonl", {}, "rougeL", 40),
    "images": ("vision", "pictures", {}, "accuracy", 80),
}


@pytest.mark.skipif(library() is None, reason=f"no kernels here: {why_not()}")
@pytest.mark.parametrize(
    ("method", "packing", "layout", "why"),
    [
        ({"name": "lora"}, True, "packed", ""),
        ({"name": "lora"}, False, "padded", ""),
        ({"name": "prefix_tuning", "virtual_tokens": 2}, True, "padded", "does not run packed"),
    ],
)
def test_a_run_tells_how_its_rows_lay_and_why(method, packing, layout, why, place, tmp_path):
    told = {"train.packing": packing, "train.steps": 2}
    asked = recipe(place, "encoder_decoder", "answers.jsonl", told, method=method)
    metrics = run(asked, tmp_path / "run", prove=False)
    assert metrics["layout"] == layout
    assert why in metrics["why_padded"]
    assert bool(metrics["why_padded"]) == bool(why)


@pytest.mark.parametrize("case", RUNS)
def test_a_run_learns_proves_itself_and_is_reloaded(case, place, tmp_path):
    model, data, fields, metric, bar = RUNS[case]
    asked = recipe(place, model, data, {"method.roles": ["all"]}, **fields)
    metrics = run(asked, tmp_path / "run", prove=False)
    failed = {name: proof for name, proof in metrics["proofs"].items() if not proof["passed"]}
    assert not failed
    assert metrics["proofs"].keys() >= {"labels_are_trained", "longest_batch_fits", "has_an_effect", "off_is_the_base"}
    assert next(iter(metrics["test"])) == metric
    assert metrics["test"][metric] >= bar, metrics["test"]
    assert metrics["loss_last"] < metrics["loss_first"]
    if metric == "accuracy" and "minimal" not in case:
        assert metrics["test"].keys() >= {"ece", "brier"}
    again = evaluate(tmp_path / "run")
    assert again["metrics"] == pytest.approx(metrics["test"], abs=1e-4)
    head = read_card(tmp_path / "run" / "adapter")["base"]["head"]
    fresh = load_base(asked.model, "float32", head=TaskHead(head["kind"], tuple(head["labels"])))
    tuned = load_adapter(fresh.model, tmp_path / "run" / "adapter", tokenizer=fresh.tokenizer)
    assert check_probe(tuned, tmp_path / "run" / "adapter")["tuned"] < 1e-5


def test_an_encoder_decoder_draws_its_answers_as_decoders_do(place):
    """By seed and number of the prompt alone, whatever it is batched with; the coldest is the most probable."""
    base = load_base(str(place / "encoder_decoder"), "float32")
    prompts = [base.tokenizer(f"count {'on ' * (i % 3)}{i}")["input_ids"] for i in range(6)]

    def written(sampling, batch_size=6):
        return write(base, prompts, Decoding(5, sampling=sampling), batch_size=batch_size)

    whole = written(Sampling(2.0, seed=3))
    assert whole == written(Sampling(2.0, seed=3), batch_size=2) != written(Sampling(2.0, seed=4))
    assert written(Sampling(top_k=1)) == written(None) != whole


def test_the_reload_in_a_fresh_process_finds_the_head(place, tmp_path):
    metrics = run(recipe(place, "encoder", "reviews.csv"), tmp_path / "run")
    assert metrics["proofs"]["reloads_to_the_same_logits"]["passed"]


@pytest.mark.parametrize("name", ["prompt_tuning", "bitfit", "head", "bottleneck", "full", "norms"])
def test_methods_of_every_family_train_an_encoder(name, place, tmp_path):
    asked = recipe(place, "encoder", "reviews.csv", {"train.steps": 60, "train.batch_size": 32}, method=name)
    metrics = run(asked, tmp_path / "run", prove=False)
    assert all(proof["passed"] for proof in metrics["proofs"].values()), metrics["proofs"]
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert sum(losses[-10:]) < sum(losses[:10])
    assert metrics["n_trainable"] >= 66  # a classifier of two classes on 32 numbers


def test_a_new_classifier_begins_anew_with_each_seed_and_the_base_keeps_its_own(place, tmp_path):
    base = load_base(str(place / "encoder"), "float32", head=TaskHead("classes", ("0", "1")))
    before = base.model.classifier.weight.clone()
    starts = []
    for seed in (1, 2, 1):
        asked = recipe(place, "encoder", "reviews.csv", {"train.steps": 1, "train.learning_rate": 1e-12}, seed=seed)
        run(asked, tmp_path / f"run{len(starts)}", base=base, prove=False)
        tuned = load_adapter(base.model, tmp_path / f"run{len(starts)}" / "adapter")
        starts.append(base.model.classifier.weight.clone())
        tuned.detach()
    assert torch.equal(base.model.classifier.weight, before)
    assert torch.equal(starts[0], starts[2])
    assert (starts[0] - starts[1]).abs().max() > 0.01


def test_a_classifier_that_the_checkpoint_holds_is_kept_where_its_labels_are_the_same(place, tmp_path):
    labels = ("no", "yes")
    base = load_base(str(place / "encoder"), "float32", head=TaskHead("classes", labels))
    assert base.new_parameters == ("classifier.weight", "classifier.bias")
    base.model.classifier.weight.data.fill_(0.5)
    base.model.save_pretrained(tmp_path / "tuned")
    base.tokenizer.save_pretrained(tmp_path / "tuned")
    kept = load_base(str(tmp_path / "tuned"), "float32", head=TaskHead("classes", labels))
    assert kept.new_parameters == ()
    assert (kept.model.classifier.weight == 0.5).all()
    assert head_of(kept.model) == kept.head
    for other in (("yes", "no"), ("a", "b", "c")):
        new = load_base(str(tmp_path / "tuned"), "float32", head=TaskHead("classes", other))
        assert new.new_parameters == ("classifier.weight", "classifier.bias")
        assert (new.model.classifier.weight != 0.5).all()
        assert new.head.labels == other


def test_a_batch_of_rows_gives_each_the_loss_it_has_alone(place):
    """Padding, segments and prefixes leave each row's loss as it is."""
    for model, data, kind in (
        ("encoder", "pairs.csv", "classes"),
        ("encoder", "values.csv", "value"),
        ("encoder", "words.jsonl", "tags"),
        ("decoder", "reviews.csv", "classes"),
        ("encoder_decoder", "answers.jsonl", "lm"),
    ):
        task = load_task(DataConfig(path=str(place / data)))
        base = load_base(str(place / model), "float64", head=TaskHead(kind, task.labels if kind != "lm" else ()))
        objective = objective_for(base)
        rows, _ = encode_rows(base, task, task.train[:25], 90)
        together = objective.row_losses(base.model, objective.collate(rows))
        alone = torch.cat([objective.row_losses(base.model, objective.collate([row])) for row in rows])
        assert len({len(row.ids) for row in rows}) > 1
        torch.testing.assert_close(together, alone, rtol=0, atol=1e-10)
        torch.testing.assert_close(objective.loss(base.model, objective.collate(rows)), alone.sum())
        assert len(set(alone.tolist())) > 1


@pytest.mark.parametrize(
    ("model", "data", "fields", "message"),
    [
        ("encoder", "answers.jsonl", {}, "is an encoder, which writes no text"),
        ("decoder", "answers.jsonl", {"head": "classifier"}, "head=classifier, which writes no text"),
        ("encoder", "reviews.csv", {"head": "lm"}, "head=lm does not fit"),
        ("vision", "reviews.csv", {}, "reads images, and reviews holds text"),
        ("encoder", "pictures", {}, "reads text, and pictures holds images"),
        ("encoder_decoder", "values.csv", {}, "answers by writing, and tells no numbers\ntake a decoder or an encoder"),
        ("encoder", "reviews.csv", {"method": {"name": "frozen", "shots": 4}}, "reads no demonstrations"),
        ("encoder", "reviews.csv", {"retention": "tiny:retention"}, "is a loss on text"),
    ],
)
def test_what_does_not_go_together_is_refused_with_the_reason(model, data, fields, message, place, tmp_path):
    with pytest.raises(UserError, match=message):
        run(recipe(place, model, data, **fields), tmp_path / "run", prove=False)


@pytest.mark.usefixtures("reloads_in_this_process")
def test_both_ways_to_classify_with_a_decoder_stand_in_one_comparison(place, tmp_path):
    from tunewise.comparison import compare

    arms = {"words": {"method": "lora"}, "head": {"method": "lora", "head": "classifier"}}
    found = compare(
        str(place / "reviews.csv"), model=str(place / "decoder"), methods=arms, seeds=(0,), out=tmp_path,
        overrides={**LONGER, "dtype": "float32", "allow_unlike": ["head"]},
    )  # fmt: skip
    assert [row["arm"] for row in found["rows"]] == ["words", "head"]
    assert found["unlike"] == {"head": {"words": "auto", "head": "classifier"}}
    assert not any(row["failed_proofs"] for row in found["rows"])


@pytest.mark.parametrize("case", ["encoder, classes", "images", "decoder, new head", "encoder-decoder, answers"])
def test_a_run_from_the_frozen_trunk_is_the_run_of_the_whole_model(case, place, tmp_path):
    model, data, fields, _, _ = RUNS[case]
    is_head = case in ("images", "encoder, classes")
    method = {"name": "head"} if is_head else {"name": "lora", "roles": ["q", "v"], "layers": [-1]}
    found = {}
    for how in ("auto", "live"):
        asked = recipe(place, model, data, {"train.trunk": how}, **fields | {"method": method})
        found[how] = run(asked, tmp_path / how, prove=False)
    told = found["auto"]["trunk"]
    assert (told["cached"], told["reason"]) == (True, "")
    assert told["layers"] == (1 if case == "decoder, new head" else 2)
    assert found["live"]["trunk"] == {
        **told,
        "layers": 0,
        "cached": False,
        "reason": "train.trunk=live",
        "n_computed": 0,
    }
    for key in ("loss_first", "loss_last"):
        assert found["auto"][key] == pytest.approx(found["live"][key], rel=2e-4), key
    assert found["auto"]["test"] == pytest.approx(found["live"]["test"], abs=2)
    assert all(proof["passed"] for proof in found["auto"]["proofs"].values())
    assert (found["auto"]["tokens"], found["auto"]["layout"]) == (found["live"]["tokens"], found["live"]["layout"])


@pytest.mark.parametrize(
    ("model", "what", "head", "told"),
    [
        ("decoder", "last_answer", "classifier", "data.trained_on=last_answer, and a classifier writes no text"),
        ("encoder", "everything", "auto", "data.trained_on=everything, and a classifier writes no text"),
        ("encoder_decoder", "everything", "lm", "an encoder-decoder writes answers alone"),
    ],
)
def test_what_a_base_is_never_trained_on_is_refused_before_it_is_loaded(place, model, what, head, told):
    data = DataConfig(path=str(place / "reviews.csv"), trained_on=what)
    for read in (load_for, rows_of):
        with pytest.raises(UserError) as error:
            read(data, str(place / model), head=head)
        assert told in error.value.message


def test_a_classifier_says_that_it_has_no_use_for_a_way_to_ask(place):
    data = DataConfig(path=str(place / "reviews.csv"), pattern="question", words={"1": "good"})
    _, task = load_for(data, str(place / "decoder"), "float32", "classifier")
    said = "; a classifier on top reads the bare columns, and nothing of data.pattern, data.words"
    assert task.ledger.detected.endswith(said)
    assert rows_of(data, str(place / "encoder")).task.ledger.detected.endswith(said)
    written = DataConfig(path=str(place / "reviews.csv"), prompt="{text}!", answer=" {label}")
    told = rows_of(written, str(place / "encoder")).task.ledger.detected
    assert told.endswith("nothing of data.prompt, data.answer")
    in_words = rows_of(data, str(place / "decoder")).task.ledger.detected
    bare = rows_of(DataConfig(path=data.path, text="text", label="label"), str(place / "encoder")).task.ledger.detected
    assert "classifier" not in in_words + bare
