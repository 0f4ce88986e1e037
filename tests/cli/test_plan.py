"""`tunewise plan` through the real command, on the small random base and on shapes."""

import json
from pathlib import Path

import pytest

from tests.cli.command import tunewise
from tests.planning.made_up import made_up_rehearsals


def test_a_plan_of_a_base_and_its_rows(base: Path, reviews: Path, tmp_path: Path) -> None:
    figure = tmp_path / "memory.svg"
    words = ("--data", reviews, "--methods", "lora:rank=4,full", "--device", "24GB", "--plot", figure)
    found = tunewise("plan", base, "train.batch_size=2", "train.epochs=1", *words, "--json")
    assert found.code == 0, found.err
    told = json.loads(found.out)
    lora, full = told["methods"]
    assert (lora["label"], lora["method"]["rank"]) == ("lora rank=4", 4)
    assert full["n_trainable"] == full["n_base"] == told["n_base"]
    assert full["memory"]["total"] > lora["memory"]["total"] > 2 * told["n_base"]
    assert told["work"]["rows"] == 2
    assert told["work"]["tokens"] >= told["work"]["mean_tokens"] > 5
    assert told["n_rows"] == 48
    assert lora["fits"]
    assert figure.read_text("utf-8").count("<svg") == 1


def test_the_table_says_what_to_take_away(base: Path) -> None:
    with made_up_rehearsals(1):
        found = tunewise("plan", base, "--method", "all", "--device", "rtx4090", "--price", "0.4")
    assert found.code == 0, found.err
    for told in (
        "model, 37,792 parameters, on rtx4090 (24.7",
        "prefix_tuning",
        "all",
        "full fits with",
        "frozen is left out",
    ):
        assert told in found.out


def test_shapes_are_planned_without_weights_or_a_network() -> None:
    with made_up_rehearsals(1):
        found = tunewise("plan", "llama-3.1-405b", "--device", "h200", "--json")
    assert found.code == 0, found.err
    told = json.loads(found.out)
    assert told["n_base"] == pytest.approx(405.85e9, rel=1e-3)
    assert [each["label"] for each in told["methods"]] == ["full", "top_layers", "lora"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--device", "rtx4900"], "did you mean 'rtx4090'?"),
        (["--method", "lroa"], "did you mean 'lora'?"),
        (["--method", "lora:rnak=2"], "rank"),
        (["--quant", "nf5"], "nf4"),
        (["--price", "dear"], "--price"),
        (["--price", "-1"], "a price of -1.0"),
        (["--data", "nowhere.csv"], "no such file: nowhere.csv"),
        (["lora"], "methods are --method lora:rank=4"),
        (["method.rank=4"], "methods are --method lora:rank=4"),
        (["train.batchsize=4"], "batch_size"),
        (["--method", "lora", "--plot", "memory.docx"], "svg, png, pdf"),
    ],
)
def test_bad_input_is_told_with_what_to_type(words: list[str], told: str) -> None:
    with made_up_rehearsals(1):
        found = tunewise("plan", "tiny", *words)
    assert found.code == 2
    assert told in found.err
    assert "Traceback" not in found.err


def test_a_base_that_is_none_names_the_nearest_shape() -> None:
    found = tunewise("plan", "lama-3.1-8b")
    assert found.code == 2
    assert "llama-3.1-8b" in found.err
    assert tunewise("plan").code == 2
