"""What `tunewise.plan` tells of a recipe and its rows, on rehearsals made up by a formula."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import tunewise
from tests.planning.made_up import MB, made_up, made_up_rehearsals
from tunewise.data.load import load_task
from tunewise.errors import UserError
from tunewise.planning.shell import shell_of
from tunewise.planning.work import Seen, Work
from tunewise.run.estimate import ASSUMED_ROWS, USUAL, Plan, plan


def planned(*methods, **options) -> Plan:
    with made_up_rehearsals(1):
        return plan("tiny", methods, **{"device": "h200", **options})


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """A hundred rows, of which every tenth is much longer."""
    path = tmp_path / "rows.jsonl"
    prompts = [f"what is {n}" + " and long" * (25 if n % 10 == 0 else 0) for n in range(100)]
    told = [{"prompt": prompt, "completion": "a number"} for prompt in prompts]
    path.write_text("".join(json.dumps(row) + "\n" for row in told), "utf-8")
    return path


def test_without_data_the_assumption_is_told() -> None:
    found = planned()
    assert [each.label for each in found.methods] == list(USUAL)
    assert found.steps.worst.seen == Seen(1000, 512_000, 512_000, 3.0, "auto", *caps_of(found))
    assert replace(found.steps.worst, seen=None) == Work(
        rows=8, tokens=512, labels=512, dtype=torch.bfloat16, keeps_best=True
    )
    assert found.n_rows == ASSUMED_ROWS
    assert "assuming rows of 512 tokens with a label at each" in found.told
    assert tunewise.plan is plan


@pytest.mark.parametrize(("dtype", "itemsize"), [("bfloat16", 2), ("float32", 4)])
def test_trained_tensors_of_the_base_are_stored_as_the_base_is_and_what_is_added_in_float32(
    dtype: str, itemsize: int
) -> None:
    full, lora = (each.counted for each in planned("full", "lora", overrides={"dtype": dtype}).methods)
    assert full.adapter_bytes == itemsize * full.n_trainable
    assert lora.adapter_bytes == 4 * lora.n_trainable


def test_the_worst_step_is_of_the_longest_rows_and_time_of_the_mean(rows: Path) -> None:
    found = planned("lora", data=str(rows), overrides={"train.epochs": 2, "train.batch_size": 4})
    worst, mean = found.steps.worst, found.steps.mean
    assert worst.rows == mean.rows == 4
    assert worst.tokens > 3 * mean.tokens
    assert worst.labels < worst.tokens
    n_rows = len(load_task(rows).train)
    assert found.n_rows == 2 * n_rows
    assert f"{n_rows} rows of rows" in found.told
    (lora,) = found.methods
    shell = shell_of("tiny")
    assert lora.memory == made_up(shell, lora.method, worst).memory
    seconds = 1000 * found.device.operation_seconds  # of which the card makes more than it works
    assert lora.row_seconds == pytest.approx(seconds / 4, rel=0.01)
    assert found.seconds(lora) == pytest.approx(2 * n_rows * seconds / 4, rel=0.01)


def test_a_recipe_s_own_fields_count() -> None:
    overrides = {"train.max_length": 100, "train.checkpointing": True, "train.accumulation": 4, "quantise": "nf4"}
    found = planned("lora", overrides={**overrides, "train.trunk": "live"})
    wanted = Work(rows=8, tokens=100, labels=100, quantise="nf4", checkpointing=True, keeps_best=True)
    assert not planned("lora", overrides={"train.evaluate_every": None}).steps.worst.keeps_best
    assert (found.steps.worst, found.steps.accumulation) == (wanted, 4)
    assert found.told.startswith("bfloat16 in nf4; batches of 8 × 4, checkpointing")
    assert planned("lora", quantise="int8").steps.worst.quantise == "int8"
    assert planned("lora", overrides={"dtype": "float32"}).steps.worst.dtype == torch.float32
    assert planned("lora", device="t4").steps.worst.dtype == torch.float32
    assert planned("lora", overrides={"head": "classifier"}).steps.worst.labels == 1


def caps_of(found) -> tuple[int, int]:
    seen = found.steps.worst.seen
    assert min(seen.memory_bytes, seen.disk_bytes) > 0
    return seen.memory_bytes, seen.disk_bytes


def test_frozen_layers_that_a_run_would_run_once_are_planned_so(rows: Path) -> None:
    fields = {"train.epochs": 5, "train.batch_size": 4, "dtype": "float32"}
    found = plan("tiny", ["top_layers"], data=str(rows), device="cpu", overrides=fields)
    (top,), seen, n_rows = found.methods, found.steps.worst.seen, len(load_task(rows).train)
    assert seen is not None
    assert (seen.rows, seen.passes) == (n_rows, 5.0)
    assert found.steps.mean.tokens < seen.tokens / n_rows + 0.5 < found.steps.worst.tokens
    assert top.memory.cache == seen.tokens * 224 * 4
    assert found.seconds(top) == pytest.approx(top.once_seconds + 5 * n_rows * top.row_seconds)
    assert 0 < top.once_seconds < n_rows * top.row_seconds, "a forward of 3 of 5 layers"
    (told,) = (each["trunk"] for each in found.as_data()["methods"])
    assert (told["cached"], told["layers"], told["memory_bytes"]) == (True, 3, top.memory.cache)


def test_cost_is_time_by_the_hour() -> None:
    found = planned("lora", price=3.6)
    (lora,) = found.methods
    assert found.cost(lora) == pytest.approx(found.seconds(lora) / 1000)
    assert planned("lora").cost(lora) is None
    assert planned("lora", device="24GB", price=3.6).cost(planned("lora", device="24GB").methods[0]) is None


def test_all_leaves_out_what_does_not_act_and_says_why() -> None:
    found = planned("all")
    assert len(found.methods) > 20
    assert found.refused == {"frozen": "frozen trains nothing"}
    told = []
    with made_up_rehearsals(1):
        plan("tiny", ["all", {"name": "lora", "rank": 64}], device="h200", progress=told.append)
    assert told[-1] == "lora rank=64, 25 of 25"
    with pytest.raises(UserError, match="frozen trains nothing"):
        planned("frozen")


def test_a_plan_is_plain_data() -> None:
    found = planned("full", "lora", device="24GB").as_data()
    assert json.loads(json.dumps(found)) == found
    told = {
        "model",
        "n_base",
        "n_active",
        "device",
        "work",
        "n_rows",
        "told",
        "price",
        "measured",
        "methods",
        "refused",
    }
    assert told == set(found)
    assert found["n_active"] == found["n_base"]
    assert found["device"] == {"name": "24 GB", "type": "cuda", "memory_bytes": 24 * 10**9}
    assert found["work"]["dtype"] == "bfloat16"
    full, lora = found["methods"]
    assert full["share"] == 1.0
    assert full["memory"]["total"] == sum(n for name, n in full["memory"].items() if name != "total")
    assert (lora["fits"], lora["seconds"], lora["alternatives"]) == (True, None, [])
    assert lora["largest_batch"] > 8


def test_what_does_not_fit_comes_with_what_would() -> None:
    found = planned("lora", device="0.2GB")
    (lora,) = found.methods
    assert not lora.fits
    assert lora.largest_rows < 8
    (first, *_) = found.as_data()["methods"][0]["alternatives"]
    applied = dict(word.split("=") for word in first["typed"] if not word.startswith("method"))
    work = replace(found.steps.worst, rows=int(applied.get("train.batch_size", 8)))
    work = replace(work, quantise=applied.get("quantise", ""), checkpointing="train.checkpointing" in applied)
    again = made_up(shell_of("tiny"), lora.method, work)
    assert again.memory.total == first["memory_bytes"] <= 200 * MB
    assert planned("lora", device="0.2GB", overrides=applied).methods[0].fits


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"device": "h2000"}, "no device named 'h2000'"),
        ({"price": -1.0}, "a price of -1.0 an hour is none"),
        ({"price": float("nan")}, "a price of nan"),
        ({"quantise": "nf5"}, "quantise"),
        ({"data": "nowhere.jsonl"}, "no such file: nowhere.jsonl"),
        ({"overrides": {"train.batch_sise": 2}}, "train.batch_sise"),
    ],
)
def test_bad_input_is_told(options, told) -> None:
    with pytest.raises(UserError, match=told):
        planned("lora", **options)
    with pytest.raises(UserError, match="no method named 'lroa'"):
        planned("lroa")


def test_without_a_tokenizer_four_characters_are_a_token(rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_here(name: str) -> None:
        raise UserError(f"{name} has no tokenizer")

    monkeypatch.setattr("tunewise.run.estimate.load_tokenizer", none_here)
    found = planned("lora", data=str(rows))
    assert "a token has four" in found.told
    assert found.steps.worst.tokens == pytest.approx(245 / 4, rel=0.15)


def test_no_rows_are_not_no_data() -> None:
    with pytest.raises(UserError, match="there are no rows"):
        planned(data=[])
