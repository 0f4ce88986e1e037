"""Training that goes on from an adapter, ours or peft's."""

import json

import pytest
import torch

from tests import bases
from tunewise.errors import UserError
from tunewise.methods.attach import attach
from tunewise.methods.reparam.lora import LoRA
from tunewise.methods.store import save_adapter
from tunewise.models.load import load_base
from tunewise.run import build_recipe, run
from tunewise.run.begun import begun

ROWS = [
    {"text": f"the {word} was {how} {i}", "label": how}
    for i in range(6)
    for word in ("inn", "boat")
    for how in ("fine", "bad")
]
WHOLE = {
    "retention": None,
    "train.batch_size": 32,
    "train.schedule": "constant",
    "train.warmup": 0.0,
    "train.trunk": "live",
}


@pytest.fixture(scope="module")
def tiny():
    return load_base("tiny", "float32")


def recipe_of(**overrides):
    fields = {"model": "tiny", "data": ROWS, "method": "lora:rank=2", "dtype": "float32"}
    return build_recipe(fields, {**WHOLE, "train.learning_rate": 5e-3, **overrides})


def losses(folder):
    lines = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


def test_it_begins_where_the_adapter_ended(tmp_path, tiny):
    """All rows are in every batch: the loss of the first step is that of the step after the last one."""
    keeps_last = {"train.evaluate_every": None}
    run(recipe_of(**keeps_last, **{"train.steps": 3}), tmp_path / "three", base=tiny, prove=False)
    run(recipe_of(**keeps_last, **{"train.steps": 4}), tmp_path / "four", base=tiny, prove=False)
    on = recipe_of(**keeps_last, **{"train.steps": 2, "adapter": str(tmp_path / "three")})
    found = run(on, tmp_path / "on", base=tiny, prove=False)
    assert losses(tmp_path / "on")[0] == pytest.approx(losses(tmp_path / "four")[3], rel=1e-5)
    assert losses(tmp_path / "on")[0] < 0.9 * losses(tmp_path / "four")[0]
    assert all(proof["passed"] for proof in found["proofs"].values())
    assert run(on, tmp_path / "on", base=tiny, prove=False) == found
    card = tmp_path / "three" / "adapter" / "tunewise.json"
    card.write_text(card.read_text() + "\n")
    with pytest.raises(UserError, match=r" or .*three has changed since"):
        run(on, tmp_path / "on", base=tiny, prove=False)


def test_an_adapter_of_pefts_begins_as_it_is(tmp_path):
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)  # peft draws from the global generator
    model = bases.build("llama", torch.float32).eval()
    config = peft.LoraConfig(r=3, lora_alpha=5, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    tuned = peft.get_peft_model(model, config)
    ids = torch.arange(3, 11)[None]
    expected = tuned(input_ids=ids).logits
    tuned.save_pretrained(tmp_path / "theirs")
    plain = tuned.unload()

    class Held:
        model, tokenizer, fingerprint = plain, None, ""

    wanted = build_recipe({"data": ROWS, "method": "lora"}, {"adapter": str(tmp_path / "theirs")})
    with pytest.raises(UserError, match=r"lora with rank=3.*the recipe asks for lora with rank=8") as caught:
        begun(wanted, Held, lambda: ())
    words = caught.value.hint.removeprefix("write ").replace("'", "").split()
    typed = {word.partition("=")[0]: word.partition("=")[2] for word in words[1:]}
    assert words[0] == "method=lora"
    assert {name: typed[name] for name in ("method.rank", "method.alpha")} == {
        "method.rank": "3",
        "method.alpha": "5.0",
    }
    asked = {"adapter": str(tmp_path / "theirs"), "method.rank": 3, "method.alpha": 5.0, "method.roles": ["q", "down"]}
    on = begun(build_recipe({"data": ROWS, "method": "lora"}, asked), Held, lambda: ())
    torch.testing.assert_close(on.model(input_ids=ids).logits, expected, rtol=1e-5, atol=1e-6)
    assert all(tensor.requires_grad for tensor in on.trainable.values())
    on.detach()


def test_what_cannot_be_gone_on_from_is_told_and_leaves_the_base(tmp_path, tiny):
    tuned = attach(tiny.model, LoRA(rank=2))
    tuned.scale = 0.5
    save_adapter(tuned, tmp_path / "half", base_fingerprint=tiny.fingerprint)
    tuned.detach()
    for overrides, message in (
        ({"adapter": str(tmp_path / "half")}, "saved at λ = 0.5"),
        (
            {"adapter": str(tmp_path / "half"), "method": {"name": "bitfit", "add": True}},
            "is lora, the recipe asks for bitfit",
        ),
        ({"adapter": str(tmp_path / "haf")}, "no such folder"),
    ):
        with pytest.raises(UserError, match=message):
            begun(recipe_of(**overrides), tiny, lambda: ())
    attach(tiny.model, LoRA(rank=2)).detach()  # nothing is on it


def test_a_method_that_trains_nothing_or_is_far_too_large_is_refused(tmp_path, tiny):
    with pytest.raises(UserError, match=r"lora trains nothing of tiny: method=lora .*layers=\[\]"):
        run(recipe_of(**{"method.layers": []}), tmp_path / "run", base=tiny)
    with pytest.raises(UserError, match="lora does not fit into memory beside tiny") as caught:
        run(recipe_of(**{"method.rank": 10**12}), tmp_path / "run", base=tiny)
    assert caught.value.hint == "make it smaller: method=lora method.rank=1000000000000"
    assert not (tmp_path / "run" / "recipe.yaml").exists()


@pytest.mark.parametrize("seed", [2**63, -(2**63) - 1])
def test_a_seed_that_torch_does_not_know_is_refused(seed):
    with pytest.raises(UserError, match="seed = "):
        recipe_of(seed=seed)
