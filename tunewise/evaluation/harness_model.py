"""A base, with whatever is attached to it, as the models of lm-evaluation-harness are asked; our engine answers.

Texts are cut into ids, and too long ones shortened, as the harness does it for models of transformers, so that figures
are comparable. Imported only where the extra `eval` is installed.
"""

import json
import logging
import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from tunewise.data.encode import Ids
from tunewise.engine.backend import chosen
from tunewise.engine.decoding import Decoding, Sampling, decode
from tunewise.engine.scoring import Likelihood, option_likelihoods
from tunewise.errors import UserError
from tunewise.models.load import Base

logger = logging.getLogger(__name__)

MOST_TOKENS = 256
"""Of a generated answer, where its task names no number."""
SAMPLED = ("temperature", "top_p", "top_k")


class HarnessModel(TemplateLM):
    """Answers log-likelihoods, rolling log-likelihoods and generations for `base`, a decoder in evaluation mode."""

    def __init__(self, base: Base, prefix_ids: Sequence[int] = (), *, batch_size: int = 16, packing: bool = True):
        super().__init__()
        assert base.tokenizer is not None
        self.tokenizer = base.tokenizer
        self._base, self._prefix_ids, self._batch_size, self._packing = base, tuple(prefix_ids), batch_size, packing
        self._ids, self._n_cut = Ids(base.tokenizer), 0
        context = base.anatomy.context_length
        self._room = math.inf if context is None else context - len(self._prefix_ids)

    @property
    def tokenizer_name(self) -> str:
        """What the harness tells its caches of requests apart by."""
        return self._base.name

    @property
    def eot_token_id(self) -> int:
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """What stands before an answer to nothing."""
        begin = self.tokenizer.bos_token_id
        return self.eot_token_id if begin is None else begin

    def tok_encode(self, string: str, add_special_tokens: bool | None = None) -> list[int]:
        return self._ids.alone(string) if add_special_tokens is False else self._ids.prompt(string)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[object, list[int], list[int]]], **_: object
    ) -> list[Likelihood]:
        """What follows one context is asked together: the context is read once."""
        of_context: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for number, (_, context, continuation) in enumerate(requests):
            if len(continuation) > self._room:
                raise UserError(
                    f"an answer of {len(continuation)} tokens does not fit the context of {self._base.name}",
                    "leave that task out",
                )
            # the last token of an answer is never read
            of_context[tuple(self._cut(context, self._room + 1 - len(continuation)))].append(number)
        self._tell_cut(len(requests))
        found: list[Likelihood] = [Likelihood(0.0, True)] * len(requests)
        options = [[requests[number][2] for number in numbers] for numbers in of_context.values()]
        with chosen(self._base.model.device):
            likelihoods = option_likelihoods(
                self._base.model, list(of_context), options, pad_id=self.tokenizer.pad_token_id,
                prefix_ids=self._prefix_ids, batch_size=self._batch_size, packing=self._packing,
            )  # fmt: skip
        for numbers, of_row in zip(of_context.values(), likelihoods, strict=True):
            for number, likelihood in zip(numbers, of_row, strict=True):
                found[number] = likelihood
        return found

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[float]:
        """The log-likelihood of whole texts, in windows of the context where they are longer than it."""
        windows: list[tuple[object, list[int], list[int]]] = []
        of_text: list[int] = []
        for number, request in enumerate(requests):
            ids = self.tok_encode(request.args[0])
            longest = len(ids) + 1 if math.isinf(self._room) else int(self._room)
            pairs = get_rolling_token_windows(ids, self.prefix_token_id, max_seq_len=longest, context_len=1)
            windows += [(None, *make_disjoint_window(pair)) for pair in pairs]
            of_text += [number] * (len(windows) - len(of_text))
        sums = [0.0] * len(requests)
        for number, likelihood in zip(of_text, self._loglikelihood_tokens(windows), strict=True):
            sums[number] += likelihood.log_probability
        return sums

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """Requests that are to be answered alike are answered together."""
        alike: dict[str, list[int]] = defaultdict(list)
        for number, request in enumerate(requests):
            alike[json.dumps(request.args[1], sort_keys=True)].append(number)
        answers = [""] * len(requests)
        for how, numbers in alike.items():
            decoding = self._decoding(json.loads(how))
            room = self._room - decoding.max_new_tokens
            if room < 1:
                raise UserError(
                    f"answers of {decoding.max_new_tokens} tokens leave no room in the context of {self._base.name}",
                    "leave that task out, or set max_gen_toks in its yaml file",
                )
            prompts = [self._cut(self.tok_encode(requests[number].args[0]), room) for number in numbers]
            self._tell_cut(len(prompts))
            with chosen(self._base.model.device):
                texts = decode(
                    self._base.model, self.tokenizer, prompts, decoding, prefix_ids=self._prefix_ids,
                    batch_size=self._batch_size, packing=self._packing,
                )  # fmt: skip
            for number, text in zip(numbers, texts, strict=True):
                answers[number] = text
        return answers

    def _cut(self, ids: list[int], room: float) -> list[int]:
        """The last `room` ids; the begin token is lost with the rest, as in the harness."""
        if len(ids) <= room:
            return ids
        self._n_cut += 1
        return ids[-int(room) :]

    def _tell_cut(self, n: int) -> None:
        if self._n_cut:
            logger.warning("%d of %d prompts of the harness lost their beginning: they do not fit", self._n_cut, n)
        self._n_cut = 0

    def _decoding(self, told: dict[str, Any]) -> Decoding:
        told = dict(normalize_gen_kwargs(told, MOST_TOKENS))
        stops = tuple(stop for stop in told.pop("until") if stop)
        n_most, is_drawn = int(told.pop("max_gen_toks")), bool(told.pop("do_sample", False))
        drawn = {name: told.pop(name) for name in SAMPLED if name in told}
        if told:
            raise UserError(f"answers cannot be generated with {', '.join(told)}", "leave that task out")
        return Decoding(n_most, stops, Sampling(**drawn) if is_drawn else None)
