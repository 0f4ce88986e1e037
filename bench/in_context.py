"""In-context learning beside transformers: `python -m bench.in_context`, results in bench/results/in_context.json.

Many queries behind the same demonstrations, two labels of one token each. Peers, by plain transformers in the same
dtype: each query's two answers as one batch; each query alone, only its last logits; eight queries padded; and both
of the latter behind a cache of the demonstrations. All are run in turn, round by round; a ratio is the median of the
rounds' ratios. Log-probabilities must agree, or the benchmark fails. The C library is asked to keep freed pages by our
first round and cannot forget it, so that the peers have that too in later ones.
"""

import argparse
import copy
import json
import statistics
from collections.abc import Callable, Sequence

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

from bench.kept import keep
from bench.shapes import SHAPES, build
from bench.training import timed
from tunewise.engine.backend import chosen
from tunewise.engine.packed_reading import why_not_read
from tunewise.engine.scoring import option_log_probabilities

LABELS = (5, 6)
SAME = {"float32": 1e-3, "bfloat16": 5e-2}
BATCH = 8

Scores = list[list[float]]


def queries(n: int, n_demonstrations: int, vocabulary: int) -> tuple[list[int], list[list[int]]]:
    """Demonstrations of 58 tokens each behind one another, and queries of 30 to 80 tokens."""
    generator = torch.Generator().manual_seed(0)
    shown = torch.randint(7, vocabulary, (58 * n_demonstrations,), generator=generator).tolist()
    lengths = torch.randint(30, 81, (n,), generator=generator).tolist()
    return shown, [torch.randint(7, vocabulary, (length,), generator=generator).tolist() for length in lengths]


def padded(rows: Sequence[Sequence[int]], n_before: int = 0) -> dict[str, Tensor]:
    """Rows padded on the left behind `n_before` cached tokens."""
    width = max(map(len, rows))
    masks = [[1] * n_before + [0] * (width - len(row)) + [1] * len(row) for row in rows]
    mask = torch.tensor(masks)
    return {
        "input_ids": torch.tensor([[0] * (width - len(row)) + list(row) for row in rows]),
        "attention_mask": mask,
        "position_ids": (mask.cumsum(1) - 1).clamp(min=0)[:, n_before:],
    }


def batches(rows: Sequence[list[int]], size: int) -> list[list[int]]:
    ranked = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    return [ranked[i : i + size] for i in range(0, len(rows), size)]


def answers_as_batch(model: PreTrainedModel, shown: list[int], rows: list[list[int]]) -> Scores:
    """One forward a query: its prompt with each label behind it."""
    scores = []
    for row in rows:
        ids = torch.tensor([[*shown, *row, label] for label in LABELS])
        logits = model(ids, use_cache=False, logits_to_keep=2).logits[:, -2].float().log_softmax(-1)
        scores.append([logits[i, label].item() for i, label in enumerate(LABELS)])
    return scores


def by_last_logits(model: PreTrainedModel, shown: list[int], rows: list[list[int]], size: int) -> Scores:
    """One forward for `size` queries, whole."""
    scores: Scores = [[] for _ in rows]
    for indices in batches(rows, size):
        out = model(**padded([[*shown, *rows[i]] for i in indices]), use_cache=False, logits_to_keep=1)
        _take(scores, indices, out.logits)
    return scores


def behind_cache(model: PreTrainedModel, shown: list[int], rows: list[list[int]], size: int) -> Scores:
    """The demonstrations read once, their cache copied for every `size` queries."""
    cached = model(torch.tensor([shown]), use_cache=True, logits_to_keep=1).past_key_values
    scores: Scores = [[] for _ in rows]
    for indices in batches(rows, size):
        cache = copy.deepcopy(cached)
        cache.batch_repeat_interleave(len(indices))
        told = padded([rows[i] for i in indices], len(shown))
        _take(scores, indices, model(**told, past_key_values=cache, use_cache=True, logits_to_keep=1).logits)
    return scores


def _take(scores: Scores, indices: Sequence[int], logits: Tensor) -> None:
    for i, row in zip(indices, logits[:, -1].float().log_softmax(-1), strict=True):
        scores[i] = [row[label].item() for label in LABELS]


@torch.no_grad()
def measure(shape: str, dtype: str, n_queries: int, n_demonstrations: int, n_rounds: int) -> dict[str, object]:
    """The ratio of each peer's seconds to ours, and the largest difference of a log-probability."""
    model = build(shape, getattr(torch, dtype)).eval()
    shown, rows = queries(n_queries, n_demonstrations, SHAPES[shape].vocabulary)
    reason = why_not_read(model)
    assert not reason, reason

    @chosen()
    def ours() -> Scores:
        options = [[[label] for label in LABELS]] * len(rows)
        return option_log_probabilities(model, [[*shown, *row] for row in rows], options, pad_id=0)

    peers: dict[str, Callable[[], Scores]] = {
        "a query's answers as a batch": lambda: answers_as_batch(model, shown, rows),
        "a query": lambda: by_last_logits(model, shown, rows, 1),
        f"{BATCH} queries": lambda: by_last_logits(model, shown, rows, BATCH),
        "a query behind the cache": lambda: behind_cache(model, shown, rows, 1),
        f"{BATCH} queries behind the cache": lambda: behind_cache(model, shown, rows, BATCH),
    }
    ratios: dict[str, list[float]] = {name: [] for name in peers}
    seconds, gap = [], 0.0
    for _ in range(n_rounds):
        our_seconds, our_scores = timed(ours)
        seconds.append(our_seconds)
        for name, peer in peers.items():
            their_seconds, their_scores = timed(peer)
            ratios[name].append(their_seconds / our_seconds)
            gap = max(gap, float((torch.tensor(our_scores) - torch.tensor(their_scores)).abs().max()))
    assert gap < SAME[dtype], f"{shape}, {dtype}: log-probabilities differ by {gap}"
    return {
        "shape": shape, "dtype": dtype, "queries": n_queries, "demonstrations": n_demonstrations,
        "tokens_shown": len(shown), "tokens_of_queries": sum(map(len, rows)),
        "queries_per_second": round(n_queries / statistics.median(seconds), 1),
        "ratio": {name: round(statistics.median(each), 2) for name, each in ratios.items()},
        "ratios": {name: [round(ratio, 2) for ratio in each] for name, each in ratios.items()},
        "largest_difference": gap,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--demonstrations", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shapes", nargs="*", default=["a"])
    parser.add_argument("--dtypes", nargs="*", default=list(SAME))
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    found = []
    for shape in options.shapes:
        for dtype in options.dtypes:
            found.append(measure(shape, dtype, options.queries, options.demonstrations, options.rounds))
            print(json.dumps(found[-1]))
    keep("in_context", found)


if __name__ == "__main__":
    main()
