"""Two models on the same rows: logits where labels are, for each kind of head, and how far they are apart."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from scipy import stats

from tests.small_base import write_base, write_encoder, write_encoder_decoder
from tunewise.data.config import DataConfig
from tunewise.data.load import load_task
from tunewise.engine.batches import plain
from tunewise.errors import UserError
from tunewise.evaluation import apart
from tunewise.evaluation.evaluate import Evaluation
from tunewise.files import write_jsonl
from tunewise.models.heads import TaskHead
from tunewise.models.load import load_base

TASK = load_task(DataConfig(path="tiny:sentiment", train=2))
ROWS = [plain("a", [5, 9, 33, 20], 2), plain("b", [8, 60, 12, 50, 6, 11, 4], 3)]


def test_figures_are_those_of_the_definition():
    one = torch.tensor([[0.0, 0.0, 0.0], [1.0, 2.0, 4.0]])
    other = torch.tensor([[0.0, 0.0, 3.0], [1.0, 2.0, 3.5]])
    found = apart.apart([plain("", [1, 2], 1)], 3, lambda rows: one, lambda rows: other)
    p, q = one.double().log_softmax(-1), other.double().log_softmax(-1)
    assert found.n_labels == 2
    assert found.largest_change == 3.0
    assert found.mean_change == pytest.approx(3.5 / 6)
    assert found.kl == pytest.approx(float((p.exp() * (p - q)).sum()) / 2, rel=1e-6)
    assert found.agreement == 0.5


def test_values_have_no_distribution():
    found = apart.apart(
        [plain("", [1, 2], 1)], 1, lambda rows: torch.tensor([[2.0]]), lambda rows: torch.tensor([[3.0]])
    )
    assert found == apart.Apart(1, 1.0, 1.0, None, None)


def test_a_decoder_is_read_where_its_labels_are_predicted(tmp_path):
    base = load_base(str(write_base(tmp_path / "base")), "float32")
    with torch.no_grad():
        each = [base.model(torch.tensor([row.ids])).logits[0] for row in ROWS]
    wanted = torch.cat([each[0][1:3], each[1][3:6]])
    torch.testing.assert_close(apart.logits_at_labels(base, ROWS), wanted, rtol=0, atol=1e-5)


def test_an_encoder_decoder_is_read_behind_what_it_wrote(tmp_path):
    base = load_base(str(write_encoder_decoder(tmp_path / "base")), "float32")
    rows = [replace(row, labels=(7, 9, 2)[:n]) for row, n in zip(ROWS, (2, 3), strict=True)]
    wanted = []
    for row in rows:
        entered = torch.tensor([[0, *row.labels[:-1]]])
        with torch.no_grad():
            wanted.append(base.model(input_ids=torch.tensor([row.ids]), decoder_input_ids=entered).logits[0])
    torch.testing.assert_close(apart.logits_at_labels(base, rows), torch.cat(wanted), rtol=0, atol=1e-5)
    assert apart.n_classes_of(base) == wanted[0].shape[-1]


@pytest.mark.parametrize(("kind", "n"), [("classes", 3), ("value", 1), ("tags", 3)])
def test_a_classifier_is_read_once_a_row_and_a_tagger_at_its_tags(tmp_path, kind, n):
    head = TaskHead(kind, () if kind == "value" else ("x", "y", "z"))
    base = load_base(str(write_encoder(tmp_path / "base")), "float32", head=head)
    labels = [(-100, 0, 2, -100), (-100, -100, 1, 1, 0, 2, -100)] if kind == "tags" else [(1,), (0,)]
    rows = [replace(row, labels=own) for row, own in zip(ROWS, labels, strict=True)]
    with torch.no_grad():
        each = [base.model(torch.tensor([row.ids])).logits[0] for row in rows]
    if kind == "tags":
        each = [logits[[label >= 0 for label in row.labels]] for logits, row in zip(each, rows, strict=True)]
    found = apart.logits_at_labels(base, rows)
    assert found.shape[1] == apart.n_classes_of(base) == n
    torch.testing.assert_close(found, torch.cat([logits.reshape(-1, n) for logits in each]), rtol=0, atol=1e-5)


def test_pieces_and_batches_change_nothing(tmp_path, monkeypatch):
    base, other = (load_base(str(write_base(tmp_path / str(seed), seed=seed)), "float32") for seed in (0, 1))
    rows = [plain(str(i), [5 + (i * j) % 50 for j in range(3 + i % 5)], 2) for i in range(20)]
    logits = (partial(apart.logits_at_labels, each) for each in (base, other))
    ask = partial(apart.apart, rows, apart.n_classes_of(base), *logits)
    whole = ask()
    monkeypatch.setattr(apart, "ROWS_AT_A_TIME", 3)
    monkeypatch.setattr(apart, "PIECE", 2 * apart.n_classes_of(base))
    in_pieces = ask()
    assert whole.n_labels == in_pieces.n_labels == 40
    for figure in ("largest_change", "mean_change", "kl", "agreement"):
        assert getattr(in_pieces, figure) == pytest.approx(getattr(whole, figure), rel=1e-5)
    assert whole.kl > 0


def test_texts_have_a_label_at_every_token_but_the_first_and_no_answers(tmp_path):
    base = load_base(str(write_base(tmp_path / "base")), "float32")
    texts = ["the soup was cold", "the boat was late, and then it was later still", "a", "b" * 400]
    write_jsonl(tmp_path / "texts.jsonl", ({"text": text} for text in texts * 4))
    task = load_task(DataConfig(path=str(tmp_path / "texts.jsonl")), base.tokenizer)
    every = [*task.train, *task.dev, *task.test]
    sheet = apart.sheet_of(base, task, every, "all")
    assert len(sheet.rows) == 16
    assert max(len(row.ids) for row in sheet.rows) == 96
    assert all(row.labels[0] == -100 and row.labels[1:] == row.ids[1:] for row in sheet.rows)
    answers = sheet.answers(base)
    assert answers.metrics.keys() == {"loss", "perplexity"}
    assert apart.changed_answers(answers, answers) is None
    with pytest.raises(UserError, match="no rows to measure on"):
        apart.sheet_of(base, task, [], "none")


def test_a_few_rows_are_drawn_and_not_the_first(tmp_path):
    base = load_base(str(write_base(tmp_path / "base")), "float32")
    write_jsonl(tmp_path / "rows.jsonl", ({"text": f"boat {i}", "label": "ab"[i % 2]} for i in range(200)))
    task = load_task(DataConfig(path=str(tmp_path / "rows.jsonl")), base.tokenizer)
    few = apart.a_few(task, (task.test, task.dev), 10)
    assert [task.test.index(one) for one in few] == sorted(task.test.index(one) for one in few)
    assert few != list(task.test[:10])
    assert few == apart.a_few(task, (task.test, task.dev), 10)
    more = apart.a_few(task, (task.test, task.dev), len(task.test) + 3)
    assert more[:-3] == list(task.test)
    assert set(more[-3:]) <= set(task.dev)


def test_answers_that_changed_are_counted_by_question():
    first, second = (
        Evaluation({}, [{"id": str(i), "predicted": text} for i, text in enumerate(texts)])
        for texts in ("abcd", "abxy")
    )
    assert apart.changed_answers(first, second) == 0.5
    assert apart.changed_answers(first, None) is None


def test_a_metric_that_is_no_number_is_none():
    assert apart.metrics_of(Evaluation({"accuracy": 50.0, "loss": float("nan")}, [])) == {
        "accuracy": 50.0,
        "loss": None,
    }


def test_the_change_of_a_loss_has_the_interval_of_a_ratio():
    """Against scipy's bootstrap of Σ nats / Σ tokens, rows drawn in pairs."""
    generator = np.random.default_rng(0)
    counts = generator.integers(5, 200, 60)
    before = generator.normal(4, 0.5, 60)
    after = before + generator.normal(0.1, 0.05, 60) + 3 / counts  # short texts lose more
    sides = [
        Evaluation(
            {"loss": float((counts * losses).sum() / counts.sum())},
            [{"id": str(i), "loss": loss, "n_tokens": int(n)} for i, (loss, n) in enumerate(zip(losses, counts))],
        )
        for losses in (before, after)
    ]
    found = apart.score_change(TASK, *sides)
    assert found["change"] == pytest.approx(sides[1].metrics["loss"] - sides[0].metrics["loss"])
    wanted = stats.bootstrap(
        (counts * (after - before), counts), lambda nats, n, axis=-1: nats.sum(axis) / n.sum(axis), paired=True,
        method="percentile", rng=1,
    ).confidence_interval  # fmt: skip
    width = wanted.high - wanted.low
    assert found["interval"] == pytest.approx(list(wanted), abs=0.05 * width)
    assert (
        not found["interval"][0] < float((after - before).mean()) < found["interval"][1]
    )  # each row weighing the same


def test_a_metric_that_is_no_mean_over_rows_has_no_interval():
    rows = [{"id": str(i), "predicted": "a", "expected": "ab"[i == 0], "correct": i != 0} for i in range(4)]
    first, second = Evaluation({"accuracy": 75.0}, rows), Evaluation({"accuracy": 75.0}, rows)
    assert apart.score_change(TASK, first, second) == {"metric": "accuracy", "change": 0, "interval": [0, 0]}
    whole = Evaluation({"mcc": 12.0}, rows)
    assert apart.score_change(TASK, whole, whole) == {"metric": "mcc", "change": 0, "interval": None}
    assert apart.score_change(TASK, first, None) is None
