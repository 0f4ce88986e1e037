"""Arms that differ in how rows are asked, within one comparison and on one set of test items."""

import json
import re

import pytest

from tests.cli.command import tunewise
from tests.small_base import write_place
from tunewise.cli.compare import arms_of
from tunewise.cli.icl_vs_ft import models_of
from tunewise.cli.recipes import arm_of
from tunewise.comparison import build_comparison, compare
from tunewise.errors import UserError


def recipe_of(common, arm, seed, overrides=None):
    comparison = build_comparison({**common, "arms": {"one": arm}, "seeds": (seed,)}, overrides)
    return comparison.recipes["one"][0]


def test_sections_and_dotted_fields_of_an_arm_are_laid_over_what_is_common():
    common = {"model": "tiny", "data": {"path": "tiny:entailment", "train": 32}}
    section = recipe_of(common, {"method": "lora", "data": {"pattern": "question"}}, 3)
    dotted = recipe_of(common, {"method": "lora", "data.pattern": "question"}, 3, {"data.pattern": "minimal"})
    assert section == dotted
    assert (section.data.path, section.data.train, section.data.pattern, section.seed) == (
        "tiny:entailment",
        32,
        "question",
        3,
    )
    short = recipe_of({**common, "data": "tiny:entailment"}, {"method": "lora", "data": {"words": {"true": "yes"}}}, 0)
    assert (short.data.path, short.data.words) == ("tiny:entailment", {"true": "yes"})
    assert recipe_of(common, {"method": {"name": "lora"}, "method.rank": 2}, 0).method.rank == 2


def test_an_arm_in_one_word_has_fields_of_its_method_and_of_the_recipe():
    label, fields = arm_of("frozen:shots=4:data.pattern=question:data.words.true=yes")
    assert label == "frozen shots=4 data.pattern=question data.words.true=yes"
    assert fields == {"method": {"name": "frozen", "shots": 4}, "data.pattern": "question", "data.words.true": "yes"}


def test_a_value_may_hold_colons_and_commas_in_quotes_or_brackets():
    arms = arms_of("""lora:roles=[q,v]:layers=[0, 1],frozen:data.path="tiny:sentiment":data.words.1='it''s, so',lora""")
    assert list(arms.values()) == [
        {"method": {"name": "lora", "roles": ["q", "v"], "layers": [0, 1]}},
        {"method": {"name": "frozen"}, "data.path": "tiny:sentiment", "data.words.1": "it's, so"},
        {"method": {"name": "lora"}},
    ]
    assert arm_of("frozen:data.words.1=it's")[1]["data.words.1"] == "it's"
    assert arm_of(r"""frozen:data.path='C:\rows':data.prompt="say \"{text}\":" """)[1] == {
        "method": {"name": "frozen"}, "data.path": r"C:\rows", "data.prompt": 'say "{text}":',
    }  # fmt: skip
    models = models_of(r"tiny,'C:\base':train.steps=3,org/base@refs/pr/3", "icl-vs-ft")
    assert models == {"tiny": {}, r"C:\base": {"train": {"steps": 3}}, "org/base@refs/pr/3": {}}
    for text in ("frozen:data.path=tiny:sentiment", "lora:rank"):
        with pytest.raises(UserError, match=r"cannot read '(sentiment|rank)' in") as error:
            arms_of(text)
        assert """'frozen:data.path="tiny:sentiment"'""" in error.value.hint


@pytest.mark.usefixtures("without_a_fresh_process")
def test_arms_differ_in_their_pattern(tmp_path):
    place = write_place(tmp_path)
    arms = "frozen:shots=1,frozen:shots=1:data.pattern=minimal:data.words.1=good,bitfit:add=true:data.pattern=question"
    given = ("--data", place / "reviews.csv", "--methods", arms, "--seeds", "0", "--out", tmp_path / "runs")
    found = tunewise("compare", "--model", place / "base", *given, "train.steps=2", "--json")
    assert found.code == 0, found.err
    told = json.loads(found.out)
    labels = [arm["label"] for arm in told["arms"]]
    assert labels == [" ".join(arm.split(":")) for arm in arms.split(",")]
    prompts = []
    for arm in told["arms"]:
        lines = (tmp_path / "runs" / arm["folder"] / "seed0" / "predictions.jsonl").read_text("utf-8").splitlines()
        prompts.append({row["id"]: row["prompt"] for row in map(json.loads, lines)})
    assert prompts[0].keys() == prompts[1].keys() == prompts[2].keys()
    assert all(text.endswith("Question: which label is it, 0 or 1?\nAnswer:") for text in prompts[2].values())
    assert all(prompts[0][row] == f"{text}\nLabel:" for row, text in prompts[1].items())
    assert all(pair["items"]["n"] == len(prompts[0]) for pair in told["verdict"]["pairs"])
    found = [(each["tuned"], each["shown"]) for each in told["break_even"]]
    assert found == [(labels[2], labels[0]), (labels[2], labels[1])]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"data": {"seed": 1}}, "data.seed is 0 for one and 1 for other"),
        ({"data": "tiny:sentiment"}, "data.path is 'tiny:entailment' for one and 'tiny:sentiment' for other"),
    ],
)
def test_arms_on_other_rows_are_refused(fields, told):
    arms = {"one": {"method": "frozen"}, "other": {"method": "frozen", **fields}}
    with pytest.raises(UserError, match=re.escape(f"unlike arms: {told}")):
        compare("tiny:entailment", methods=arms, seeds=[0])
