"""What turns hidden states into answers: a base's own language-model head, or a classifier on top of its trunk."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import transformers
from transformers import PreTrainedConfig, PreTrainedModel

from tunewise.errors import UserError
from tunewise.models.families import DECODER, ENCODER, ENCODER_DECODER, VISION

HeadKind = Literal["lm", "classes", "value", "tags"]
HeadChoice = Literal["auto", "lm", "classifier"]


@dataclass(frozen=True)
class TaskHead:
    """`lm` writes text; `classes` tells the class of a sequence or image, `value` a number, `tags` one tag a token."""

    kind: HeadKind = "lm"
    labels: tuple[str, ...] = ()
    """The names of classes or tags, by number."""

    def auto_class(self, model_kind: str, name: str, config: PreTrainedConfig) -> Any:
        """transformers' class for a base of a kind (families.KINDS) with this head; UserError where there is none."""
        if self.kind == "lm" and model_kind == ENCODER:
            raise UserError(
                f"{name} is an encoder, which writes no text",
                hint='load_base(..., head=tunewise.TaskHead("classes", ("no", "yes"))) puts a classifier on it',
            )
        if self.kind != "lm" and model_kind == ENCODER_DECODER:
            raise UserError(
                f"{name} is an encoder-decoder, which answers by writing, and {_CALLED_HERE[self.kind]}",
                hint="leave `head` out, or set head=lm" if self.kind == "classes" else "take a decoder or an encoder",
            )
        if model_kind == VISION and self.kind != "classes":
            raise UserError(f"{name} reads images, of which it can only tell the class", hint="give it images by class")
        found = _AUTO_CLASSES[self.kind, model_kind]
        if type(config) not in found._model_mapping:
            raise UserError(
                f"transformers has no {_CALLED[self.kind]} for {config.model_type}, the family of {name}",
                "take a base of another family",
            )
        return found

    def configure(self, config: PreTrainedConfig) -> None:
        """Write what a new classifier has to be into the configuration of its base."""
        if self.kind == "lm":
            return
        names = self.labels or ("LABEL_0",)
        config.num_labels = len(names)  # first: it resets the names
        config.id2label = dict(enumerate(names))
        config.label2id = {name: number for number, name in enumerate(names)}
        if self.kind in ("classes", "value"):
            config.problem_type = "regression" if self.kind == "value" else "single_label_classification"


_AUTO_CLASSES: dict[tuple[str, str], Any] = {
    ("lm", DECODER): transformers.AutoModelForCausalLM,
    ("lm", ENCODER_DECODER): transformers.AutoModelForSeq2SeqLM,
    ("classes", VISION): transformers.AutoModelForImageClassification,
    **{("classes", kind): transformers.AutoModelForSequenceClassification for kind in (DECODER, ENCODER)},
    **{("value", kind): transformers.AutoModelForSequenceClassification for kind in (DECODER, ENCODER)},
    **{("tags", kind): transformers.AutoModelForTokenClassification for kind in (DECODER, ENCODER)},
}
_CALLED_HERE = {
    "classes": "tells classes in words", "value": "tells no numbers", "tags": "tells no tags",
}  # fmt: skip
_CALLED = {"lm": "language-model head", "classes": "classifier", "value": "classifier", "tags": "tagger"}


def head_of(model: PreTrainedModel) -> TaskHead:
    """The head that `model` has."""
    return head_named(type(model).__name__, model.config)


def head_named(architecture: str, config: PreTrainedConfig) -> TaskHead:
    """The head that transformers' class of this name has with this configuration."""
    if architecture.endswith(
        ("ForSequenceClassification", "ForImageClassification", "ForImageClassificationWithTeacher")
    ):
        is_value = config.problem_type == "regression" or config.num_labels == 1
        return TaskHead("value") if is_value else TaskHead("classes", _labels(config))
    return TaskHead("tags", _labels(config)) if architecture.endswith("ForTokenClassification") else TaskHead()


def _labels(config: PreTrainedConfig) -> tuple[str, ...]:
    return tuple(config.id2label[number] for number in range(config.num_labels))


def is_told_by(head: TaskHead, config: PreTrainedConfig) -> bool:
    """Whether a checkpoint with this configuration, as it came, tells these classes or tags, in this order."""
    named = [str(config.id2label[number]) for number in range(config.num_labels)]
    return [_plain(name) for name in named] == [_plain(name) for name in head.labels or named]


def _plain(name: str) -> str:
    return name.removeprefix("LABEL_").casefold()


@torch.no_grad()
def draw_head(model: PreTrainedModel, names: Iterable[str], seed: int) -> None:
    """Draw these parameters of a classifier that no training has seen from `seed`: matrices normal, the rest kept.

    The deviation is the base's own `initializer_range`, as transformers draws them.
    """
    deviation = model.config.get_text_config().to_dict().get("initializer_range", 0.02)
    generator = torch.Generator().manual_seed(seed)
    for name in sorted(names):
        parameter = model.get_parameter(name)
        if parameter.dim() > 1:
            drawn = torch.empty(parameter.shape, dtype=torch.float32).normal_(std=deviation, generator=generator)
            parameter.copy_(drawn)
