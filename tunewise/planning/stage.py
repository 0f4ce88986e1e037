"""Where a step is rehearsed: a base cut to some of its layers, with its method, on tensors that hold nothing."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tunewise.data.encode import Encoded
from tunewise.engine.criterion import CrossEntropy, minimising
from tunewise.engine.from_trunk import FromTrunk
from tunewise.engine.fused import fuse_as, held
from tunewise.engine.last_layer import read_as
from tunewise.engine.native.build import set_aside
from tunewise.engine.objectives import Images, Labels, Objective, PackedWriting, Writing, objective_for
from tunewise.engine.packed_writing import places
from tunewise.engine.trunk import Trunk
from tunewise.engine.trunk_store import Store
from tunewise.errors import UserError
from tunewise.methods.attach import Tuned
from tunewise.methods.base import Method
from tunewise.methods.reach import added_by, delta_dtype, n_trained, refuse_to_act, selected_by, sites_by_name
from tunewise.models.anatomy import Anatomy, modules_on_top, read_anatomy
from tunewise.models.aside import is_large
from tunewise.models.codes import EightBits
from tunewise.models.ends import pack_ends
from tunewise.models.load import Base
from tunewise.models.packed_shell import pack
from tunewise.models.plain import packed_paths
from tunewise.models.quantise import WITH_ENDS, layout_of
from tunewise.models.weights import frozen_weight
from tunewise.planning.layers import cut, hollow, runs
from tunewise.planning.moments import LOW_PRECISION
from tunewise.planning.recorder import recording
from tunewise.planning.rows import unlike_rows
from tunewise.planning.shell import Shell
from tunewise.planning.sibling import sibling_of, with_method
from tunewise.planning.step import Step, Taken
from tunewise.planning.thinned import thinned
from tunewise.planning.trunk import TrunkPlan, plan_of, try_trunk, with_bytes
from tunewise.planning.work import Work

ROOM = 1 << 62
"""For what leaves the trunk of the rows of a step."""


class _Padding:
    """All that an objective asks of a tokenizer."""

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id


@dataclass
class _Known:
    """What is the same for all works on a shell."""

    anatomy: Anatomy
    sibling: PreTrainedModel | None
    tried: dict[str, "_Tried"] = field(default_factory=dict)
    """By method."""
    objective: Any = None
    """Of those that add nothing to the base, whatever they train of it."""


@dataclass(frozen=True)
class _Tried:
    """What the sibling shows of a method: the objective that a run would take, the trunk from which it could start, and
    why there is none."""

    objective: Any
    trunk: Trunk | None
    why_no_trunk: str


_KNOWN: WeakKeyDictionary[PreTrainedModel, _Known] = WeakKeyDictionary()


def _known(shell: Shell) -> _Known:
    if shell.model not in _KNOWN:
        found = _KNOWN[shell.model] = _Known(shell.anatomy, sibling_of(shell))
        if found.sibling is not None:  # tried here, where tensors have numbers
            fuse_as(found.sibling, found.sibling, shell.model, shell.anatomy)
            read_as(found.sibling, found.sibling)
    return _KNOWN[shell.model]


class Stage:
    """What is the same in all rehearsals of one work."""

    def __init__(self, shell: Shell, method: Method, work: Work, device_type: str) -> None:
        self._shell, self._method, self._work, self._device_type = shell, method, work, device_type
        known = _known(shell)
        self._anatomy, self._sibling = known.anatomy, known.sibling
        self._packed = packed_paths(shell.model, _kept(shell)) if work.quantise else []
        refuse_to_act(method, self._anatomy)
        with torch.device("meta"):
            self._deltas = deltas = dict(method.deltas(self._anatomy))
        chosen = selected_by(shell.model, method, self._anatomy)
        selected, n_selected = list(chosen), sum(parameter.numel() for parameter in chosen.values())
        n_added = n_trained(added_by(deltas))
        self._refuse_packed(selected)
        self.runs = runs(shell.model, self._anatomy, deltas, selected)
        """The layers, those that are alike together."""
        selected_bytes = n_selected * work.dtype.itemsize
        self._originals_on_disk = is_large(selected_bytes)
        self._in_parts = work.dtype in LOW_PRECISION and is_large(n_selected * torch.float32.itemsize)
        self._best_in_memory = work.keeps_best and not is_large(
            selected_bytes + n_added * delta_dtype(work.dtype).itemsize
        )
        name = str(method.configuration())
        if name not in known.tried:
            known.tried[name] = self._tried(selected)
        tried = known.tried[name]
        self._objective = minimising(tried.objective, CrossEntropy(work.label_smoothing))
        self.trunk_plan, self._trunk = TrunkPlan(), None
        if work.seen is not None:
            self.trunk_plan = plan_of(tried.trunk, tried.why_no_trunk, work.seen, work.quantise)
            self._trunk = tried.trunk if self.trunk_plan.is_cached else None

    def step(self, kept: Sequence[int]) -> Taken:
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
            stack.enter_context(held(model))  # as in a run
            if self._sibling is not None:
                fuse_as(model, self._sibling, self._shell.model, self._anatomy)
                read_as(model, self._sibling)
            tuned = self._put_on(model, anatomy)
            work = replace(self._work, keeps_best=self._best_in_memory)
            rows = self._rows()
            objective: Any = self._on(model, anatomy)
            if self._trunk is not None:
                objective = FromTrunk(objective, self._trunk_in(model), rows, len(rows), Store(ROOM, 0, Path()))
            taken = Step(recorder, tuned, objective, work, kept, rows, self._in_parts).rehearse()
        if isinstance(objective, FromTrunk):
            assert self._work.seen is not None
            n, of_rows = self._number_of(objective.counted_by)
            self.trunk_plan = with_bytes(self.trunk_plan, self._work.seen, round(taken.kept_bytes / of_rows * n))
            for kinds in taken.peaks.values():  # those of all rows, which on a GPU stay with the host
                kinds["cache"] = self.trunk_plan.memory_bytes if self._device_type == "cpu" else 0
        return taken

    def _rows(self) -> list[Encoded]:
        """Those of the step."""
        work, objective = self._work, self._objective
        if isinstance(objective, Images):
            return []
        head = objective.base.head.kind if isinstance(objective, Labels | Writing) else "lm"
        return unlike_rows([work] * work.rows, head, self._anatomy.kind)

    def _number_of(self, what: str) -> tuple[int, int]:
        """How many labels, rows or tokens all rows that a run sees have, and those of the step."""
        work, seen = self._work, self._work.seen
        assert seen is not None
        own = {"labels": work.rows * work.labels, "rows": work.rows, "tokens": work.rows * work.tokens}
        return {"labels": seen.labels, "rows": seen.rows, "tokens": seen.tokens}[what], own[what]

    def _trunk_in(self, model: PreTrainedModel) -> Trunk:
        """The sibling's trunk, in the base that a step is rehearsed on."""
        assert self._trunk is not None
        there = {path for path, _ in model.named_modules()}
        passed = {path: arity for path, arity in self._trunk.passed.items() if path in there}
        return replace(self._trunk, model=model, passed=passed)

    def _tried(self, selected: Sequence[str]) -> _Tried:
        """With the method, which trains these tensors of the base, on the sibling, where it can be."""
        prefix, no_trunk = self._method.prefix_ids(self._anatomy), "it cannot be tried on a narrow base of this kind"
        if self._sibling is None:
            return _Tried(objective_for(self._base(self._shell.model, self._anatomy), prefix), None, no_trunk)
        tuned = with_method(self._sibling, self._method)
        with thinned(self._sibling, self._anatomy, self.runs):
            objective, trunk = self._objective_with(tuned), None
        if tuned is not None:
            frozen = [layers for layers in self.runs if not self._acts_in(layers[0], selected)]
            try:
                with thinned(self._sibling, self._anatomy, frozen):
                    trunk, no_trunk = try_trunk(tuned, objective)
            finally:
                tuned.detach()
        return _Tried(replace(objective, prefix_ids=prefix), trunk, no_trunk)

    def _acts_in(self, layer: int, selected: Sequence[str]) -> bool:
        """Whether the method adds something to a layer, or trains something of it."""
        path, sites = f"{self._anatomy.layers[layer]}.", sites_by_name(self._anatomy)
        added = any(sites[name].layer == layer for name in self._deltas)
        return added or any(name.startswith(path) for name in selected)

    def _objective_with(self, tuned: Tuned | None) -> Any:
        """That of the sibling as it is now; tried once for all methods that add nothing to it."""
        assert self._sibling is not None
        known, adds = _known(self._shell), tuned is not None and bool(tuned.deltas)
        if known.objective is not None and not adds:
            return known.objective
        base = self._base(self._sibling, read_anatomy(self._sibling))
        found: Any = objective_for(base, () if tuned is None else tuned.prefix_ids, packing=True)
        if not adds:
            known.objective = found
        return found

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
        if self._packed:
            layout = layout_of(self._shell.config, self._work.quantise)
            pack(model, [path for path in self._packed if path in there], layout, self._work.dtype)
        if self._work.quantise in WITH_ENDS:
            pack_ends(model, self._work.dtype, _hollow_codes)
        return model

    def _put_on(self, model: PreTrainedModel, anatomy: Anatomy) -> Tuned:
        """As `attach` does, without what the starting values would be."""
        sites = {site.name: site for site in (*anatomy.sites, *anatomy.keys)}
        ends = {site.name: site for site in (anatomy.embedding, anatomy.head) if site is not None}
        there = sites | ends
        deltas = hollow({name: delta for name, delta in self._deltas.items() if name in there})
        if deltas is None:
            deltas = {name: delta for name, delta in self._method.deltas(self._anatomy).items() if name in there}
        for name, delta in deltas.items():
            delta.bind(partial(frozen_weight, model, there[name]))
        if self._originals_on_disk:
            return Tuned(model, self._method, anatomy, deltas, put_aside=lambda tensors: {})
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
