"""`tunewise plan --measure`: steps of made-up rows on bases of every kind, which leave the base as it was."""

import pytest
import torch

from tests.small_base import write_encoder, write_place
from tunewise.data.encode import MASKED
from tunewise.errors import UserError
from tunewise.methods import parse_method
from tunewise.methods.attach import attach
from tunewise.models.fingerprint import checksums
from tunewise.models.heads import TaskHead
from tunewise.models.load import load_base
from tunewise.planning.rehearsal import rehearse
from tunewise.planning.shell import shell_of
from tunewise.planning.work import Work
from tunewise.run.estimate import measured_plan, plan
from tunewise.run.measured_step import made_up_rows, measured_step
from tunewise.training.config import TrainConfig

WORK = Work(rows=4, tokens=24, labels=10, dtype=torch.float32)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return write_place(tmp_path_factory.mktemp("place"))


@pytest.mark.parametrize("method", ["lora", "full", "prefix_tuning"])
def test_a_step_is_measured_and_the_base_left_as_it_was(place, method):
    base = load_base(str(place / "base"), dtype="float32")
    before = checksums(base.model)
    found = measured_step(base, parse_method(method), TrainConfig(), WORK)
    assert checksums(base.model) == before
    assert not any(parameter.grad is not None for parameter in base.model.parameters())
    assert found.seconds > 0
    assert found.bytes is not None
    assert found.bytes >= 4 * base.model.num_parameters()


def test_rows_are_as_the_work_says(place):
    base = load_base(str(place / "base"), dtype="float32")
    rows = made_up_rows(base, WORK)
    assert len(rows) == 4
    assert {len(row.ids) for row in rows} == {24}
    assert {sum(label != MASKED for label in row.labels) for row in rows} == {10}
    assert len({row.ids for row in rows}) == 4
    assert max(max(row.ids) for row in rows) < base.model.get_input_embeddings().num_embeddings


def test_a_classifier_is_measured_too(tmp_path):
    base = load_base(str(write_encoder(tmp_path / "encoder")), dtype="float32", head=TaskHead("classes", ("a", "b")))
    assert {row.labels for row in made_up_rows(base, WORK)} == {(0,)}
    assert measured_step(base, parse_method("lora"), TrainConfig(), WORK).seconds > 0


@pytest.mark.parametrize("method", ["lora", "full", "vera", "norms"])
def test_weights_are_counted_as_the_rehearsal_counts_them(place, method):
    """Originals of what is trained among them, and what all deltas share once."""
    name, chosen = str(place / "base"), parse_method(method)
    tuned = attach(load_base(name, dtype="float32").model, chosen)
    planned = rehearse(shell_of(name), chosen, WORK).memory
    assert tuned.held_bytes == pytest.approx(planned.weights + planned.constants, rel=0.03)


def test_a_measured_plan_is_corrected_in_every_row(place):
    fields = {"train.batch_size": 2, "train.max_length": 32, "dtype": "float32"}
    name = str(place / "base")
    found, plain = (
        measured_plan(name, ["lora", "full"], overrides=fields),
        plan(name, ["lora", "full"], overrides=fields),
    )
    assert found.correction is not None
    assert found.correction.label == "lora"
    for measured, planned in zip(found.methods, plain.methods, strict=True):
        assert measured.row_seconds == pytest.approx(planned.row_seconds * found.correction.of_seconds)
        assert measured.memory == found.correction.corrected(planned.memory)
    of_two = 2 * found.methods[0].row_seconds
    assert of_two == pytest.approx(found.correction.seconds)
    assert found.as_data()["measured"]["label"] == "lora"
    assert plain.as_data()["measured"] is None


def test_what_cannot_be_measured_says_why(place):
    with pytest.raises(UserError, match=r"llama-3\.1-8b is a shape without weights"):
        measured_plan("llama-3.1-8b", ["lora"])
    with pytest.raises(UserError, match="no step fits"):
        measured_plan(str(place / "base"), ["lora"], overrides={"train.batch_size": 10**9})
