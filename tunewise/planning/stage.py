"""Where a step is rehearsed: a base cut to some of its layers, with its method, on tensors that hold nothing."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from tunewise.engine.fused import fuse_as
from tunewise.engine.last_layer import read_as
from tunewise.engine.native.build import set_aside
from tunewise.engine.objectives import Labels, Objective, PackedWriting, Writing, objective_for
from tunewise.engine.packed_writing import places
from tunewise.methods.attach import Tuned, reach
from tunewise.methods.base import Method
from tunewise.models.anatomy import Anatomy, read_anatomy
from tunewise.models.load import Base
from tunewise.models.packed_shell import PackedShell, pack, packed_paths
from tunewise.models.weights import frozen_weight
from tunewise.planning.layers import cut, runs
from tunewise.planning.recorder import Computed, recording
from tunewise.planning.shell import Shell
from tunewise.planning.sibling import sibling_of, with_method
from tunewise.planning.step import Peaks, Step
from tunewise.planning.work import Work


class _Padding:
    """All that an objective asks of a tokenizer."""

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id


class Stage:
    """What is the same in all rehearsals of one work."""

    def __init__(self, shell: Shell, method: Method, work: Work, device_type: str) -> None:
        self._shell, self._method, self._work, self._device_type = shell, method, work, device_type
        self._anatomy = read_anatomy(shell.model)
        self._packed = packed_paths(shell.model) if work.quantise else []
        with torch.device("meta"):
            deltas = dict(method.deltas(self._anatomy))
        self.runs = runs(shell.model, self._anatomy, deltas, list(reach(shell.model, method)[1]))
        """The layers, those that are alike together."""
        self._sibling = sibling_of(shell)
        self._objective = self._chosen()
        self._run_as_sibling(self._sibling)  # tried here, where tensors have numbers

    def step(self, kept: Sequence[int]) -> tuple[Peaks, Computed]:
        """One step with these layers alone."""
        sites = [site for site in self._anatomy.sites if site.layer in kept]
        keys = [site for site in self._anatomy.keys if site.layer in kept]
        anatomy = replace(self._anatomy, sites=tuple(sites), keys=tuple(keys))
        with ExitStack() as stack:
            if self._device_type != "cpu":
                stack.enter_context(set_aside())
            recorder = stack.enter_context(recording())
            recorder.enter("weights")
            model = self._hollow(kept)
            self._run_as_sibling(model)
            tuned = self._put_on(model, anatomy)
            return Step(recorder, tuned, self._on(model, anatomy), self._work, kept).rehearse()

    def _chosen(self) -> Objective[Any]:
        """The objective that a run would take, by what the sibling is tried on."""
        prefix = self._method.prefix_ids(self._anatomy)
        if self._sibling is None:
            return objective_for(self._base(self._shell.model, self._anatomy), prefix)
        tuned = with_method(self._sibling, self._method)
        base = self._base(self._sibling, read_anatomy(self._sibling))
        objective: Any = objective_for(base, () if tuned is None else tuned.prefix_ids, packing=True)
        if tuned is not None:
            tuned.detach()
        return replace(objective, prefix_ids=prefix)

    def _run_as_sibling(self, model: PreTrainedModel | None) -> None:
        if self._sibling is not None and model is not None:
            fuse_as(model, self._sibling)
            read_as(model, self._sibling)

    def _base(self, model: PreTrainedModel, anatomy: Anatomy) -> Base:
        tokenizer: Any = _Padding(model.config.get_text_config().to_dict().get("pad_token_id") or 0)
        return Base(model, tokenizer, anatomy, self._shell.name, "", model.dtype, self._shell.head)

    def _hollow(self, kept: Sequence[int]) -> PreTrainedModel:
        """The base with these layers, in its precision, its tensors without numbers."""
        model = cut(self._shell.model, self._anatomy, kept)
        there = {path for path, _ in model.named_modules()}
        new: dict[int, nn.Parameter] = {}
        for path, module in list(model.named_modules()):
            for name, parameter in module.named_parameters(recurse=False):
                if path in self._packed and name == "weight":
                    continue
                if id(parameter) not in new:
                    dtype = self._work.dtype if parameter.is_floating_point() else parameter.dtype
                    new[id(parameter)] = nn.Parameter(torch.empty(parameter.shape, dtype=dtype))
                module._parameters[name] = new[id(parameter)]
            for name, buffer in module.named_buffers(recurse=False):
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)
        pack(model, [path for path in self._packed if path in there], self._work.quantise, self._work.dtype)
        return model

    def _put_on(self, model: PreTrainedModel, anatomy: Anatomy) -> Tuned:
        """As `attach` does, without what the starting values would be."""
        sites = {site.name: site for site in (*anatomy.sites, *anatomy.keys)}
        ends = {site.name: site for site in (anatomy.embedding, anatomy.head) if site is not None}
        there = sites | ends
        deltas = {name: delta for name, delta in self._method.deltas(self._anatomy).items() if name in there}
        for name, delta in deltas.items():
            delta.bind(partial(frozen_weight, model, there[name]))
        return Tuned(model, self._method, anatomy, deltas)

    def _on(self, model: PreTrainedModel, anatomy: Anatomy) -> Objective[Any]:
        """The objective, for this model."""
        objective = self._objective
        if isinstance(objective, PackedWriting):
            return replace(objective, base=self._base(model, anatomy), places=places(model, anatomy))
        if isinstance(objective, Labels | Writing):
            return replace(objective, base=self._base(model, anatomy))
        return objective
