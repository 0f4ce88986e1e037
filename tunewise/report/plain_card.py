"""A short model card for what no finished run describes: an adapter that was saved or combined, a merged model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from tunewise import files
from tunewise.adapter_folders import CARD, PEFT_CONFIG, base_named, card_of
from tunewise.errors import UserError
from tunewise.hub import apart
from tunewise.report.card import PIPELINES, hub_name, templates_of
from tunewise.report.templating import template

TASK_CLASSES = {
    "CausalLM": "text-generation",
    "ConditionalGeneration": "text-generation",
    "SequenceClassification": "text-classification",
    "TokenClassification": "token-classification",
    "ImageClassification": "image-classification",
}
"""The end of an architecture's name -> the hub's name of what it does."""


def adapter_card(folder: Path, name: str) -> str:
    """The card of the adapter in `folder`, called `name`."""
    card, by_peft = card_of(folder), (folder / PEFT_CONFIG).is_file()
    base: dict[str, Any] = {"name": base_named(card), "head": {"kind": "lm", "labels": []}, "quantise": ""}
    base = {**base, "fingerprint": "", **(card["base"] if (folder / CARD).is_file() else {})}
    method, notes = card.get("method", {}).get("name", card.get("peft_type", "adapter")), card.get("notes", {})
    head, base_name = base["head"]["kind"], hub_name(base["name"]) or "THE_BASE"
    front = ModelCardData(
        base_model=apart(base_name)[0] if base["name"] else None,
        library_name="peft" if by_peft else "tunewise",
        pipeline_tag="text-generation" if head == "lm" else PIPELINES[head],
        tags=["tunewise", "adapter", str(method).lower()],
    )
    made = notes.get("combined")
    of = f", the {made['how']} sum of {len(made['adapters'])} adapters" if made else ""
    return template("plain_card.md.jinja").render(
        front_matter=front.to_yaml(),
        name=name,
        what=f"An adapter (`{method}`{of}) of the base `{base_name}`; the base is loaded beside it.",
        base=base,
        base_name=base_name,
        by_peft=by_peft,
        writes=head == "lm",
        templates=templates_of(notes),
    )


def model_card(folder: Path, name: str) -> str:
    """The card of the model in `folder`, called `name`: what `adapter merge` or `quantize` wrote, or any other."""
    config = files.read_json(folder / "config.json")
    if not isinstance(config, dict):
        raise UserError(f"{folder / 'config.json'} describes no model", "write it again: model.save_pretrained(FOLDER)")
    architecture = (config.get("architectures") or ["CausalLM"])[0]
    end = next((end for end in TASK_CLASSES if architecture.endswith(end)), "CausalLM")
    base, relation, what = _made_from(folder)
    front = ModelCardData(
        base_model=apart(hub_name(base))[0] if base else None,
        base_model_relation=relation if base else None,
        library_name="transformers",
        pipeline_tag=TASK_CLASSES[end],
        tags=["tunewise"],
    )
    plural = "Seq2SeqLM" if end == "ConditionalGeneration" else end
    return template("plain_card.md.jinja").render(
        front_matter=front.to_yaml(),
        name=name,
        what=what,
        base=None,
        auto_class=f"AutoModelFor{plural}",
        processor="ImageProcessor" if end == "ImageClassification" else "Tokenizer",
    )


def _made_from(folder: Path) -> tuple[str, str, str]:
    """(base, the hub's word for how it was made of that, a sentence), as the files beside the model tell."""
    merged, quantised = (_told(folder / file) for file in ("merge.json", "quantisation.json"))
    if quantised:
        base = str(quantised["model"])
        return base, "quantized", f"`{hub_name(base)}` with its linear weights in {quantised['format']}."
    if merged:
        base = str(merged["base"])
        return base, "finetune", f"`{hub_name(base)}` with an adapter folded into its weights."
    return "", "", "A model that transformers loads."


def _told(path: Path) -> Mapping[str, Any]:
    found = files.read_json(path) if path.is_file() else {}
    return found if isinstance(found, dict) else {}
