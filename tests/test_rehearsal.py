"""Runs that replay rows of other sources."""

import json

import pytest

from tests.small_base import QUICK, write_encoder, write_place
from tunewise.data.encode import MASKED
from tunewise.data.load import load_task
from tunewise.errors import UserError
from tunewise.models.load import load_base
from tunewise.run import build_recipe, run
from tunewise.run.prepare import drawn
from tunewise.run.training_rows import training_rows


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = write_place(tmp_path_factory.mktemp("place"))
    texts = [f"the kitchen water number {i} was cold" + " and deep" * (10 * (i == 7)) for i in range(60)]
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    counts = [{"prompt": f"count {i}:", "completion": f" the {i} boat"} for i in range(40)]
    (folder / "counts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in counts))
    return folder


def recipe(place, replay, **fields):
    given = {"model": str(place / "base"), "dtype": "float32", "method": "lora", "retention": None, **fields}
    return build_recipe({**given, "data": {"path": str(place / "reviews.csv"), "replay": replay}}, QUICK)


def test_texts_and_another_task_are_trained_on_beside_the_own_rows(place, tmp_path):
    """Of texts every token, of answers the answer; the ledger counts them, and the rows decide what is learnt."""
    replay = [{"path": str(place / "texts.jsonl"), "share": 0.2}, {"path": str(place / "counts.jsonl"), "share": 0.2}]
    asked = recipe(place, replay)
    base, task = load_base(asked.model, "float32"), load_task(asked.data)
    found = training_rows(base, task, 64)
    answered, texts = found.answered, found.rows[found.n_answered :]
    assert (len(task.train), len(answered), len(texts)) == (48, 48 + 16, 16)
    assert all(row.labels == row.ids for row in texts)
    masked = [sum(label == MASKED for label in row.labels) for row in answered[48:]]
    assert min(masked) >= len("count 1:")
    both = run(asked, tmp_path / "both", base=base, prove=False)
    ledger = json.loads((tmp_path / "both" / "ledger.json").read_text())["train"]
    assert (ledger["trained"], ledger["replayed"]) == (80, 32)
    assert all(proof["passed"] for proof in both["proofs"].values()), both["proofs"]
    again = run(asked, tmp_path / "again", base=base, prove=False)
    without = run(recipe(place, []), tmp_path / "without", base=base, prove=False)
    assert again["loss_last"] == both["loss_last"] != without["loss_last"]
    card = json.loads((tmp_path / "both" / "adapter" / "tunewise.json").read_text())
    assert card["notes"]["data"]["replay"] == [], "who serves it needs no source of replayed rows"


def test_of_few_rows_the_replayed_ones_keep_their_share(place):
    """Of 4 rows that are drawn, not of the 48 of the file."""
    asked = recipe(place, {"path": str(place / "texts.jsonl"), "share": 0.2})
    few = build_recipe(asked.model_dump(mode="json"), {"data.few_shot": 4})
    whole, drawn_ones = (drawn(load_task(each.data), each) for each in (asked, few))
    assert (len(whole.train), [len(each.examples) for each in whole.replayed]) == (48, [12])
    assert (len(drawn_ones.train), [len(each.examples) for each in drawn_ones.replayed]) == (4, [1])


def test_a_changed_source_is_another_run(place, tmp_path):
    source = tmp_path / "source.jsonl"
    source.write_text((place / "texts.jsonl").read_text())
    asked = recipe(place, {"path": str(source), "share": 0.1})
    run(asked, tmp_path / "run", prove=False)
    with source.open("a") as more:
        more.write('{"text": "one more"}\n')
    with pytest.raises(UserError, match="has changed since"):
        run(asked, tmp_path / "run", prove=False)


def test_a_classifier_is_not_trained_on_texts(place, tmp_path):
    encoder = tmp_path / "encoder"
    write_encoder(encoder)
    asked = recipe(place, str(place / "texts.jsonl"), model=str(encoder), method={"name": "lora", "rank": 2})
    with pytest.raises(UserError, match="is not trained on texts such as"):
        run(asked, tmp_path / "run", prove=False)
