"""What a run proves about itself, before its first step and after its last.

Each proof is {"passed", "value", "tolerance"}: what was measured, and the most (for a count: exactly what) it may be.
Logits are compared by their largest absolute difference over the largest absolute logit.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tunewise.data.doctor import tokens
from tunewise.data.doctor.reading import flattened
from tunewise.data.encode import CHUNK, MASKED, Encoded
from tunewise.data.token_store import longest
from tunewise.engine.backend import chosen
from tunewise.engine.batches import plain
from tunewise.engine.objectives import Objective, objective_for
from tunewise.errors import UserError
from tunewise.methods.attach import Tuned
from tunewise.methods.base import CannotFold
from tunewise.methods.store import PROBE, Probe, check_probe, last_logits, load_adapter, saved_probes
from tunewise.models.fingerprint import Checksums, checksums
from tunewise.models.load import Base
from tunewise.training.config import TrainConfig
from tunewise.training.loop import training_mode

Proof = dict[str, Any]

FOLDS = "fold_equals_attached"
RELOADED = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}
"""Largest difference in logits after a reload: the same numbers go through the same code, so 0 is usual."""
FOLDED = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 1e-1, torch.float16: 1e-2}
"""Largest relative difference of a folded model: its weights are rounded to the base's dtype once more."""
LARGEST_COPY_BYTES = 4 << 30
"""The weights that folding writes to are copied, and put back: larger ones are not."""


def at_most(value: float, tolerance: float) -> Proof:
    """The proof that `value` is no more than `tolerance`; NaN is, and is written as a word."""
    return {
        "passed": value <= tolerance,
        "value": value if math.isfinite(value) else str(value),
        "tolerance": tolerance,
    }


def check_rows(
    rows: Sequence[Encoded], tokenizer: PreTrainedTokenizerBase, ends: Sequence[int] = ()
) -> dict[str, Proof]:
    """Every row has labels, ends with a trained end token and begins once; UserError naming the row that does not.

    `ends` are the end tokens of chat templates beside the tokenizer's own.
    """
    end, begin = tokenizer.eos_token_id, tokenizer.bos_token_id
    faulty: dict[str, list[str]] = {"labelled": [], "ended": [], "begun": []}
    every = iter(rows)
    while some := list(islice(every, CHUNK)):  # rows on disk stay there
        flat = flattened(some)
        faulty["labelled"] += [some[number].id for number in tokens.unlabelled(flat)]
        faulty["ended"] += [some[number].id for number in tokens.endless(flat, [end, *ends])]
        faulty["begun"] += [some[number].id for number in tokens.doubled(flat, begin, end)]
    for of, fault in (
        ("labelled", "have all their labels masked"),
        ("ended", "do not end with a trained end-of-sequence token"),
        ("begun", "begin with two begin tokens"),
    ):
        if named := faulty[of]:
            told = f"{len(named)} training rows {fault}: {', '.join(named[:5])}"
            raise UserError(told, "check the template and the tokenizer")
    return {
        "labels_are_trained": at_most(len(faulty["labelled"]), 0),
        "answers_end_with_a_trained_token": at_most(len(faulty["ended"]), 0),
        "begins_once": at_most(len(faulty["begun"]), 0),
    }


def check_labels(rows: Sequence[Encoded]) -> dict[str, Proof]:
    """Every row of a classifier has a label; UserError naming the row that does not."""
    unlabelled = [row.id for row in rows if all(label == MASKED for label in row.labels)]
    if unlabelled:
        raise UserError(f"{len(unlabelled)} training rows have no label: {', '.join(unlabelled[:5])}", "correct them")
    return {"labels_are_trained": at_most(len(unlabelled), 0)}


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether that is why torch gave up, on a GPU or on the CPU."""
    return "out of memory" in str(error) or "allocate memory" in str(error)


def check_longest_batch(
    tuned: Tuned, rows: Sequence[Encoded], config: TrainConfig, objective: Objective[Any]
) -> dict[str, Proof]:
    """One forward and backward of the longest rows, before anything is spent; UserError when memory does not suffice.

    The value is the number of tokens in that batch, padding included. Nothing is changed by it.
    """
    tried = [rows[number] for number in longest(rows, config.batch_size)]
    n_longest = len(tuned.prefix_ids) + len(tried[0].ids)
    batch = objective.collate(tried).to(tuned.model.device)
    devices = [tuned.model.device] if tuned.model.device.type == "cuda" else []
    try:
        with (
            torch.random.fork_rng(devices),
            chosen(tuned.model.device),
            training_mode(tuned, config),
            objective.ready(tuned.model),
        ):
            objective.loss(tuned.model, batch).backward()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            f"the longest batch does not fit: {config.batch_size} rows of up to {n_longest} tokens",
            f"train.batch_size={max(1, config.batch_size // 2)} train.accumulation={2 * config.accumulation}, "
            "train.checkpointing=true, or a smaller train.max_length",
        ) from error
    return longest_batch(tuned, tried)


def longest_batch(tuned: Tuned, rows: Sequence[Encoded]) -> dict[str, Proof]:
    """The proof that these rows fit, the longest first."""
    n_tokens = len(rows) * (len(tuned.prefix_ids) + len(rows[0].ids))
    return {"longest_batch_fits": {"passed": True, "value": n_tokens, "tolerance": None}}


@torch.no_grad()
def probe_logits(model: PreTrainedModel, probes: Sequence[Probe], prefix_ids: Sequence[int] = ()) -> Tensor:
    """What the model says at the end of each probe, one a forward: (probes, vocabulary or classes)."""
    return torch.stack([last_logits(model, probe, prefix_ids) for probe in probes])


@dataclass(frozen=True)
class Untouched:
    """A base with nothing attached: what it says to these probes, and what its weights sum up to."""

    probes: Sequence[Probe]
    logits: Tensor
    sums: Checksums


_UNTOUCHED: WeakKeyDictionary[PreTrainedModel, Untouched] = WeakKeyDictionary()


def untouched(model: PreTrainedModel, probes: Sequence[Probe]) -> Untouched:
    """That of this base; one whose weights still sum up to the same is not asked the same again."""
    known, sums = _UNTOUCHED.get(model), checksums(model)
    if known is None or known.sums != sums or not _same(known.probes, probes):
        known = _UNTOUCHED[model] = Untouched(probes, probe_logits(model, probes), sums)
    return known


def _same(some: Sequence[Probe], others: Sequence[Probe]) -> bool:
    return len(some) == len(others) and all(
        one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
        for one, other in zip(some, others, strict=True)
    )


def check_tuned(
    tuned: Tuned, base: Untouched, attached: Tensor | None = None
) -> tuple[dict[str, Proof], dict[str, str]]:
    """The proofs that need the tuned model, and the reasons for those that were left out.

    `base` was taken before anything was attached; `attached` is what the tuned model says to its probes, where that is
    known.
    """
    if attached is None:
        attached = probe_logits(tuned.model, base.probes, tuned.prefix_ids)
    folds, left_out = _check_folded(tuned, base.probes, attached)
    with tuned.disabled():
        off, sums = probe_logits(tuned.model, base.probes), checksums(tuned.model)
    n_moved = sum(sums[name] != base.sums[name] for name in base.sums)
    effect = _distance(base.logits, attached)
    return {
        "has_an_effect": {"passed": effect > 0, "value": effect, "tolerance": None},
        "off_is_the_base": at_most(float((off - base.logits).abs().max()), 0.0),
        "base_unchanged": at_most(n_moved, 0),
        **folds,
    }, left_out


def _check_folded(tuned: Tuned, probes: Sequence[Probe], attached: Tensor) -> tuple[dict[str, Proof], dict[str, str]]:
    """That the weights in which base and method are one say the same, or why that was left out."""
    modules = {tuned.site(name).module for name in tuned.deltas}
    written = [p for path in modules for p in tuned.model.get_submodule(path).parameters(recurse=False)]
    n_bytes = sum(parameter.nbytes for parameter in written)
    if n_bytes > LARGEST_COPY_BYTES:
        return {}, {FOLDS: f"it would copy {n_bytes / 1e9:.1f} GB of the base"}
    try:
        with tuned.folded() as folded:
            distance = _distance(attached, probe_logits(folded, probes, tuned.prefix_ids))
    except CannotFold as reason:
        return {}, {FOLDS: reason.message}
    return {FOLDS: at_most(distance, FOLDED[tuned.model.dtype])}, {}


def reloaded(differences: dict[str, float], dtype: torch.dtype) -> Proof:
    """The proof of a reload from what `check_probe` found."""
    return at_most(max(differences["tuned"], differences["base"]), RELOADED[dtype])


def failed_proofs(proofs: Mapping[str, Proof]) -> list[str]:
    """The names of the proofs that did not pass."""
    return [name for name, proof in proofs.items() if not proof["passed"]]


def prove_adapter(folder: str | Path, base: Base) -> dict[str, Proof]:
    """Load the adapter in `folder` onto `base` and prove it; the base is as it was afterwards.

    Raises UserError where the adapter is damaged or belongs to another base.
    """
    probes = saved_probes(folder) or [plain_probe(base)]
    before = untouched(base.model, probes)
    tuned = load_adapter(base.model, folder, tokenizer=base.tokenizer)
    tuned.model.eval()
    try:
        proofs: dict[str, Proof] = {}
        if (Path(folder) / PROBE).is_file():
            proofs["reloads_to_the_same_logits"] = reloaded(check_probe(tuned, folder), base.dtype)
        return proofs | check_tuned(tuned, before)[0]
    finally:
        tuned.detach()


def prove_merged(folder: str | Path, base: Base, merged: PreTrainedModel) -> dict[str, Proof]:
    """That `merged` says what `base` does with the adapter in `folder`; the base is as it was afterwards."""
    probes = saved_probes(folder) or [plain_probe(base)]
    tuned = load_adapter(base.model, folder, tokenizer=base.tokenizer)
    tuned.model.eval()
    try:
        attached = probe_logits(tuned.model, probes, tuned.prefix_ids)
        distance = _distance(attached, probe_logits(merged.eval(), probes, tuned.prefix_ids))
    finally:
        tuned.detach()
    return {FOLDS: at_most(distance, FOLDED[base.dtype])}


def plain_probe(base: Base) -> Probe:
    """A row to ask a base by that has none of its own; UserError for one that reads images."""
    if base.tokenizer is None:
        raise UserError(f"{base.name} reads images, and there is no {PROBE}", hint="adapters saved by a run have one")
    ids = base.tokenizer.encode("What is") or [base.tokenizer.eos_token_id]
    return objective_for(base).probe(plain("", ids, 0))


def _distance(a: Tensor, b: Tensor) -> float:
    a, b = a.double(), b.double()
    return float((a - b).abs().max() / a.abs().max().clamp(min=1e-30))
