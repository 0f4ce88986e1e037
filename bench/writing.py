"""Answers written beside transformers: `python -m bench.writing`, results in bench/results/writing.json.

The most probable tokens behind prompts of 30 to 80 tokens: of several prompts at a time, as an evaluation asks, and of
one, as a chat does. The peer is `model.generate` in the same dtype, with the prompts as one batch padded on the left.
Both write as many tokens, round by round; the ratio is the median of the rounds' ratios. Where an answer differs, the
plain model's logits of the two tokens at the first difference must be as good as equal, or the benchmark fails.
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from bench.in_context import padded, queries
from bench.kept import keep
from bench.shapes import SHAPES, build
from bench.training import timed
from tunewise.engine.backend import chosen
from tunewise.engine.decoding import Decoding, decode
from tunewise.engine.packed_reading import why_not_read

SAME = {"float32": 1e-3, "bfloat16": 0.1}
Answers = list[list[int]]


class Numbers:
    """A tokenizer whose texts are the ids, and whose answers never end."""

    eos_token_id = None
    pad_token_id = 0

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        return " ".join(map(str, ids))


def generated(model: PreTrainedModel, prompts: Sequence[Sequence[int]], n_tokens: int) -> Answers:
    """By transformers, as one batch."""
    told = padded(prompts)
    del told["position_ids"]  # it makes them itself
    wanted = {"max_new_tokens": n_tokens, "min_new_tokens": n_tokens, "do_sample": False, "pad_token_id": 0}
    found = model.generate(**told, **wanted)
    return [answer.tolist()[told["input_ids"].shape[1] :] for answer in found]


@torch.no_grad()
def distance(model: PreTrainedModel, prompt: Sequence[int], one: Sequence[int], other: Sequence[int]) -> float:
    """Of the logits of the two tokens at the first difference; 0 where there is none."""
    for place, pair in enumerate(zip(one, other, strict=True)):
        if pair[0] != pair[1]:
            logits = model(torch.tensor([[*prompt, *one[:place]]]), use_cache=False, logits_to_keep=1).logits
            return float((logits[0, -1, pair[0]] - logits[0, -1, pair[1]]).abs())
    return 0.0


def measure(shape: str, dtype: str, n_prompts: int, n_tokens: int, n_rounds: int) -> dict[str, object]:
    """The ratio of the peer's seconds to ours, and how many answers are the same."""
    model = build(shape, getattr(torch, dtype)).eval().requires_grad_(False)  # as it is with a method attached
    model.generation_config.eos_token_id = None
    prompts = queries(n_prompts, 0, SHAPES[shape].vocabulary)[1]
    reason = why_not_read(model)
    assert not reason, reason
    tokenizer: Any = Numbers()

    @chosen()
    def ours() -> Answers:
        texts = decode(model, tokenizer, prompts, Decoding(n_tokens), batch_size=n_prompts)
        return [[int(word) for word in text.split()] for text in texts]

    ratios, seconds = [], []
    for number in range(n_rounds + 1):
        our_seconds, our_answers = timed(ours)
        their_seconds, their_answers = timed(lambda: generated(model, prompts, n_tokens))
        if number:  # the first is to warm up
            seconds.append(our_seconds)
            ratios.append(their_seconds / our_seconds)
    pairs = list(zip(prompts, our_answers, their_answers, strict=True))
    gap = max(distance(model, *pair) for pair in pairs)
    assert gap < SAME[dtype], f"{shape}, {dtype}: logits of unlike tokens differ by {gap}"
    return {
        "shape": shape, "dtype": dtype, "prompts": n_prompts, "tokens": n_tokens,
        "tokens_per_second": round(n_prompts * n_tokens / statistics.median(seconds), 1),
        "ratio": round(statistics.median(ratios), 2), "ratios": [round(ratio, 2) for ratio in ratios],
        "same_answers": sum(one == other for _, one, other in pairs), "largest_difference": gap,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", nargs="*", type=int, default=[1, 16])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shapes", nargs="*", default=["a", "b12"])
    parser.add_argument("--dtypes", nargs="*", default=list(SAME))
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    found = []
    for shape in options.shapes:
        for dtype in options.dtypes:
            for n_prompts in options.prompts:
                found.append(measure(shape, dtype, n_prompts, options.tokens, options.rounds))
                print(json.dumps(found[-1]))
    keep("writing", found)


if __name__ == "__main__":
    main()
