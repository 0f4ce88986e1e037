"""Methods on a checkpoint that bitsandbytes has written: what they do there is what they do where it was quantised."""

import pytest
import torch
from transformers import AutoConfig

from tests import bases
from tests.methods.promises import IDS, assert_same, logits, randomise
from tests.methods.test_contract import VARIANTS
from tunewise.methods import parse_method
from tunewise.methods.attach import Tuned, attach
from tunewise.methods.store import load_adapter, save_adapter
from tunewise.models.quantise import FORMATS, keep_layout, loading

METHODS = (
    "frozen", "lora", "dora", "ia3", "bitfit", "bottleneck", "parallel", "prompt_tuning", "p_tuning", "prefix_tuning",
    "norms", "head", "sparse",
)  # fmt: skip
WITH_BIASES = ("bitfit", "lora")  # on a family whose packed layers have some
CASES = [(form, "llama", name, VARIANTS[name][0]) for form in FORMATS for name in METHODS]
CASES += [(form, "qwen2", name, {}) for form in FORMATS for name in WITH_BIASES]


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """(form, family) -> a folder with the quantised model, written once."""
    folders = {}

    def folder(form, family):
        if (form, family) not in folders:
            folders[form, family] = tmp_path_factory.mktemp(f"{form}-{family}")
            bases.quantised(form, family).save_pretrained(folders[form, family])
        return folders[form, family]

    return folder


def read(folder, family):
    """As `load_base` reads it: the format is told by the checkpoint."""
    config = AutoConfig.from_pretrained(folder)
    storage = loading(config, "", torch.float32, torch.device("cpu"))
    model = bases.auto_class(family, config).from_pretrained(folder, config=config, dtype=torch.float32, **storage)
    keep_layout(model)
    return model.eval()


def gradients(tuned: Tuned) -> dict[str, torch.Tensor]:
    tuned.model.train()
    torch.manual_seed(0)
    bases.logits(tuned.model, IDS, tuned.prefix_ids).square().mean().backward()
    tuned.model.eval()
    return {name: p.grad for name, p in tuned.trainable.items()}


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case[:3])))
def test_acts_saves_and_loads_as_where_it_was_quantised(case, stored, tmp_path):
    form, family, name, fields = case
    method = parse_method({"name": name, **fields})
    found = [attach(model, method) for model in (read(stored(form, family), family), bases.quantised(form, family))]
    for tuned in found:
        randomise(tuned)
    on_stored, on_quantised = found
    wanted = logits(on_quantised.model, on_quantised.prefix_ids)
    assert torch.equal(logits(on_stored.model, on_stored.prefix_ids), wanted)
    if name == "frozen":
        return
    assert_same(gradients(on_stored), gradients(on_quantised))
    save_adapter(on_stored, tmp_path / "adapter")
    loaded = load_adapter(bases.quantised(form, family), tmp_path / "adapter")
    assert torch.equal(logits(loaded.model, loaded.prefix_ids), wanted)
