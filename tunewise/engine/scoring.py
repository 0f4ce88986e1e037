"""How likely given answers are, and the loss of whole documents."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from transformers import PreTrainedModel

from tunewise.data.encode import Encoded
from tunewise.engine.batches import IGNORED, by_length, collate, plain
from tunewise.engine.from_trunk import from_trunk
from tunewise.engine.loss import cross_entropies, row_losses, wide
from tunewise.engine.objectives import NextToken, PackedNextToken
from tunewise.engine.owners import ALONE, Owner
from tunewise.engine.packed_reading import Reader, Row, reading, rows_of, why_not_read
from tunewise.engine.prefill import Prefilled, prefill
from tunewise.engine.trunk import Trunk

COPIES = 4
"""At most so many times `batch_size` rows go on behind copied caches at once."""


class Likelihood(NamedTuple):
    """Of one option."""

    log_probability: float
    """In nats, summed over its tokens."""
    is_greedy: bool
    """Whether each of its tokens is the most probable one."""


def option_log_probabilities(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    options: Sequence[Sequence[Sequence[int]]],
    *,
    pad_id: int,
    prefix_ids: Sequence[int] = (),
    batch_size: int = 32,
    packing: bool = True,
    owners: Owner = ALONE,
) -> list[list[float]]:
    """For each prompt, the log-probability of each of its options, as `option_likelihoods` finds it."""
    found = option_likelihoods(
        model, prompts, options, pad_id=pad_id, prefix_ids=prefix_ids, batch_size=batch_size, packing=packing,
        owners=owners,
    )  # fmt: skip
    return [[each.log_probability for each in of_row] for of_row in found]


@torch.no_grad()
def option_likelihoods(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    options: Sequence[Sequence[Sequence[int]]],
    *,
    pad_id: int,
    prefix_ids: Sequence[int] = (),
    batch_size: int = 32,
    packing: bool = True,
    owners: Owner = ALONE,
) -> list[list[Likelihood]]:
    """For each prompt, how likely each of its options' token ids is after it.

    The prompt is read once for all its options, and what all prompts begin with once for all: packed, where that is
    wanted and this decoder runs so (`why_not_read`), and else padded, `batch_size` prompts at a time.
    """
    if not prompts:
        return []
    if not packing or why_not_read(model, prefix_ids):
        return _padded(
            model, prompts, options, pad_id=pad_id, prefix_ids=prefix_ids, batch_size=batch_size, owners=owners
        )
    scores: list[list[Likelihood]] = [[] for _ in prompts]
    apart = owners.split_off(prompts, prefix_ids)
    rests = apart.rests
    n_behind = [sum(len(option) - 1 for option in of_row) for of_row in options]
    n_tokens = [len(rest) + n for rest, n in zip(rests, n_behind, strict=True)]
    vocabulary = model.get_input_embeddings().weight.shape[0]
    with reading(model, apart.beginnings, whose=apart.whose) as reader:
        for held in rows_of(n_tokens, [n + 1 for n in n_behind], vocabulary):
            indices = owners.sorted(held)
            with owners.in_a_row(indices, [n_tokens[i] for i in indices], [n_behind[i] + 1 for i in indices]):
                found = _read_options(reader, [(rests[i], options[i], apart.behind[i]) for i in indices])
            for i, of_row in zip(indices, found, strict=True):
                scores[i] = of_row
    return scores


def _read_options(
    reader: Reader, asked: Sequence[tuple[Sequence[int], Sequence[Sequence[int]], int]]
) -> list[list[Likelihood]]:
    """The same for prompts with their options that fit one row, each read behind the beginning of that number: all but
    the last token of an option."""
    row = Row(reader.n_begin)
    wanted: list[int] = []  # places in the row
    of_option: list[int] = []
    at: list[int] = []  # where the logits of each option's token stand among the wanted ones
    tokens: list[int] = []
    n_options = 0
    for prompt, of_prompt, behind in asked:
        alone = len(of_prompt) == 1
        first = row.add([*prompt, *of_prompt[0][:-1]] if alone else prompt, behind=behind)
        last = first + len(prompt) - 1
        told = len(wanted)
        wanted.append(last)
        for option in of_prompt:
            following = [*range(len(wanted), len(wanted) + len(option) - 1)]
            if following:
                start = last + 1 if alone else row.add(option[:-1], (first, len(prompt)), behind=behind)
                wanted += range(start, start + len(following))
            at += [told, *following]
            tokens += option
            of_option += [n_options] * len(option)
            n_options += 1
    logits = wide(reader.logits(row, wanted))
    each, places = logits[at, tokens], torch.tensor(of_option)
    missed = torch.zeros(n_options, dtype=torch.long).index_add(0, places, (each < logits.amax(dim=-1)[at]).long())
    each = (each - logits.logsumexp(dim=-1)[at]).double()
    sums = each.new_zeros(n_options).index_add(0, places, each)
    found = iter(zip(sums.tolist(), (missed == 0).tolist(), strict=True))
    return [[Likelihood(*next(found)) for _ in of_prompt] for _, of_prompt, _ in asked]


def _padded(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    options: Sequence[Sequence[Sequence[int]]],
    *,
    pad_id: int,
    prefix_ids: Sequence[int],
    batch_size: int,
    owners: Owner,
) -> list[list[Likelihood]]:
    """The same by any decoder: prompts padded on the left, what follows an option's first token behind their caches."""
    scores: list[list[Likelihood]] = [[] for _ in prompts]
    if any(len(option) > 1 for of_row in options for option in of_row):
        # every option will need a copy of its prompt's cache: with dozens of labels, fewer prompts at a time
        batch_size = min(batch_size, max(1, COPIES * batch_size // max(map(len, options))))
    for read in prefill(model, prompts, pad_id=pad_id, prefix_ids=prefix_ids, batch_size=batch_size, owners=owners):
        rows = [options[i] for i in read.indices]
        firsts = wide(read.logits).log_softmax(dim=-1).cpu()
        best = firsts.argmax(dim=-1).tolist()
        found = [
            [Likelihood(firsts[row, option[0]].item(), option[0] == best[row]) for option in of_row]
            for row, of_row in enumerate(rows)
        ]
        if any(len(option) > 1 for of_row in rows for option in of_row):
            for of_row, rest in zip(found, _continued(model, read, rows, pad_id, owners), strict=True):
                of_row[:] = [
                    Likelihood(one.log_probability + more.log_probability, one.is_greedy and more.is_greedy)
                    for one, more in zip(of_row, rest, strict=False)
                ]
        for i, of_row in zip(read.indices, found, strict=True):
            scores[i] = of_row
    return scores


def _continued(
    model: PreTrainedModel, read: Prefilled, rows: Sequence[Sequence[Sequence[int]]], pad_id: int, owners: Owner
) -> list[list[Likelihood]]:
    """How likely each option's tokens after its first one are; options of a row stand in one cache each."""
    n_options = max(map(len, rows))
    empty: Sequence[int] = (pad_id,)
    flat = [option for of_row in rows for option in (*of_row, *[empty] * (n_options - len(of_row)))]
    longest = max(map(len, flat)) - 1
    device = read.mask.device
    inputs = torch.tensor([[*option[:-1], *[pad_id] * (longest - len(option) + 1)] for option in flat], device=device)
    labels = torch.tensor([[*option[1:], *[IGNORED] * (longest - len(option) + 1)] for option in flat], device=device)
    behind = read.repeated(n_options)
    # padding on the right is never looked at by what stands before it, so the mask need not know it
    with owners.as_rows(read.indices, [n_options] * len(read.indices)):
        logits = model(
            input_ids=inputs,
            attention_mask=torch.cat([behind.mask, behind.mask.new_ones(inputs.shape)], dim=1),
            position_ids=behind.positions + torch.arange(1, longest + 1, device=device),
            past_key_values=behind.cache,
            use_cache=True,
        ).logits
    sums = (-cross_entropies(logits, labels).sum(dim=1)).tolist()
    greedy = ((logits.argmax(dim=-1) == labels) | (labels == IGNORED)).all(dim=1).tolist()
    found = iter([Likelihood(*each) for each in zip(sums, greedy, strict=True)])
    return [[next(found) for _ in range(n_options)] for _ in rows]


@torch.no_grad()
def sequence_losses(
    model: PreTrainedModel,
    documents: Sequence[Sequence[int]],
    *,
    pad_id: int,
    prefix_ids: Sequence[int] = (),
    batch_size: int = 16,
    packing: bool = True,
) -> list[tuple[float, int]]:
    """For each document, the loss in nats summed over every token but its first, and the number of those tokens."""
    told = [i for i, ids in enumerate(documents) if len(ids) > 1]
    if not packing or why_not_read(model, prefix_ids):
        rows = [plain("", documents[i], len(documents[i]) - 1) for i in told]
        found = losses_of_rows(model, rows, pad_id=pad_id, prefix_ids=prefix_ids, batch_size=batch_size)
    else:
        firsts, rests = [documents[i][:1] for i in told], [[documents[i][1:]] for i in told]
        scores = option_log_probabilities(model, firsts, rests, pad_id=pad_id, prefix_ids=prefix_ids)
        found = [-value for (value,) in scores]
    losses = dict(zip(told, found, strict=True))
    return [(losses.get(i, 0.0), max(0, len(ids) - 1)) for i, ids in enumerate(documents)]


@torch.no_grad()
def losses_from_trunk(
    objective: NextToken | PackedNextToken, trunk: Trunk, rows: Sequence[Encoded], batch_size: int
) -> list[float]:
    """The loss of each row in nats, summed over its labels, in the order given; the trunk is run once for each row."""
    model, losses = trunk.model, [0.0] * len(rows)
    told = [i for i, row in enumerate(rows) if any(label != IGNORED for label in row.labels[1:])]
    cached = from_trunk(objective, trunk, [rows[i] for i in told], batch_size)
    n_tokens = [len(rows[i].ids) for i in told]
    n_labels = [sum(label != IGNORED for label in rows[i].labels[1:]) for i in told]
    for numbers in rows_of(n_tokens, n_labels, model.config.get_text_config().vocab_size):
        indices = [told[number] for number in numbers]
        with cached.ready(model):
            found = cached.row_losses(model, cached.collate([rows[i] for i in indices]).to(model.device))
        for i, loss in zip(indices, found.tolist(), strict=True):
            losses[i] = loss
    return losses


@torch.no_grad()
def losses_of_rows(
    model: PreTrainedModel,
    rows: Sequence[Encoded],
    *,
    pad_id: int,
    prefix_ids: Sequence[int] = (),
    batch_size: int = 16,
    owners: Owner = ALONE,
) -> list[float]:
    """The summed loss of each row, padded and batched by length, in the order given."""
    losses = [0.0] * len(rows)
    device = model.device
    for held in by_length([len(row.ids) for row in rows], batch_size):
        indices = owners.sorted(held)
        batch = collate([rows[i] for i in indices], pad_id, prefix_ids)
        if batch.n_labels == 0:
            continue
        with owners.as_rows(indices):
            found = row_losses(model, batch.to(device)).tolist()
        for i, loss in zip(indices, found, strict=True):
            losses[i] = loss
    return losses
