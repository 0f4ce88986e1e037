"""YAML as people write it, and one error that names every wrong field and the nearest right one."""

from typing import Annotated

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import AliasChoices, Field, ValidationError, field_validator

from tunewise.config import Strict, dump_yaml, override, parse, read_yaml
from tunewise.errors import UserError


class Train(Strict):
    epochs: float = 3.0
    batch_size: int = Field(default=8, ge=1, validation_alias=AliasChoices("per_device_train_batch_size"))
    rank: int = Field(default=8, alias="r")
    split: tuple[float, float] = (0.8, 0.2)

    @field_validator("epochs")
    @classmethod
    def _positive(cls, epochs: float) -> float:
        if epochs <= 0:
            raise ValueError("should be above 0")
        return epochs


class Data(Strict):
    path: str


class Recipe(Strict):
    model: str = "tiny"
    train: Train = Train()
    data: Data | str = "tiny:sentiment"
    arms: list[Train] = []


def refusal(data: dict, where: str = "") -> UserError:
    with pytest.raises(UserError) as error:
        parse(Recipe, data, where)
    return error.value


def loaded(tmp_path, text: str):
    (tmp_path / "a.yaml").write_text(text, encoding="utf-8")
    return read_yaml(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-4", 2e-4), ("1E5", 1e5), ("1.e3", 1e3), ("-.5e+3", -500.0), ("+1e3", 1e3), ("3", 3), ("1_000", 1000),
        ("0x1f", 31), ("0.5", 0.5), ("true", True), ("False", False), ("null", None), ("", None), ("~", None),
        ("yes", "yes"), ("no", "no"), ("on", "on"), ("12:30", "12:30"), ("2024-01-01", "2024-01-01"), ("017", "017"),
        ("2e-4x", "2e-4x"), ("e5", "e5"), ("'2e-4'", "2e-4"), (".inf", float("inf")), ("[1e-3, a]", [1e-3, "a"]),
    ],
)  # fmt: skip
def test_plain_scalars(tmp_path, text, value):
    got = loaded(tmp_path, f"a: {text}\n")["a"]
    assert got == value
    assert type(got) is type(value)


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
awkward = st.sampled_from(["2e-4", "yes", "017", "12:30", "null", "", " ", "1_0", "0x1f", "a: b", "- a", "é", "a\nb"])


@given(st.dictionaries(st.text(min_size=1) | awkward.filter(bool), scalars | awkward | st.lists(scalars | awkward)))
@settings(max_examples=60, deadline=None)
def test_what_is_dumped_is_read_back(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("yaml") / "a.yaml"
    path.write_text(dump_yaml(data), encoding="utf-8", newline="")
    assert (read_yaml(path) if data else {}) == data


def test_a_dumped_string_is_a_string_to_other_readers_too():
    assert yaml.safe_load(dump_yaml({"a": "yes", "b": "2e-4", "c": "12:30"})) == {"a": "yes", "b": "2e-4", "c": "12:30"}


def test_a_dumped_model_parses_to_itself(tmp_path):
    recipe = parse(Recipe, {"train": {"r": 4, "epochs": "2e-1"}, "data": {"path": "rows.csv"}, "arms": [{}, {"r": 1}]})
    assert recipe.train.epochs == 0.2
    assert parse(Recipe, loaded(tmp_path, dump_yaml(recipe))) == recipe
    assert dump_yaml(recipe).startswith("model: tiny\ntrain:\n  epochs: 0.2\n")


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("a: 1\nb: [1, 2\nc: 3\n", r"a.yaml, line 3: ", "correct line 3"),
        ("a: 1\n\tb: 2\n", r"a.yaml, line 2: ", "indents with spaces"),
        ("a: 1\nb: 2\na: 3\n", r"a.yaml, line 3: the key 'a' is there twice", "correct line 3"),
        ("a: !!python/object:os.system {}\n", r"a.yaml, line 1: could not determine a constructor", "correct line 1"),
        ("", r"a.yaml is empty", "model: tiny"),
        ("# nothing\n", r"a.yaml is empty", "model: tiny"),
        ("- 1\n- 2\n", r"a.yaml holds a list, not a mapping", "name: value"),
    ],
)
def test_bad_yaml_tells_the_line(tmp_path, text, message, hint):
    with pytest.raises(UserError, match=message) as error:
        loaded(tmp_path, text)
    assert hint in error.value.hint


def test_a_missing_recipe_and_other_bytes(tmp_path):
    (tmp_path / "recipe.yaml").write_bytes(b"a: 1\nb: \xe6\n")
    with pytest.raises(UserError, match=r"recipe\.yaml, line 2: byte 0xe6 is not UTF-8"):
        read_yaml(tmp_path / "recipe.yaml")
    with pytest.raises(UserError, match="no such file") as error:
        read_yaml(tmp_path / "recipes.yaml")
    assert error.value.hint == f"did you mean {tmp_path / 'recipe.yaml'}?"


def test_aliases_are_accepted_and_names_too():
    assert parse(Train, {"per_device_train_batch_size": 2, "r": 3}) == Train(batch_size=2, rank=3)
    assert parse(Train, {"batch_size": 2, "rank": 3}).model_dump() == {
        "epochs": 3.0, "batch_size": 2, "rank": 3, "split": (0.8, 0.2),
    }  # fmt: skip


def test_a_field_given_by_two_names_is_refused():
    assert "r and rank are the same field; keep one of them" in refusal({"train": {"r": 1, "rank": 2}}).message


@pytest.mark.parametrize(
    ("data", "message", "hint"),
    [
        ({"mdel": "x"}, "no field named mdel (given 'x')", "did you mean model?"),
        ({"train": {"epoch": 1}}, "no field named train.epoch (given 1)", "did you mean train.epochs?"),
        ({"train": {"device_train_batch_size": 1}}, "no field named train.device_train_batch_size (given 1)",
         "did you mean train.batch_size?"),
        ({"train": {"zzz": 1}}, "no field named train.zzz (given 1)", "known: epochs, batch_size, rank, split"),
        ({"train": {"epochs": -1}}, "train.epochs = -1: should be above 0", "correct train.epochs"),
        ({"train": {"r": "many"}},
         "train.rank = 'many': should be a valid integer, unable to parse string as an integer", "correct train.rank"),
        ({"train": {"batch_size": 0}}, "train.batch_size = 0: should be greater than or equal to 1",
         "correct train.batch_size"),
        ({"train": {"split": [1, float("nan")]}}, "train.split.1 = nan: should be a finite number",
         "correct train.split.1"),
        ({"train": {"split": [1]}}, "train.split.1 is missing", "add train.split.1"),
        ({"train": 5}, "train = 5: should be a valid dictionary or instance of Train", "correct train"),
        ({"data": {}}, "data.path is missing", "add data.path"),
        ({"arms": [{}, {"epoch": 1}]}, "no field named arms.1.epoch (given 1)", "did you mean arms.1.epochs?"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_told_with_its_value_and_the_next_thing_to_type(data, message, hint):
    error = refusal(data)
    assert error.message == message
    assert error.hint == hint


def test_all_wrong_fields_are_told_at_once():
    error = refusal({"mdel": 1, "train": {"epochs": 0}, "data": {"path": "x", "txt": 1}}, where="recipe.yaml")
    assert error.message.splitlines() == [
        "recipe.yaml: 3 fields are wrong",
        "  train.epochs = 0: should be above 0",
        "  no field named data.txt (given 1)",
        "  no field named mdel (given 1)",
    ]
    assert error.hint == "correct train.epochs; known: path; did you mean model?"


def test_a_long_value_is_cut_in_the_message():
    assert len(refusal({"train": {"r": "x" * 500}}).message) < 200


def test_strict_is_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        Train().epochs = 1.0  # ty: ignore[invalid-assignment]


def test_override_makes_a_new_mapping():
    data = {"model": "tiny", "train": {"epochs": 3, "split": [0.8, 0.2]}}
    got = override(data, ["train.epochs=2e-1", "data.path=a=b.csv", "train.split=[0.5, 0.5]", "model=", "train.x= yes"])
    assert got == {
        "model": None,
        "train": {"epochs": 0.2, "split": [0.5, 0.5], "x": "yes"},
        "data": {"path": "a=b.csv"},
    }
    assert data == {"model": "tiny", "train": {"epochs": 3, "split": [0.8, 0.2]}}


@pytest.mark.parametrize(
    ("assignment", "message", "hint"),
    [
        ("train.epochs", "cannot read 'train.epochs'", "write name=value, for example train.learning_rate=2e-4"),
        ("train..epochs=1", "cannot read 'train..epochs=1'", "write name=value"),
        ("=1", "cannot read '=1'", "write name=value"),
        ("model.name=x", "cannot set model.name: model is 'tiny', which has no fields", "set it as a whole: model=..."),
        ("train.split=[1", "train.split=[1, line 1: ", "correct line 1"),
    ],
)
def test_a_bad_override_is_told(assignment, message, hint):
    with pytest.raises(UserError) as error:
        override({"model": "tiny"}, [assignment])
    assert error.value.message.startswith(message)
    assert error.value.hint.startswith(hint)


def test_an_overridden_unknown_key_names_the_nearest():
    error = refusal(override({"model": "tiny"}, ["train.epoch=3"]))
    assert error.hint == "did you mean train.epochs?"


def test_a_number_that_is_too_small_is_told_once():
    class Ranked(Strict):
        rank: Annotated[int, Field(ge=1)] | dict[str, Annotated[int, Field(ge=1)]] = 8

    with pytest.raises(UserError) as caught:
        parse(Ranked, {"rank": 0})
    assert str(caught.value) == "rank = 0: should be greater than or equal to 1\ncorrect rank"
