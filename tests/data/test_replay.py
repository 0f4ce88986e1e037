"""Which rows are replayed, and how they become ids."""

import json

import pytest

from tests.bytes_tokenizer import bytes_tokenizer
from tests.small_base import write_pictures
from tunewise.config import parse
from tunewise.data.config import DataConfig
from tunewise.data.examples import Example, Ledger, Note, Part
from tunewise.data.load import load_task
from tunewise.data.replay import added, encode_texts, n_replayed
from tunewise.errors import UserError

TOKENIZER = bytes_tokenizer()


def texts(*rows):
    return [Example(f"t{i}", (Part(text, True),), line=i + 1) for i, text in enumerate(rows)]


@pytest.mark.parametrize(
    ("n_rows", "shares", "expected"),
    [(95, [0.05], [5]), (500, [0.05], [26]), (60, [0.1, 0.3], [10, 30]), (4, [0.01], [1])],
)
def test_a_source_makes_up_its_share_of_all_rows(n_rows, shares, expected):
    assert n_replayed(n_rows, shares) == expected


def test_rows_are_drawn_by_seed_from_the_training_part():
    fields = {"path": "tiny:sentiment", "replay": {"path": "tiny:retention", "share": 0.1}}
    plain, task, again = load_task("tiny:sentiment"), load_task(DataConfig(**fields)), load_task(DataConfig(**fields))
    (found,) = task.replayed
    assert (found.source, found.is_text, len(found.examples)) == ("tiny:retention", True, 56)
    assert found == again.replayed[0]
    assert found.examples != load_task(DataConfig(**fields, seed=1)).replayed[0].examples
    source = load_task("tiny:retention")
    assert {one.id for one in found.examples} <= {one.id for one in source.train}
    assert not {one.text for one in found.examples} & {one.text for one in source.test}
    assert (task.train, task.dev, task.test) == (plain.train, plain.dev, plain.test)
    assert task.ledger.detected.endswith("; replayed: 56 of tiny:retention")
    assert "replayed" not in plain.ledger.detected


def test_of_a_text_every_token_is_trained_and_a_cut_one_has_no_end():
    rows, ledger = encode_texts(texts("cold water", "x" * 50, ""), TOKENIZER, 20)
    whole, cut = rows
    assert whole.labels == whole.ids
    assert whole.ids == (*TOKENIZER("cold water").input_ids, TOKENIZER.eos_token_id)
    assert (len(cut.ids), cut.truncated, TOKENIZER.eos_token_id in cut.ids) == (20, True, False)
    assert (ledger.rows, ledger.trained, ledger.rejected) == (3, 2, (Note(3, "nothing in it is trained"),))
    assert ledger.truncated == (Note(2, "the text was cut to 20 tokens"),)


def test_the_account_counts_them_and_names_their_source():
    own = Ledger(rows=10, trained=9, rejected=(Note(3, "empty"),))
    both = added(own, Ledger(rows=3, trained=3, truncated=(Note(1, "cut"),)), "a.txt")
    assert (both.rows, both.trained, both.replayed) == (13, 12, 3)
    assert (both.rejected, both.truncated) == ((Note(3, "empty"),), (Note(1, "a.txt: cut"),))
    assert "12 used, 3 of them replayed, 1 cut" in both.sentence()


def test_a_replayed_row_that_stands_in_test_is_told(tmp_path):
    rows = [{"prompt": f"count {i}:", "completion": f" {i}"} for i in range(30)]
    for name, of_file in (("train", rows[:20]), ("test", rows[20:])):
        (tmp_path / "own").mkdir(exist_ok=True)
        (tmp_path / "own" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in of_file))
    (tmp_path / "all.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    replay = {"path": str(tmp_path / "all.jsonl"), "share": 0.5}
    leaks = load_task(DataConfig(path=str(tmp_path / "own"), replay=replay)).ledger.leaks
    assert leaks
    assert not load_task(str(tmp_path / "own")).ledger.leaks


@pytest.mark.parametrize(
    ("replay", "told"),
    [
        ({"path": "tiny:retention", "share": 1.0}, "less than 1"),
        ([{"path": "tiny:retention", "share": 0.6}, {"path": "tiny:headline", "share": 0.4}], "leave no row"),
        ({"path": "tiny:retention", "part": 0.1}, "part"),
    ],
)
def test_bad_shares_are_refused(replay, told):
    with pytest.raises(UserError, match=told):
        parse(DataConfig, {"path": "tiny:sentiment", "replay": replay})


def test_a_source_without_training_rows_is_refused():
    with pytest.raises(UserError, match="tiny:entailment_ood has no training rows to replay"):
        load_task(DataConfig(path="tiny:sentiment", replay="tiny:entailment_ood"))


def test_images_are_not_replayed(tmp_path):
    write_pictures(tmp_path / "pictures")
    with pytest.raises(UserError, match="holds images, which are not replayed"):
        load_task(DataConfig.model_validate({"path": "tiny:sentiment", "replay": str(tmp_path / "pictures")}))
