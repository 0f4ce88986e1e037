"""A recipe that goes on from an adapter, ours or peft's, and says no more."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from tests.small_base import QUICK, write_place
from tunewise.config import read_yaml
from tunewise.errors import UserError
from tunewise.methods.store import load_adapter
from tunewise.models.load import load_base
from tunewise.run import going_on, train

OF_PEFT = {
    "lora": ("LoraConfig", {"r": 3, "lora_alpha": 5, "target_modules": ["q_proj", "down_proj"], "use_rslora": True}),
    "dora": ("LoraConfig", {"r": 2, "use_dora": True, "target_modules": ["v_proj"], "layers_to_transform": [1]}),
    "ia3": ("IA3Config", {"target_modules": ["k_proj", "v_proj", "down_proj"], "feedforward_modules": ["down_proj"]}),
    "prompt_tuning": ("PromptTuningConfig", {"num_virtual_tokens": 4}),
    "prefix_tuning": ("PrefixTuningConfig", {"num_virtual_tokens": 3}),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return write_place(tmp_path_factory.mktemp("going_on"))


@pytest.mark.parametrize("name", OF_PEFT)
def test_the_method_of_an_adapter_of_pefts_is_told_without_the_weights_of_its_base(name, place):
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)  # peft draws from the global generator
    kind, fields = OF_PEFT[name]
    config = getattr(peft, kind)(task_type="CAUSAL_LM", **fields)
    folder = place / f"peft-{name}"
    peft.get_peft_model(AutoModelForCausalLM.from_pretrained(place / "base"), config).save_pretrained(folder)
    found = going_on({"adapter": str(folder), "data": "tiny:sentiment"})
    assert found["model"] == str(place / "base")
    tuned = load_adapter(load_base(str(place / "base")).model, folder)
    assert found["method"] == tuned.method.configuration()
    assert found["method"]["name"] == name


def test_a_classifier_of_pefts_is_one_here(place):
    peft = pytest.importorskip("peft")
    model = AutoModelForSequenceClassification.from_pretrained(place / "base", num_labels=3)
    config = peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["q_proj"])
    peft.get_peft_model(model, config).save_pretrained(place / "peft-classifier")
    assert going_on({"adapter": str(place / "peft-classifier")})["method"]["roles"] == ["q"]


def test_a_run_goes_on_as_it_was_trained(place, without_a_fresh_process):
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    config = peft.LoraConfig(r=3, lora_alpha=5, target_modules=["q_proj"], task_type="CAUSAL_LM")
    peft.get_peft_model(AutoModelForCausalLM.from_pretrained(place / "base"), config).save_pretrained(place / "theirs")
    plain = {**QUICK, "retention": None, "train.steps": 2}
    data = str(place / "reviews.csv")
    train(data, out=place / "on", overrides={**plain, "adapter": str(place / "theirs")}, ignore_findings=True)
    written = read_yaml(place / "on" / "recipe.yaml")
    assert written["method"] | {"name": "lora", "rank": 3, "alpha": 5.0, "roles": ["q"]} == written["method"]
    train(data, out=place / "again", overrides={**plain, "adapter": str(place / "on")}, ignore_findings=True)
    again = read_yaml(place / "again" / "recipe.yaml")
    assert (again["method"], again["model"]) == (written["method"], written["model"])
    with pytest.raises(UserError, match=r"the recipe asks for lora with rank=4"):
        train(data, out=place / "no", overrides={**plain, "adapter": str(place / "on"), "method.rank": 4})
