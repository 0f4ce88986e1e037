"""Which runs share a batch, and how many: the cost model of lanes.

A step costs what its products cost, and something for each operation however small it is. Lanes save the second, so
they pay where one run does not fill the machine; and the backward of a batch goes as deep as that of its deepest lane.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from tunewise.machine import n_cores
from tunewise.methods.alone import inside_a_mixture
from tunewise.methods.attach import reach
from tunewise.methods.base import Method
from tunewise.models.anatomy import Anatomy, read_anatomy

FILLS_CPU = 500 * 4.8e6
"""Tokens of a batch times parameters behind the embedding from which on one packed run keeps two threads busy.

Measured on two cores (llama, 6 layers of width 256): eight seeds of LoRA in one batch cost 2.2 times less than in turn
at 220 tokens a run, and the same (± 10 %) at 880; the cost for each operation shows below 500.
"""
FILLS_GPU_TOKENS = 4096
"""Tokens of a batch from which on one run keeps a GPU busy. An estimate: no GPU has been measured."""
FORWARD = 2
"""A forward without a backward is filled by so many times the tokens.

Measured on one thread (`tiny`, eight seeds of LoRA on the dev rows of tiny:sentiment, processor time): asked at once
they cost 2.3 times less than in turn at 120 tokens a run, 1.5 times at 500, and the same (± 10 %) from 1000 on.
"""
LARGEST = 4
"""A joint batch holds at most so many times what fills the machine: beyond, memory grows and time does not fall."""
OWN_SHARE = 0.5
"""A run that trains more of the base's own weights than this shares next to no product with others."""


@dataclass(frozen=True)
class Demand:
    """What decides whether a run is worth a lane."""

    tokens: float
    """Of one batch on average, prefixes included."""
    lowest: int
    """The lowest layer whose backward is needed; the number of layers where that is none."""
    own_share: float
    """The share of the base's own parameters that it trains."""
    alone: str = ""
    """Why it cannot share a batch, where that is known beforehand."""


@dataclass(frozen=True)
class Sharing:
    """Groups of runs, by number, that share batches; whoever is in none runs alone. `reasons` has a sentence for each
    run: why it shares, or why it does not."""

    groups: tuple[tuple[int, ...], ...]
    reasons: Mapping[int, str]


def demand(model: PreTrainedModel, method: Method, tokens: float) -> Demand:
    """Of a run of `method` whose batches have so many tokens on average; nothing is attached."""
    anatomy = read_anatomy(model)
    sites, selected = reach(model, method)
    n_all = sum(parameter.numel() for parameter in model.parameters())
    layers = [*(_of_site(anatomy, name) for name in sites), *(_of_parameter(anatomy, name) for name in selected)]
    n_own = sum(parameter.numel() for parameter in selected.values())
    alone = inside_a_mixture(anatomy, sites, selected)
    return Demand(tokens, min(layers, default=anatomy.n_layers), n_own / n_all, alone)


def _of_parameter(anatomy: Anatomy, name: str) -> int:
    """The layer that holds it; 0 for what stands before the layers, their number for what stands behind them."""
    inside = anatomy.layer_of(name)
    if inside is not None:
        return inside
    last = max(i for i, each in enumerate(anatomy.parameters) if each.startswith(f"{anatomy.layers[-1]}."))
    return anatomy.n_layers if anatomy.parameters.index(name) > last else 0


def _of_site(anatomy: Anatomy, name: str) -> int:
    if anatomy.head is not None and name == anatomy.head.name:
        return anatomy.n_layers
    return next((site.layer for site in (*anatomy.sites, *anatomy.keys) if site.name == name and site.layer), 0)


def share(demands: Sequence[Demand], model: PreTrainedModel, workers: int = 1, *, is_trained: bool = True) -> Sharing:
    """Who shares with whom on the device of `model`: those of like depth, as many as fill it a few times over.

    Several `workers`, each with its share of the cores, have a group each at least. What is not trained is run forward
    alone.
    """
    fills = _fills(model, workers) * (1 if is_trained else FORWARD)
    groups: list[tuple[int, ...]] = []
    reasons: dict[int, str] = {}
    by_depth: dict[int, list[int]] = {}
    for number, each in enumerate(demands):
        if each.alone:
            reasons[number] = f"one by one: {each.alone}"
        elif each.own_share > OWN_SHARE:
            reasons[number] = f"one by one: {each.own_share:.0%} of the base's weights are its own, none is shared"
        elif each.tokens >= fills:
            reasons[number] = f"one by one: {each.tokens:.0f} tokens a batch fill this machine, from {fills:.0f} on"
        else:
            by_depth.setdefault(each.lowest, []).append(number)
    for lowest, numbers in by_depth.items():
        for group in _filled(numbers, demands, LARGEST * fills, workers):
            if len(group) < 2:
                reasons[group[0]] = f"one by one: no other run reaches down to layer {lowest}, or they fill a batch"
                continue
            groups.append(tuple(group))
            tokens = sum(demands[number].tokens for number in group)
            told = f"{len(group)} runs in one batch of {tokens:.0f} tokens: one alone does not fill this machine"
            reasons |= dict.fromkeys(group, told)
    return Sharing(tuple(groups), reasons)


def threads_of(workers: int) -> int:
    """Threads for this process, or for each of several side by side: its share of the cores, and never more than one
    process has, whom OMP_NUM_THREADS may have told."""
    return torch.get_num_threads() if workers == 1 else min(torch.get_num_threads(), max(1, n_cores() // workers))


def _fills(model: PreTrainedModel, workers: int) -> float:
    """The tokens of a batch with which one run fills the device."""
    if model.device.type != "cpu":
        return FILLS_GPU_TOKENS
    return FILLS_CPU / n_body(model) * threads_of(workers) / 2


def n_body(model: PreTrainedModel) -> int:
    """Parameters behind the embedding: what a token is multiplied with."""
    embedding = model.get_input_embeddings()
    n_embedding = embedding.weight.numel() if isinstance(embedding, torch.nn.Embedding) else 0
    return max(1, sum(parameter.numel() for parameter in model.parameters()) - n_embedding)


def _filled(numbers: Sequence[int], demands: Sequence[Demand], largest: float, n_least: int) -> list[list[int]]:
    """Groups of these runs, in their order, of at most `largest` tokens and of about the same size, `n_least` or more
    of them where there are as many runs."""
    n_groups = max(n_least, -(-sum(demands[number].tokens for number in numbers) // largest))
    size = -(-len(numbers) // int(n_groups))
    return [list(numbers[start : start + size]) for start in range(0, len(numbers), size)]
