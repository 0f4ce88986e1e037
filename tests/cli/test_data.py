"""`tunewise data check` and `tunewise data show`, as a user types them."""

import json

import pytest

from tests.cli.command import tunewise
from tests.data.doctor.sick_rows import answered, but, labelled, of_folder, sentence
from tunewise.data.doctor import described


@pytest.fixture
def sick(tmp_path):
    """A folder whose training rows have one label, and one of whose test rows is in train."""
    rows = but(labelled(), label=dict.fromkeys(range(40), "yes"), text={5: "a [bold]bell[/] \x07 rings, twice at noon"})
    of_folder(tmp_path / "rows", rows, test=but(labelled(10, 600), text={3: sentence(7)}))
    return tmp_path / "rows"


def test_the_verdict_comes_first_then_the_account_and_errors(sick):
    found = tunewise("data", "check", sick)
    assert found.code == 1
    lines = found.out.splitlines()
    assert lines[0].startswith(f"✗ {sick}"[:60])
    assert "is not fit to be trained on by tiny: 1 error, 3 warnings" in " ".join(found.out.split())
    text = " ".join(found.out.split())
    order = ["60 = 40 trained + 10 dev + 10 test + 0 rejected ✓ it adds up", "error one-class", "warning leaked-rows",
             "warning control-characters", "tokens a training row", "context cut rejected"]  # fmt: skip
    places = [text.find(piece) for piece in order]
    assert -1 not in places, list(zip(order, places))
    assert places == sorted(places)
    assert "a [bold]bell[/] <U+0007> rings" in text
    assert "test line 4: " in text
    assert "= train line 8: " in text


def test_json_has_everything_and_the_same_exit_code(sick):
    found = tunewise("data", "check", sick, "--json")
    assert found.code == 1
    told = json.loads(found.out)
    assert (told["fit"], told["account"]["proved"], told["counts"]["error"]) == (False, True, 1)
    leak = next(each for each in told["findings"] if each["code"] == "leaked-rows")
    assert (leak["severity"], leak["n_rows"], leak["rows"][0]["twin"]["line"]) == ("warning", 1, 8)
    assert told["checks"] == dict(described())
    assert {each["code"] for each in told["findings"]} <= told["checks"].keys()
    assert [each["context"] for each in told["lengths"]["at"]] == [256, 512]


@pytest.mark.parametrize("words", [("tiny:sentiment",), ("tiny:instruction", "train.max_length=40", "-m", "tiny")])
def test_rows_that_are_fit_exit_with_zero(words):
    found = tunewise("data", "check", *words)
    assert found.code == 0, found
    assert found.out.startswith("✓ ")


def test_what_train_takes_is_taken(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("model: tiny\ndata: {path: tiny:sentiment, train: 30}\nmethod: lora\ntrain: {max_length: 20}\n")
    told = json.loads(tunewise("data", "check", recipe, "--json").out)
    assert told["account"]["left_out"] == 470
    assert told["account"]["used"]["train"] + len(told["account"]["rejected"]) == 30
    assert told["lengths"]["max_length"] == 20
    assert len(told["account"]["cut"]) > 20


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("check", "nowhere.csv"), "no such file: nowhere.csv"),
        (("check", "tiny:sentiment", "data.txet=a"), "txet"),
        (("check", "tiny:sentiment", "--model", "./nowhere"), "nowhere"),
        (("show", "tiny:sentiment", "--part", "tset"), "no part named 'tset'"),
        (("show", "tiny:sentiment", "--line", "9999"), "train of tiny:sentiment has no lines 9999"),
    ],
)
def test_bad_input_is_told_without_a_traceback(words, message):
    found = tunewise("data", *words)
    assert found.code == 2
    assert message in found.err
    assert "hint: " in found.err


def test_training_on_unfit_rows_is_refused(sick, tmp_path):
    for verb in ("train", "compare"):
        found = tunewise(verb, "--data", sick, "--out", tmp_path / verb)
        assert found.code == 2
        assert "is not fit to be trained on" in found.err
        assert f"tunewise data check {sick}" in found.err
        assert not (tmp_path / verb).exists()


def test_rows_are_shown_as_the_model_reads_them(tmp_path):
    path = of_folder(tmp_path / "rows", answered()).task.source
    found = tunewise("data", "show", path, "-n", "2")
    assert found.code == 0
    first, second = found.out.strip().split("\n\n")
    head, *rest = first.splitlines()
    assert head.startswith("train line 1  ")
    shown = "\n".join(rest)
    assert shown.startswith(sentence(0))
    trained = "".join(part.split("›")[0] for part in shown.split("‹")[1:])
    assert trained == f"{sentence(10_000, 5)}<|end|>" or trained == f" {sentence(10_000, 5)}<|end|>"
    assert second.startswith("train line 2  ")


def test_a_line_of_another_part_is_shown_with_its_ids(tmp_path):
    path = of_folder(tmp_path / "rows", answered()).task.source
    (row,) = json.loads(tunewise("data", "show", path, "--part", "test", "--line", "4", "--json").out)
    assert (row["part"], row["line"], row["truncated"]) == ("test", 4, False)
    assert len(row["ids"]) == len(row["tokens"]) == len(row["labels"])
    assert row["labels"][-1] == row["ids"][-1]


def test_a_row_that_is_rejected_is_shown_with_its_reason(tmp_path):
    path = of_folder(tmp_path / "rows", but(answered(), completion={2: sentence(2, 60)})).task.source
    found = tunewise("data", "show", path, "train.max_length=90", "--line", "3")
    assert "train line 3  rejected: its answer has" in found.out


def test_each_source_of_a_mixture_is_checked(tmp_path):
    mixture = tmp_path / "mixture.yaml"
    mixture.write_text("sources: {mood: tiny:sentiment, news: tiny:headline}\n")
    found = tunewise("data", "check", mixture, "--json")
    told = json.loads(found.out)
    assert (found.code, list(told)) == (0, ["mood", "news"])
    assert all(each["account"]["proved"] for each in told.values())
    shown = tunewise("data", "check", mixture).out
    assert [line.split(" can be")[0] for line in shown.splitlines() if "can be trained on" in line] == [
        "✓ tiny:sentiment",
        "✓ tiny:headline",
    ]
    refused = tunewise("data", "show", mixture)
    assert refused.code == 2
    assert "show one of its sources: mood news" in refused.err


def test_a_word_that_is_no_field_is_refused():
    found = tunewise("data", "check", "tiny:sentiment", "dat.text=sentence")
    assert (found.code, "no field named 'dat'" in found.err, "did you mean 'data'?" in found.err) == (2, True, True)
