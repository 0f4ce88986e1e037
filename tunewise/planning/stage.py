"""Where a step is rehearsed: a base cut to some of its layers, with its method, on tensors that hold nothing."""

from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tunewise.engine.fused import fuse_as
from tunewise.engine.last_layer import read_as
from tunewise.engine.native.build import set_aside
from tunewise.engine.objectives import Labels, Objective, PackedWriting, Writing, objective_for
from tunewise.engine.packed_writing import places
from tunewise.errors import UserError
from tunewise.methods.attach import Tuned, reach
from tunewise.methods.base import Method
from tunewise.models.anatomy import Anatomy, modules_on_top, read_anatomy
from tunewise.models.codes import EightBits
from tunewise.models.ends import pack_ends
from tunewise.models.load import Base
from tunewise.models.packed_shell import pack
from tunewise.models.plain import packed_paths
from tunewise.models.quantise import WITH_ENDS, of_layers
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


@dataclass
class _Known:
    """What is the same for all works on a shell."""

    anatomy: Anatomy
    sibling: PreTrainedModel | None
    objectives: dict[str, Any] = field(default_factory=dict)
    """By method: the objective that a run would take, by what the sibling is tried on."""


_KNOWN: WeakKeyDictionary[PreTrainedModel, _Known] = WeakKeyDictionary()


def _known(shell: Shell) -> _Known:
    if shell.model not in _KNOWN:
        found = _KNOWN[shell.model] = _Known(read_anatomy(shell.model), sibling_of(shell))
        if found.sibling is not None:  # tried here, where tensors have numbers
            fuse_as(found.sibling, found.sibling)
            read_as(found.sibling, found.sibling)
    return _KNOWN[shell.model]


class Stage:
    """What is the same in all rehearsals of one work."""

    def __init__(self, shell: Shell, method: Method, work: Work, device_type: str) -> None:
        self._shell, self._method, self._work, self._device_type = shell, method, work, device_type
        known = _known(shell)
        self._anatomy, self._sibling = known.anatomy, known.sibling
        self._packed = packed_paths(shell.model, _kept(shell)) if work.quantise else []
        with torch.device("meta"):
            deltas = dict(method.deltas(self._anatomy))
        selected = list(reach(shell.model, method)[1])
        self._refuse_packed(selected)
        self.runs = runs(shell.model, self._anatomy, deltas, selected)
        """The layers, those that are alike together."""
        self._cache_bytes = self._cached(deltas, selected) if work.cached_rows else 0
        name = str(method.configuration())
        if name not in known.objectives:
            known.objectives[name] = self._chosen()
        self._objective = known.objectives[name]

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
            if self._sibling is not None:
                fuse_as(model, self._sibling)
                read_as(model, self._sibling)
            tuned = self._put_on(model, anatomy)
            peaks, computed = Step(recorder, tuned, self._on(model, anatomy), self._work, kept).rehearse()
        for kinds in peaks.values():
            kinds["cache"] += self._cache_bytes
        return peaks, computed

    def _refuse_packed(self, selected: Sequence[str]) -> None:
        """As attaching does, where weights are packed; the shell's are not."""
        ends = (self._anatomy.embedding, self._anatomy.head) if self._work.quantise in WITH_ENDS else ()
        paths = [*self._packed, *(site.module for site in ends if site is not None)]
        packed = {f"{path}.weight" for path in paths} & set(selected)
        if packed:
            raise UserError(
                f"{self._method.name} trains {min(packed)}: a quantised weight is made of codes, without a gradient",
                "train something beside the weights, such as method=lora, or leave the base unquantised",
            )

    def _cached(self, deltas: Collection[str], selected: Sequence[str]) -> int:
        """Bytes of what leaves the layers below everything that is trained or attached, of all rows; 0 without such."""
        anatomy, work = self._anatomy, self._work
        sites = {site.name: site for site in (*anatomy.sites, *anatomy.keys)}
        acting = [sites[name].layer if name in sites else None for name in deltas]
        acting += [anatomy.layer_of(name) for name in selected]
        head = () if anatomy.head is None else (anatomy.head.name, f"{anatomy.head.module}.weight")
        behind = {*anatomy.task_head, *(f"{path}.weight" for path in anatomy.norms), *head}
        at_ends = [name for name in (*deltas, *selected) if name not in sites and anatomy.layer_of(name) is None]
        first = min((layer for layer in acting if layer is not None), default=anatomy.n_layers)
        if not first or not set(at_ends) <= behind or self._method.virtual_positions(anatomy):
            return 0
        is_head_alone = first == anatomy.n_layers and self._shell.head.kind == "lm"
        places = work.labels if is_head_alone else work.tokens
        return work.cached_rows * places * anatomy.d_model * work.dtype.itemsize

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

    def _base(self, model: PreTrainedModel, anatomy: Anatomy) -> Base:
        tokenizer: Any = None  # for a base that reads images
        if anatomy.embedding is not None:
            pad_id = model.config.get_text_config().to_dict().get("pad_token_id")
            tokenizer = cast("Any", _Padding(pad_id or 0))
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
        pack(model, [path for path in self._packed if path in there], of_layers(self._work.quantise), self._work.dtype)
        if self._work.quantise in WITH_ENDS:
            pack_ends(model, self._work.dtype, _hollow_codes)
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


def _hollow_codes(weight: Tensor) -> EightBits:
    return EightBits(torch.empty(weight.shape, dtype=torch.int8), torch.empty(len(weight)))


def _kept(shell: Shell) -> tuple[str, ...]:
    """The modules that `load_base` leaves dense: a classifier."""
    return () if shell.head.kind == "lm" else modules_on_top(shell.model)
