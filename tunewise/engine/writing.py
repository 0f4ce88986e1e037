"""What an encoder-decoder writes: decoding, and log-probabilities of given answers, each prompt encoded once."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList
from transformers.modeling_outputs import BaseModelOutput

from tunewise.data.encode import Encoded
from tunewise.engine.batches import IGNORED, by_length, padded, rectangle
from tunewise.engine.decoder_inputs import decoder_inputs
from tunewise.engine.decoding import Answer, Choose, Decoding, Take, end_ids, most_probable
from tunewise.engine.loss import cross_entropies
from tunewise.engine.owners import ALONE, Owner
from tunewise.models.load import Base


@torch.no_grad()
def write(
    base: Base,
    prompts: Sequence[Sequence[int]],
    how: Decoding,
    *,
    prefix_ids: Sequence[int] = (),
    batch_size: int = 32,
    owners: Owner = ALONE,
) -> list[str]:
    """An answer to each prompt (token ids), token by token, as text, in the order given."""
    assert base.tokenizer is not None
    choose = most_probable if how.sampling is None else how.sampling.chooser()
    ends = end_ids(base.model, base.tokenizer)
    answers = [Answer(base.tokenizer, ends, how) for _ in prompts]

    def take(prompt: int, token: int) -> bool:
        return answers[prompt].take(token)

    for indices, inputs in read_batches(base, prompts, prefix_ids, batch_size, owners):
        with owners.as_rows(indices):
            write_batch(base, inputs, indices, how.max_new_tokens, choose, take)
    return [answer.text for answer in answers]


def write_batch(
    base: Base, inputs: Mapping[str, Tensor], prompts: Sequence[int], max_new_tokens: int, choose: Choose, take: Take
) -> None:
    """Write behind a batch of prompts, of which these are the numbers, as long as an answer goes on."""
    base.model.generate(
        **inputs,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        logits_processor=LogitsProcessorList([_Drawn(choose, prompts)]),
        stopping_criteria=StoppingCriteriaList([_Taken(take, prompts)]),
    )


class _Drawn(LogitsProcessor):
    """Leaves of each row's logits the one token that is drawn, as decoders draw theirs."""

    def __init__(self, choose: Choose, prompts: Sequence[int]) -> None:
        self._choose, self._prompts = choose, prompts

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        chosen = self._choose(scores, self._prompts)
        return torch.full_like(scores, -torch.inf).scatter(1, chosen[:, None], 0.0)


class _Taken(StoppingCriteria):
    """Hands the newest token of each row on, and ends the rows whose answers have ended."""

    def __init__(self, take: Take, prompts: Sequence[int]) -> None:
        self._take, self._prompts = take, prompts

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: object) -> Tensor:
        newest = zip(self._prompts, input_ids[:, -1].tolist(), strict=True)
        has_ended = [not self._take(prompt, token) for prompt, token in newest]
        return torch.tensor(has_ended, dtype=torch.bool, device=input_ids.device)


@torch.no_grad()
def written_log_probabilities(
    base: Base,
    prompts: Sequence[Sequence[int]],
    options: Sequence[Sequence[Sequence[int]]],
    *,
    prefix_ids: Sequence[int] = (),
    batch_size: int = 32,
    owners: Owner = ALONE,
) -> list[list[float]]:
    """For each prompt, the log-probability (nats, summed over tokens) of writing each of its options' token ids."""
    scores: list[list[float]] = [[] for _ in prompts]
    for indices, inputs in read_batches(base, prompts, prefix_ids, batch_size, owners):
        with owners.as_rows(indices):
            hidden = base.model.get_encoder()(**inputs).last_hidden_state
        n_options = [len(options[i]) for i in indices]
        counts = torch.tensor(n_options, device=hidden.device)
        labels = rectangle([option for i in indices for option in options[i]], IGNORED).to(hidden.device)
        with owners.as_rows(indices, n_options):
            logits = base.model(
                encoder_outputs=BaseModelOutput(hidden.repeat_interleave(counts, dim=0)),
                attention_mask=inputs["attention_mask"].repeat_interleave(counts, dim=0),
                decoder_input_ids=decoder_inputs(base.model, labels),
                use_cache=False,
            ).logits
        sums = (-cross_entropies(logits, labels).sum(dim=1)).split(n_options)
        for i, of_prompt in zip(indices, sums, strict=True):
            scores[i] = of_prompt.tolist()
    return scores


def read_batches(
    base: Base, prompts: Sequence[Sequence[int]], prefix_ids: Sequence[int], batch_size: int, owners: Owner
) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
    """Numbers of prompts of like length, and what the encoder is given for them."""
    for held in by_length([len(prompt) for prompt in prompts], batch_size):
        indices = owners.sorted(held)
        rows = [Encoded("", tuple(prompts[i]), (), len(prompts[i]), truncated=False) for i in indices]
        assert base.tokenizer is not None
        inputs, _ = padded(rows, base.tokenizer.pad_token_id, prefix_ids)
        yield indices, {name: tensor.to(base.model.device) for name, tensor in inputs.items()}
