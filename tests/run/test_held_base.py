"""A base that is loaded already: it is used as it is, and is as it was behind a run and an evaluation."""

from dataclasses import replace

import pytest
import torch

import tunewise
from tests import bases
from tunewise.errors import UserError
from tunewise.models.fingerprint import checksums
from tunewise.run.prepare import fields_of

ROWS = [{"text": f"the boat was {how} {i}", "label": how} for i in range(12) for how in ("fine", "bad")]
FEW = {"retention": None, "train.steps": 2}


@pytest.mark.usefixtures("reloads_in_this_process")
def test_a_loaded_base_is_trained_on_and_measured_and_left_as_it_was(tmp_path, monkeypatch):
    base = tunewise.load_base("tiny", "float32")
    before = checksums(base.model)
    monkeypatch.setattr("tunewise.run.prepare.load_base", lambda *_: pytest.fail("it was loaded again"))
    found = tunewise.train(ROWS, model=base, method="lora:rank=2", overrides=FEW, out=tmp_path / "run")
    assert all(proof["passed"] for proof in found["proofs"].values())
    again = tunewise.evaluate(tmp_path / "run", model=base)
    assert again["metrics"] == pytest.approx(found["test"], abs=1e-4)
    assert again["model"] == "tiny"
    assert checksums(base.model) == before
    tunewise.attach(base.model, tunewise.LoRA(rank=2)).detach()  # nothing is on it


def test_a_model_that_does_not_say_where_it_is_from_is_refused_with_the_way():
    with pytest.raises(UserError, match="says not which base it is") as caught:
        tunewise.train(ROWS, model=bases.build("llama", torch.float32))
    assert "save_pretrained" in caught.value.hint


def test_how_a_loaded_base_is_stored_stands_in_the_recipe():
    base = replace(tunewise.load_base("tiny", "float32"), quantise="nf4")
    assert fields_of(base) == ({"model": "tiny", "dtype": "float32", "quantise": "nf4"}, base)
    assert fields_of("tiny") == ({"model": "tiny"}, None)
