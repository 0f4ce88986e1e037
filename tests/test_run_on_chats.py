"""A run on conversations: trained, asked, stopped, saved and merged by one template."""

import json
import logging
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM

from tests.bytes_tokenizer import bytes_tokenizer
from tests.small_base import QUICK, write_encoder_decoder
from tunewise.data.config import DataConfig
from tunewise.data.encode import encode_all
from tunewise.data.load import load_task
from tunewise.errors import UserError
from tunewise.files import write_jsonl
from tunewise.methods.store import read_card
from tunewise.models.load import load_base
from tunewise.run import build_recipe, examine_data, merge_adapter, run, save_merged
from tunewise.run.record import data_digest

GEMMA = (Path(__file__).parent / "data" / "chat_templates" / "gemma.jinja").read_text("utf-8")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A base whose turns end with <end_of_turn>, which is not its end-of-sequence token, and conversations."""
    folder = tmp_path_factory.mktemp("chats")
    tokenizer = bytes_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<start_of_turn>", "<end_of_turn>"]})
    tokenizer.chat_template = GEMMA
    tokenizer.save_pretrained(folder / "base")
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=128, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder / "base")
    rows = [
        {
            "messages": [
                {"role": "system", "content": "Be short."},
                {"role": "user", "content": f"good {i}?"},
                {"role": "assistant", "content": "boat"},
                {"role": "user", "content": "bad?"},
                {"role": "assistant", "content": "soup"},
            ]
        }
        for i in range(40)
    ]
    write_jsonl(folder / "chats.jsonl", rows)
    return folder


@pytest.mark.usefixtures("reloads_in_this_process")
def test_an_encoder_decoder_is_trained_on_every_answer_and_the_accounts_say_so(place, tmp_path, caplog):
    write_encoder_decoder(tmp_path / "t5")
    data = {"path": str(place / "chats.jsonl")}
    given = {"model": str(tmp_path / "t5"), "dtype": "float32", "method": "bitfit", "retention": None, "data": data}
    asked = build_recipe(given, {**QUICK, "method.add": True, "train.steps": 2, "train.max_length": 120})
    with caplog.at_level(logging.INFO, "tunewise"):
        run(asked, tmp_path / "run")
    ledger = json.loads((tmp_path / "run" / "ledger.json").read_text())["train"]
    assert (ledger["rows"], ledger["more"], ledger["trained"]) == (32, 32, 64)
    assert "32 answers of conversations are rows of their own, beside the last one of each" in caplog.messages
    found = examine_data(DataConfig(**data), str(tmp_path / "t5"), max_length=120)
    assert found.account.sum_told() == "40 rows + 32 more answers = 64 trained + 4 dev + 4 test + 0 rejected"
    assert found.account.proved
    last = found.lengths
    assert last is not None
    alone = examine_data(DataConfig(**data, trained_on="last_answer"), str(tmp_path / "t5"))
    assert alone.account.sum_told() == "40 rows = 32 trained + 4 dev + 4 test + 0 rejected"
    assert [at.tokens for at in last.at] > [at.tokens for at in alone.lengths.at]


@pytest.fixture(scope="module")
def base(place):
    return load_base(str(place / "base"), "float32")


@pytest.fixture(scope="module")
def finished(place, base):
    given = {
        "method": "full",
        "retention": (),
        "model": str(place / "base"),
        "data": str(place / "chats.jsonl"),
        "dtype": "float32",
    }
    quick = {"train.steps": 40, "train.batch_size": 8, "train.learning_rate": 1e-2, "train.evaluate_every": None}
    return place / "run", run(build_recipe(given, quick), place / "run", base=base, prove=False)


def test_it_learns_to_end_its_turn_and_is_stopped_there(finished):
    out, metrics = finished
    predictions = [json.loads(line) for line in (out / "predictions.jsonl").read_text("utf-8").splitlines()]
    assert len(predictions) == 4
    assert all((row["expected"], row["predicted"]) == ("soup", "soup") for row in predictions)
    assert predictions[0]["prompt"].startswith("<s><start_of_turn>user\nBe short.\n\ngood ")
    assert predictions[0]["prompt"].endswith("bad?<end_of_turn>\n<start_of_turn>model\n")
    assert metrics["test"]["exact_match"] == 100
    assert metrics["proofs"]["answers_end_with_a_trained_token"]["passed"]
    assert metrics["proofs"]["begins_once"]["passed"]


def test_the_ledger_tells_what_was_done(finished):
    told = json.loads((finished[0] / "ledger.json").read_text("utf-8"))["data"]["detected"]
    assert "written by the tokenizer's own chat template, its answers end with <end_of_turn>" in told
    assert "40 system prompts written at the beginning of the first user's turn" in told


def test_the_merged_model_is_served_as_it_was_trained(finished, base, place):
    adapter = finished[0] / "adapter"
    end = base.tokenizer.convert_tokens_to_ids("<end_of_turn>")
    notes = json.loads((adapter / "tunewise.json").read_text("utf-8"))["notes"]
    assert (notes["chat_template"], notes["ends"]) == (GEMMA, [end, 2])
    save_merged(merge_adapter(base, adapter), base, adapter, place / "merged")
    assert GenerationConfig.from_pretrained(place / "merged").eos_token_id == [2, end]
    assert AutoTokenizer.from_pretrained(place / "merged").chat_template == GEMMA
    assert base.model.generation_config.eos_token_id == 2


def test_another_template_goes_with_the_merged_model(base, place):
    given = {
        "model": str(place / "base"), "data": {"path": str(place / "chats.jsonl"), "template": "plain"},
        "dtype": "float32", "method": "norms", "retention": (),
    }  # fmt: skip
    run(build_recipe(given, {"train.steps": 1, "train.evaluate_every": None}), place / "plain", base=base, prove=False)
    adapter = place / "plain" / "adapter"
    save_merged(merge_adapter(base, adapter), base, adapter, place / "merged_plain")
    tokenizer = AutoTokenizer.from_pretrained(place / "merged_plain")
    asked = [{"role": "user", "content": "hi"}]
    written = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    assert written == "Human: hi\nAssistant:"
    assert GenerationConfig.from_pretrained(place / "merged_plain").eos_token_id == 2
    assert base.tokenizer.chat_template == GEMMA


def test_a_mixture_goes_with_the_template_that_its_conversations_share(base, place):
    count = [{"prompt": f"count {i}:", "completion": f" the {i}"} for i in range(40)]
    write_jsonl(place / "counts.jsonl", count)
    mixture = {"sources": {"counts": str(place / "counts.jsonl"), "chats": str(place / "chats.jsonl")}}
    given = {
        "model": str(place / "base"), "data": {"mixture": mixture}, "dtype": "float32", "method": "norms",
        "retention": (),
    }  # fmt: skip
    run(build_recipe(given, {"train.steps": 1, "train.evaluate_every": None}), place / "mixed", base=base, prove=False)
    adapter = place / "mixed" / "adapter"
    save_merged(merge_adapter(base, adapter), base, adapter, place / "merged_mixed")
    end = base.tokenizer.convert_tokens_to_ids("<end_of_turn>")
    assert GenerationConfig.from_pretrained(place / "merged_mixed").eos_token_id == [2, end]
    assert read_card(adapter)["notes"]["chat_template"] == GEMMA
    mixture["sources"]["plain"] = {"path": str(place / "chats.jsonl"), "template": "plain"}
    assert load_task(DataConfig.model_validate({"mixture": mixture}), base.tokenizer).chat is None


def test_a_template_file_that_changed_is_data_that_changed(place, tmp_path):
    file = tmp_path / "mine.jinja"
    data = DataConfig(path=str(place / "chats.jsonl"), template=str(file))
    digests = set()
    for text in (GEMMA, GEMMA + " "):
        file.write_text(text)
        digests.add(data_digest(data))
    assert len(digests) == 2


def test_what_is_trained_is_a_field_of_the_data(base, place):
    path = str(place / "chats.jsonl")
    n_trained = {}
    for what in ("answers", "last_answer", "everything"):
        task = load_task(DataConfig(path=path, trained_on=what), base.tokenizer)
        rows, ledger = encode_all(task.train, base.tokenizer, 128)
        assert ledger.trained == 32
        n_trained[what] = sum(label >= 0 for label in rows[0].labels)
        assert (f"of training rows {what.replace('_', ' ')} is trained" in task.ledger.detected) == (what != "answers")
    assert n_trained["last_answer"] * 2 == n_trained["answers"] < n_trained["everything"] == len(rows[0].ids)
    users = load_task(DataConfig(path=path, roles="user", trained_on="answers"), base.tokenizer).train[0]
    assert [part.text for part in users.parts if part.trained][-1] == "bad?"
    assert users.end == "<end_of_turn>"


def test_prompts_and_instructions_are_asked_as_turns_where_that_is_wanted(base, place):
    write_jsonl(place / "rows.jsonl", [{"prompt": f"a {i}", "completion": "b"} for i in range(9)])
    told = [{"instruction": f"Add {i}.", "input": "" if i % 2 else "2", "output": "b"} for i in range(9)]
    write_jsonl(place / "told.jsonl", told)
    for name, prompts in (("rows", ("a 0",)), ("told", ("Add 0.\n2", "Add 1."))):
        config = DataConfig(path=str(place / f"{name}.jsonl"), template="own")
        task = load_task(config, base.tokenizer)
        asked = {example.prompt: example for part in (task.train, task.dev, task.test) for example in part}
        for prompt in prompts:
            found = asked[f"<s><start_of_turn>user\n{prompt}<end_of_turn>\n<start_of_turn>model\n"]
            assert (found.answer, found.end) == ("b", "<end_of_turn>")
        assert "written by the tokenizer's own chat template" in task.ledger.detected
        with pytest.raises(UserError, match="both say how to ask"):
            load_task(config.model_copy(update={"pattern": "minimal"}), base.tokenizer)
    plain = load_task(DataConfig(path=str(place / "told.jsonl")))
    as_turns = load_task(DataConfig(path=str(place / "told.jsonl"), template="plain"))
    assert [one.text for one in plain.train] == [one.text for one in as_turns.train], "the default is the plain one"


def test_fields_of_conversations_are_refused_for_other_rows(place):
    write_jsonl(place / "rows.jsonl", [{"prompt": f"a {i}", "completion": "b"} for i in range(9)])
    write_jsonl(place / "labels.jsonl", [{"text": f"a {i}", "label": i % 2} for i in range(9)])
    for name, field in (("rows", {"roles": ("user",)}), ("labels", {"template": "plain"})):
        with pytest.raises(UserError, match=r"is of conversations, and .* holds (prompt and com|text and la)"):
            load_task(DataConfig(path=str(place / f"{name}.jsonl"), **field))
    task = load_task(DataConfig(path=str(place / "rows.jsonl"), trained_on="everything"))
    assert all(part.trained for part in task.train[0].parts)
    assert not task.test[0].parts[0].trained
