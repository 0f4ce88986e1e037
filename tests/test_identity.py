"""What makes a run another one, and what does not."""

import pytest

from tunewise.identity import digest_of_arm, identity
from tunewise.run.recipe import build_recipe


def fields(**overrides):
    recipe = build_recipe({"data": "tiny:sentiment", "method": "lora"}, {**overrides})
    return recipe.model_dump(mode="json")


def test_who_is_told_of_a_run_is_no_part_of_it():
    plain, told = fields(), fields(**{"train.report_to": "tensorboard"})
    assert plain != told
    assert identity(plain) == plain == identity(told)
    assert digest_of_arm(plain) == digest_of_arm(told)
    assert told["train"]["report_to"] == ["tensorboard"], "a recipe is left as it is"


@pytest.mark.parametrize("change", [{"train.learning_rate": 2e-4}, {"model": "other"}, {"data.train": 8}])
def test_everything_else_is(change):
    assert identity(fields(**change)) != identity(fields())
    assert digest_of_arm(fields(**change)) != digest_of_arm(fields())


def test_seeds_are_of_one_arm():
    assert identity(fields(seed=1)) != identity(fields())
    assert digest_of_arm(fields(seed=1)) == digest_of_arm(fields())


def test_a_recipe_that_says_nothing_of_its_training_is_taken_as_it_is():
    assert identity({"model": "tiny"}) == {"model": "tiny"}
