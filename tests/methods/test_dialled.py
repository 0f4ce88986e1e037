"""λ between base and tuned model: as lanes of one batch, and as it is saved."""

import json
import shutil
from itertools import pairwise

import peft
import pytest
import torch

from tests import bases
from tests.methods.promises import IDS, logits, randomise
from tunewise.files import sha256
from tunewise.methods import parse_method
from tunewise.methods.attach import attach
from tunewise.methods.dialled import Dialled
from tunewise.methods.lanes import Draws, Lanes, Part, Parts
from tunewise.methods.several import Adapters
from tunewise.methods.store import CARD, PEFT_CONFIG, load_adapter, save_adapter

METHODS = [
    {"name": "lora", "rank": 4, "roles": ["all"]},
    {"name": "dora", "rank": 4},
    {"name": "full"},
    {"name": "bitfit", "add": True},
    {"name": "ia3"},
    {"name": "oft", "block_size": 4},
    {"name": "bottleneck", "bottleneck": 4},
    {"name": "top_layers", "layers": 1},
]
SCALES = (0.0, 0.3, 1.0, 0.7)


@pytest.mark.parametrize("fields", METHODS, ids=lambda fields: fields["name"])
def test_each_lane_is_the_method_at_its_scale(fields):
    """0 is the base and 1 the tuned model, bit for bit but for where a product of another shape rounds otherwise."""
    model = bases.build("llama", torch.float64)
    base = logits(model)
    tuned = attach(model, parse_method(fields))
    randomise(tuned)
    alone = []
    for scale in SCALES:
        tuned.scale = scale
        alone.append(logits(model))
    assert torch.equal(alone[0], base)
    tuned.detach()
    lanes = [Dialled(tuned, scale) for scale in SCALES]
    n = len(IDS)
    with torch.no_grad(), Lanes(lanes, [Draws(0, model.device) for _ in lanes]) as together:
        parts = Parts(0, tuple(Part(number, n, n) for number in range(len(SCALES))))
        with together.at(parts):
            found = model(IDS.repeat(len(SCALES), 1)).logits.split(n)
    for mine, expected in zip(found, alone, strict=True):
        torch.testing.assert_close(mine, expected, rtol=0, atol=1e-12)
    assert min(float((a - b).abs().max()) for a, b in pairwise(found)) > 1e-4
    assert torch.equal(logits(model), base)
    tuned.reattach()
    assert torch.equal(logits(model), alone[2]), "the lanes leave what they share as it was"


@pytest.mark.parametrize("fields", [*METHODS, {"name": "prompt_tuning", "virtual_tokens": 3}], ids=lambda f: f["name"])
def test_an_adapter_is_saved_at_its_scale(fields, tmp_path):
    model = bases.build("llama", torch.float64)
    tuned = attach(model, parse_method(fields))
    randomise(tuned)
    whole = logits(model, tuned.prefix_ids)
    save_adapter(tuned, tmp_path / "whole")
    tuned.scale = 0.3
    expected = logits(model, tuned.prefix_ids)
    save_adapter(tuned, tmp_path / "scaled")
    tuned.detach()
    assert not torch.allclose(whole, expected)
    assert json.loads((tmp_path / "scaled" / CARD).read_text())["scale"] == 0.3
    again = load_adapter(model, tmp_path / "scaled")
    assert again.scale == 0.3
    assert torch.equal(logits(model, again.prefix_ids), expected)
    again.on()
    assert torch.equal(logits(model, again.prefix_ids), whole), "the whole adapter is still in it"
    again.detach()


@pytest.mark.parametrize("alpha", [8.0, {"*": 8.0, "q": 4.0}], ids=["one alpha", "alphas"])
def test_peft_loads_a_lora_at_its_scale(alpha, tmp_path):
    model = bases.build("llama", torch.float64)
    method = {"name": "lora", "rank": 4, "alpha": alpha, "roles": ["q", "v"]}
    tuned = attach(model, parse_method(method))
    randomise(tuned)
    tuned.scale = 0.3
    expected = logits(model)
    save_adapter(tuned, tmp_path / "scaled")
    tuned.detach()
    theirs = peft.PeftModel.from_pretrained(model, tmp_path / "scaled").eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(IDS).logits, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["dora", "ia3", "oft"])
def test_where_no_adapter_of_peft_acts_so_there_is_none(name, tmp_path):
    """An adapter_config.json beside tensors at λ = 1 would be loaded by peft as something else."""
    model = bases.build("llama", torch.float64)
    tuned = attach(model, parse_method({"name": name, **({"block_size": 4} if name == "oft" else {})}))
    randomise(tuned)
    save_adapter(tuned, tmp_path / "whole")
    assert (tmp_path / "whole" / PEFT_CONFIG).is_file()
    tuned.scale = 0.5
    save_adapter(tuned, tmp_path / "scaled")
    assert not (tmp_path / "scaled" / PEFT_CONFIG).exists()


def test_one_that_is_off_is_saved_whole_and_old_folders_load_whole(tmp_path):
    model = bases.build("llama", torch.float64)
    tuned = attach(model, parse_method("lora"))
    randomise(tuned)
    whole = logits(model)
    tuned.off()
    save_adapter(tuned, tmp_path / "off")
    tuned.detach()
    card = json.loads((tmp_path / "off" / CARD).read_text())
    assert card.pop("scale") == 1.0
    again = load_adapter(model, tmp_path / "off")
    assert torch.equal(logits(model), whole)
    again.detach()
    old = shutil.copytree(tmp_path / "off", tmp_path / "old")
    (old / CARD).write_text(json.dumps(card))
    manifest = json.loads((old / "manifest.json").read_text())
    manifest[CARD] = {"sha256": sha256(old / CARD), "bytes": (old / CARD).stat().st_size}
    (old / "manifest.json").write_text(json.dumps(manifest))
    again = load_adapter(model, old)
    assert torch.equal(logits(model), whole)
    again.detach()


def test_switching_between_adapters_keeps_the_scale_of_each(tmp_path):
    model = bases.build("llama", torch.float64)
    tuned = attach(model, parse_method("full"))
    randomise(tuned)
    tuned.scale = 0.3
    expected = logits(model)
    save_adapter(tuned, tmp_path / "scaled")
    tuned.detach()
    adapters = Adapters(model)
    adapters.add("scaled", tmp_path / "scaled")
    adapters.add("new", parse_method("lora"))
    adapters.use("scaled")
    assert torch.equal(logits(model), expected)
    adapters.use(None)
    adapters.use("scaled")
    assert torch.equal(logits(model), expected)
    adapters.use(None)
