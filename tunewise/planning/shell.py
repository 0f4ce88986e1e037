"""A base without its weights: its modules on the meta device, built from its config alone."""

from dataclasses import dataclass

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from tunewise.models.families import WRITERS, kind_of
from tunewise.models.heads import TaskHead
from tunewise.models.load import load_config


@dataclass(frozen=True)
class Shell:
    """What a plan is made on. A 405B base takes as long as a small one, and no memory."""

    name: str
    config: PreTrainedConfig
    kind: str
    head: TaskHead
    model: PreTrainedModel
    """On the meta device, in float32 whatever the base is stored in."""

    @property
    def n_parameters(self) -> int:
        """Of the base, tied ones once."""
        return sum(parameter.numel() for parameter in self.model.parameters())


def shell_of(name: str, head: TaskHead | None = None) -> Shell:
    """The shell of the base `name` (a folder or hub name); only its config is read.

    Without a `head` a base that writes no text gets a classifier of two classes, which every method trains along.
    Raises UserError for a base that is none.
    """
    config = load_config(name)
    kind = kind_of(config)
    head = head or (TaskHead() if kind in WRITERS else TaskHead("classes", ("0", "1")))
    head.configure(config)
    with torch.device("meta"):
        model = head.auto_class(kind, name).from_config(config)
    return Shell(name, config, kind, head, model)
