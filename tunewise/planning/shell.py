"""A base without its weights: its modules on the meta device, built from its config alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from tunewise.errors import UserError
from tunewise.models.anatomy import Anatomy, read_anatomy
from tunewise.models.families import WRITERS, experts_per_token, has_own_head, kind_of
from tunewise.models.heads import TaskHead
from tunewise.models.load import load_config
from tunewise.models.shapes import is_shape, nearest_shape, shape_named


@dataclass(frozen=True)
class Shell:
    """What a plan is made on. A 405B base takes as long as a small one, and no memory."""

    name: str
    config: PreTrainedConfig
    kind: str
    head: TaskHead
    model: PreTrainedModel
    """On the meta device, in float32 whatever the base is stored in."""

    def refuses(self, not_on: Mapping[str, str]) -> bool:
        """Whether a method that does not act on these kinds and families (`Method.not_on`) does not act on it."""
        return bool({self.kind, self.config.model_type, self.model.config.model_type} & set(not_on))

    @cached_property
    def anatomy(self) -> Anatomy:
        return read_anatomy(self.model)

    @cached_property
    def n_parameters(self) -> int:
        """Of the base, tied ones once."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def n_active(self) -> int:
        """Of these, as many as one token meets: of each mixture the experts that it is sent to."""
        experts = [site for site in self.anatomy.sites if site.n_experts]
        resting = 0
        for site in {site.module: site for site in experts}.values():
            held = sum(parameter.numel() for parameter in self.model.get_submodule(site.module).parameters())
            resting += held * (site.n_experts - experts_per_token(self.config)) // site.n_experts
        return self.n_parameters - resting


def shell_of(name: str, head: TaskHead | None = None) -> Shell:
    """The shell of the base `name` (a folder, a shape, or a hub name); only its config is read.

    Without a `head` a base that writes no text gets a classifier of two classes, which every method trains along.
    Raises UserError for a base that is none.
    """
    config = config_of(name)
    kind = kind_of(config)
    head = head or (TaskHead() if kind in WRITERS else TaskHead("classes", ("0", "1")))
    head.configure(config)
    with torch.device("meta"):
        model = head.auto_class(kind, name, config).from_config(config)
    if has_own_head(config):
        output = model.get_output_embeddings()
        output.weight = nn.Parameter(torch.empty_like(output.weight))
    return Shell(name, config, kind, head, model)


def config_of(name: str) -> PreTrainedConfig:
    """The configuration of a base: of a folder where there is one, of a shape of this name, or from the hub.

    Raises UserError for a base that is none, naming the nearest shape.
    """
    if is_shape(name) and not Path(name).exists():
        return shape_named(name)
    try:
        return load_config(name)
    except UserError as error:
        close = nearest_shape(name)
        if Path(name).exists() or not close:
            raise
        raise UserError(error.message, f"did you mean {close}, a shape that is known without a hub?") from error
