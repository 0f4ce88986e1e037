"""The recipe of a comparison: what arms share, what is their own, and which differences are refused."""

from pathlib import Path

import pytest
import torch

from tunewise.comparison import build_comparison
from tunewise.config import read_yaml
from tunewise.errors import UserError
from tunewise.methods import METHODS
from tunewise.verdict import COSTS

ROOT = Path(__file__).resolve().parents[2]
TWO = {"data": "tiny:sentiment", "arms": {"a": "lora", "b": {"method": {"name": "bitfit", "add": True}}}}


def test_the_recipe_in_the_repository_is_what_it_says():
    found = build_comparison(read_yaml(ROOT / "recipes" / "compare-sentiment.yaml"))
    assert list(found.recipes) == ["in context", "BitFit", "LoRA", "prompt tuning", "full"]
    assert {len(of_arm) for of_arm in found.recipes.values()} == {3}
    for of_arm in found.recipes.values():
        assert [recipe.seed for recipe in of_arm] == [0, 1, 2]
        assert {(recipe.train.epochs, recipe.train.batch_size, recipe.data.train) for recipe in of_arm} == {
            (3, 16, 400)
        }
    assert found.recipes["prompt tuning"][0].train.schedule == "constant"
    assert (found.protocol.trials, found.protocol.margin) == (4, 2)
    rule = found.protocol.rule("accuracy")
    assert (rule.weights, rule.lower_is_better) == ({"bytes": 1, "seconds": 1, "forgetting": 1}, False)


def test_an_arms_own_fields_win_over_shared_ones_and_overrides_over_all():
    fields = {**TWO, "train": {"epochs": 2, "learning_rate": 1e-3}, "data": {"path": "tiny:sentiment", "train": 32}}
    fields["arms"] = {"a": {"method": "lora", "train": {"learning_rate": 5e-3}}, "b": "ia3"}
    found = build_comparison(fields, {"train.epochs": 1.0, "trials": 3, "weights": {"bytes": 2}})
    a, b = (of_arm[0] for of_arm in found.recipes.values())
    assert (a.train.learning_rate, b.train.learning_rate) == (5e-3, 1e-3)
    assert (a.train.epochs, b.train.epochs, a.data.train) == (1, 1, 32)
    assert (found.protocol.trials, found.protocol.weights) == (3, {"bytes": 2})
    assert build_comparison(TWO).protocol.weights == dict.fromkeys(COSTS, 1.0)


def test_all_is_every_method_that_acts_on_the_base():
    found = build_comparison({"data": "tiny:sentiment", "arms": ["all", "lora:rank=4"]})
    assert list(found.recipes) == [*(name for name in METHODS), "lora rank=4"]
    assert found.recipes["bitfit"][0].method.add
    named = build_comparison({"data": "tiny:sentiment", "arms": {"all": "all", "lora": {"method": "lora:rank=2"}}})
    assert named.recipes["lora"][0].method.rank == 2


def test_of_a_new_head_all_is_what_trains_it():
    found = build_comparison({"data": "tiny:sentiment", "head": "classifier", "arms": ["all"]})
    assert "frozen" not in found.recipes
    assert {"head", "lora", "full"} <= found.recipes.keys()


def test_a_dotted_field_of_an_arm_is_the_last_word():
    arms = {"a": "lora", "b": {"method": "lora", "train.learning_rate": 5e-3, "method.rank": 4}}
    found = build_comparison({**TWO, "arms": arms}, {"train.learning_rate": 1e-3})
    a, b = (of_arm[0] for of_arm in found.recipes.values())
    assert (a.train.learning_rate, b.train.learning_rate) == (1e-3, 5e-3)
    assert (a.method.rank, b.method.rank) == (8, 4)


OWN = [
    {"train": {"learning_rate": 1e-2, "schedule": "linear", "warmup": 0.1, "weight_decay": 0.1, "clip": None}},
    {"train": {"label_smoothing": 0.1, "class_weights": {"negative": 2}}},
    {"train": {"lanes": False, "packing": False, "trunk": "live", "checkpoint_every": 7, "checkpointing": True}},
]


@pytest.mark.parametrize("own", OWN)
def test_how_an_arm_adapts_and_how_it_is_carried_out_may_differ(own):
    found = build_comparison({**TWO, "arms": {"a": "lora", "b": {"method": "ia3", **own}}})
    assert found.unlike == {}


UNLIKE = {
    "train.steps": ({"train": {"steps": 9}}, None, 9),
    "train.epochs": ({"train": {"epochs": 9}}, 3.0, 9.0),
    "train.batch_size": ({"train": {"batch_size": 9}}, 8, 9),
    "train.max_length": ({"train": {"max_length": 99}}, 512, 99),
    "train.optimiser": ({"train": {"optim": "adamw_bnb_8bit"}}, "adamw", "adamw_8bit"),
    "train.evaluate_every": ({"train": {"evaluate_every": None}}, 1.0, None),
    "data.path": ({"data": "tiny:entailment"}, "tiny:sentiment", "tiny:entailment"),
    "data.train": ({"data": {"path": "tiny:sentiment", "train": 9}}, None, 9),
    "data.seed": ({"data": {"path": "tiny:sentiment", "seed": 9}}, 0, 9),
    "generation.do_sample": ({"generation": {"do_sample": True}}, False, True),
    "retention": ({"retention": None}, "auto", []),
    "head": ({"head": "classifier"}, "auto", "classifier"),
}


@pytest.mark.parametrize("name", UNLIKE)
def test_what_would_decide_beside_the_method_is_refused_by_name(name):
    own, one, other = UNLIKE[name]
    arms = {"a": "lora", "b": "ia3", "c": {"method": "bitfit", **own}}
    with pytest.raises(UserError) as error:
        build_comparison({**TWO, "arms": arms})
    assert error.value.message.startswith(f"unlike arms: {name} is {one!r} for a and {other!r} for c")
    assert f"--allow-unlike {name}" in error.value.hint
    for allowed in (name, name.partition(".")[0]):
        found = build_comparison({**TWO, "arms": arms, "allow_unlike": [allowed]})
        assert found.unlike == {name: {"a": one, "b": one, "c": other}}


def test_a_test_set_that_one_arm_alone_is_asked_is_refused():
    arms = {"a": "lora", "b": {"method": "ia3", "out_of_domain": {"twin": "twin.csv"}}}
    with pytest.raises(UserError, match=r"unlike arms: out_of_domain\.twin is None for a and"):
        build_comparison({**TWO, "arms": arms})
    for allowed in ("out_of_domain", "out_of_domain.twin"):
        assert list(build_comparison({**TWO, "arms": arms, "allow_unlike": [allowed]}).unlike) == ["out_of_domain.twin"]


def test_of_an_arm_that_trains_nothing_the_training_does_not_count():
    arms = {
        "a": "frozen",
        "b": {"method": "lora", "train": {"steps": 9}},
        "c": {"method": "ia3", "train": {"steps": 9}},
    }
    assert build_comparison({**TWO, "arms": arms}).unlike == {}
    with pytest.raises(UserError, match=r"unlike arms: data\.seed"):
        build_comparison({**TWO, "arms": {**arms, "a": {"method": "frozen", "data": {"seed": 1}}}})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"trails": 4}, r"no field named trails \(given 4\)\ndid you mean trials\?"),
        ({"seed_s": [1]}, r"seed_s"),
        ({"train": {"stepz": 4}}, r"a: no field named train.stepz \(given 4\)\ndid you mean train.steps\?"),
        ({"arms": {"a": {"method": "lora", "trian": {}}}}, r"a: no field named trian .*\ndid you mean train\?"),
        ({"arms": {"a": {"train": {"steps": 3}}}}, "the arm a has no method"),
        ({"arms": {"a": 3}}, "the arm a has no fields"),
        ({"arms": {}}, "no methods given"),
        ({"seeds": []}, "no seeds given"),
        ({"seeds": [1, 1]}, "a seed is there twice"),
        ({"trials": 0}, "trials = 0"),
        ({"alpha": 1.0}, "alpha = 1.0"),
        ({"margin": -1}, "margin = -1"),
        ({"weights": {"byte": 1}}, "no such cost: byte"),
    ],
)
def test_what_is_wrong_is_named(fields, message):
    with pytest.raises(UserError, match=message):
        build_comparison({**TWO, **fields})


def test_two_arms_that_are_one_run_are_refused_and_so_is_one_seed_for_all():
    twice = {**TWO, "arms": {"a": "lora", "b": {"method": {"name": "lora", "rank": 8}}}}
    with pytest.raises(UserError, match="the arms a and b are the same"):
        build_comparison(twice)
    assert len(build_comparison(twice, {"trials": 2}).recipes) == 2, (
        "the rank of one is searched, that of the other not"
    )
    with pytest.raises(UserError, match="seed=5 would make all runs of an arm one"):
        build_comparison(TWO, {"seed": 5})


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"arms": 3}, "arms = 3: should be labels with fields, or a list"),
        ({"arms": ["lora", [1]]}, r"arms: \[1\] is no method"),
        ({"arms": {"a": {"method": "lora", 3: 4}}}, "a: 3 = 3: Keys should be strings"),
        ({"allow_unlike": ["train.stepps"]}, r"no field of a recipe named 'train.stepps'"),
    ],
)
def test_arms_and_fields_that_are_none_are_refused(fields, told):
    with pytest.raises(UserError, match=told):
        build_comparison({**TWO, **fields})
    assert list(build_comparison({"data": "tiny:sentiment", "arms": "lora"}).recipes) == ["lora"]


def test_arms_may_store_one_base_in_formats_of_their_own_and_are_held_against_the_plain_one():
    found = build_comparison(read_yaml(ROOT / "recipes" / "qlora.yaml"))
    stored = {label: of_arm[0].quantise for label, of_arm in found.recipes.items()}
    assert stored == {
        "base": "", "base in nf4": "nf4", "LoRA": "", "QLoRA": "nf4", "LoRA on int8": "int8",
    }  # fmt: skip
    assert found.unlike == {}
    assert found.against == {
        "base in nf4": "base", "QLoRA": "LoRA", "LoRA on int8": "LoRA",
    }  # fmt: skip


def test_an_arm_is_held_against_the_one_that_is_most_like_it():
    fast, slow = ({"train": {"learning_rate": rate}} for rate in (1e-2, 1e-3))
    arms = {
        "fast": {"method": "lora", **fast},
        "slow": {"method": "lora", **slow},
        "slow in 4 bits": {"method": "lora", "quantise": "nf4", **slow},
        "other rate": {"method": "lora", "quantise": "nf4"},
        "other method": {"method": "ia3", "quantise": "nf4"},
    }
    found = build_comparison({**TWO, "arms": arms})
    assert found.against == {"slow in 4 bits": "slow", "other rate": "fast"}
    named = build_comparison({**TWO, "arms": arms, "against": "slow"}).against
    assert named == dict.fromkeys(("fast", "slow in 4 bits", "other rate", "other method"), "slow")
    assert build_comparison(TWO).against == {}
    with pytest.raises(UserError, match="slwo") as error:
        build_comparison({**TWO, "arms": arms, "against": "slwo"})
    assert "slow" in error.value.hint


def test_another_precision_or_model_is_another_matter():
    arms = {"a": "lora", "b": {"method": "lora", "dtype": "float32"}}
    with pytest.raises(UserError, match="unlike arms: dtype is 'auto' for a and 'float32' for b"):
        build_comparison({**TWO, "arms": arms})
    assert build_comparison({**TWO, "arms": arms, "allow_unlike": ["dtype"]}).unlike
    with pytest.raises(UserError, match="2 bases: other; tiny"):
        build_comparison({**TWO, "arms": {"a": "lora", "b": {"method": "lora", "model": "other"}}})


def test_a_base_goes_by_its_name_or_folder_and_a_loaded_one_is_refused_in_one_line():
    assert build_comparison({**TWO, "model": Path("bert")}).recipes["a"][0].model == "bert"
    with pytest.raises(UserError, match="is to be the name of a base, or its folder") as refused:
        build_comparison({**TWO, "model": torch.nn.Sequential(torch.nn.Linear(2, 2))})
    assert "\n" not in refused.value.message
