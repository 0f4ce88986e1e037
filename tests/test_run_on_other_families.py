"""A whole run on a family that transformers does not shift the labels of, and a base that runs in 32 bits alone."""

import pytest
import torch
from tokenizers import processors
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, PreTrainedTokenizerFast

import tunewise
from tests.bytes_tokenizer import VOCABULARY, bytes_tokenizer
from tests.more_bases import MORE
from tests.small_base import QUICK
from tunewise.errors import UserError
from tunewise.files import write_jsonl
from tunewise.models.heads import TaskHead
from tunewise.models.load import load_base


def write_base(folder, name, auto_class, begin=""):
    config = AutoConfig.for_model(MORE[name].model_type, **{**MORE[name].fields, "vocab_size": VOCABULARY})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        auto_class.from_config(config).save_pretrained(folder)
    raw = bytes_tokenizer(begin=False).backend_tokenizer
    special = [("<s>", 1), ("</s>", 2)]
    raw.post_processor = processors.TemplateProcessing(single=f"{begin}$A </s>", special_tokens=special)
    PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token="</s>").save_pretrained(folder)
    return str(folder)


@pytest.mark.usefixtures("reloads_in_this_process")
def test_a_run_of_a_translator_is_proved_and_tells_why_its_rows_are_padded(tmp_path):
    base = write_base(tmp_path / "base", "m2m_100", AutoModelForSeq2SeqLM)
    write_jsonl(tmp_path / "rows.jsonl", ({"prompt": f"{i}:", "completion": f" {i} boats"} for i in range(40)))
    told = tunewise.train(
        model=base,
        data=str(tmp_path / "rows.jsonl"),
        method="lora",
        overrides={**QUICK, "train.steps": 2, "method.roles": ["all"]},
        out=tmp_path / "run",
    )
    assert (told["layout"], told["steps"]) == ("padded", 2)
    assert "packs pairs to another answer" in told["why_padded"]
    assert len(told["proofs"]) >= 10
    assert all(proof["passed"] for proof in told["proofs"].values())


def test_a_base_that_knows_no_16_bits_is_loaded_in_32(tmp_path):
    base = write_base(tmp_path / "base", "deberta", AutoModel, begin="<s> ")
    head = TaskHead("classes", ("no", "yes"))
    assert load_base(base, head=head).dtype == torch.float32
    with pytest.raises(UserError, match="does not run this base in 16 bits, and bfloat16 was asked for"):
        load_base(base, dtype="bfloat16", head=head)
