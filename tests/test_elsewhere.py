"""What others call things: every hint is something that can be typed here."""

import re

import pytest

import tunewise
from tunewise.config import field_named
from tunewise.data.config import DataConfig
from tunewise.elsewhere import ELSEWHERE, hint_for
from tunewise.errors import UserError
from tunewise.methods.reparam.lora import LoRA
from tunewise.run import Recipe, build_recipe
from tunewise.training.config import TrainConfig

SECTIONS = {"train": TrainConfig, "data": DataConfig, "method": LoRA}
PLAIN = {"data": "tiny:sentiment", "method": "lora"}


@pytest.mark.parametrize("told", sorted(set(ELSEWHERE.values())))
def test_what_it_names_is_a_field_here(told):
    sections = re.findall(r"\b(train|data|method)\.(\w+)=", told)
    fields = re.findall(r"(?<![\w.])([a-z]+)=", told)
    assert all(name in SECTIONS[section].model_fields for section, name in sections)
    assert all(name in (*Recipe.model_fields, "progress") for name in fields)


@pytest.mark.parametrize("name", sorted(ELSEWHERE))
def test_what_is_a_name_here_needs_no_hint(name):
    assert name not in Recipe.model_fields
    assert field_named(TrainConfig, name) is None


def test_a_name_of_the_trainers_is_answered_with_ours():
    for overrides, hint in (
        ({"train.early_stopping_patience": 3}, "write train.patience=N"),
        ({"train.bf16": True}, "write dtype=bfloat16"),
        ({"method.lora_rank": 8}, "write method.rank=N"),
        ({"data.max_samples": 8}, "write data.train=N"),
        ({"output_dir": "x"}, "write --out FOLDER"),
        ({"method.use_dora": True}, "write method=dora"),
        ({"train.push_to_hub": True}, "write tunewise adapter push"),
        ({"train.deepspeed": "zero3.json"}, "there is no such thing here: a run is on one device"),
        ({"train.loss_type": "dpo"}, "there is no such thing here: no losses of preferences"),
        ({"train.logging_steps": 5}, hint_for(["logging_steps"])),
    ):
        with pytest.raises(UserError) as caught:
            build_recipe(PLAIN, overrides)
        assert hint in caught.value.hint
    assert hint_for(["rnak"]) == ""


def test_a_field_in_another_section_than_its_own_is_told_its_place():
    for overrides, hint in (
        ({"train.seed": 3}, "write seed=3"),
        ({"train.model": "x"}, "write model=x"),
        ({"data.batch_size": 4}, "write train.batch_size=4"),
        ({"method.learning_rate": 1e-3}, "write train.learning_rate=0.001"),
        ({"train.lora_alpha": 8}, "write method.alpha=8"),
        ({"train.lora_rank": 8}, "write method.rank=N"),
        ({"generation.few_shot": 8}, "write data.few_shot=8"),
        ({"method.shots": 8}, "write method=frozen method.shots=8"),
        ({"num_virtual_tokens": 4}, "write method=prompt_tuning method.virtual_tokens=4"),
        ({"train.seed": 3, "rank": 2}, "write method.rank=2 seed=3"),
    ):
        with pytest.raises(UserError) as caught:
            build_recipe(PLAIN, overrides)
        assert caught.value.hint == hint
    assert build_recipe(PLAIN, {"data.columns": {"text": "review"}, "data.seed": 3}).data.text == "review"


def test_what_completes_the_package_s_name_are_its_public_names():
    shown = dir(tunewise)
    assert {"train", "compare", "load_base", "attach", "showcase", "LoRA"} <= set(shown)
    assert not {"TYPE_CHECKING", "importlib"} & set(shown)
    assert all(shown.count(name) == 1 for name in tunewise.__all__)
