"""Prompt tuning: [P; X], learned vectors P before the embedded input X.  Lester et al. 2021, arXiv:2104.08691, sec. 2.

A soft prompt is extra vocabulary: virtual token j has the id `vocab_size + j`, and the delta on the embedding turns
those ids into the rows of P. Whoever builds a sequence begins it with `Tuned.prefix_ids`; positions, masks, caches
and generation then need nothing special.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from pydantic import AliasChoices, Field, model_validator
from torch import Tensor, nn

from tunewise.methods.base import Delta, Method, PeftNames, Start
from tunewise.methods.prompt.virtual_positions import in_place_of
from tunewise.methods.prompt.virtual_tokens import NO_VOCABULARY, prompt_sizes, start_from_tokens, virtual_ids
from tunewise.models.anatomy import Anatomy

TRAINING_ONLY = frozenset({"prompt_tuning_init", "prompt_tuning_init_text", "prompt_tuning_init_state_dict_path"})


class SoftPrompt(Delta):
    """P (virtual_tokens, d) on the embedding; x holds token ids."""

    def __init__(self, virtual_tokens: int, vocab_size: int, d: int) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        # Lester et al., section 3.2: random starts are drawn from this range
        self.prompt = nn.Parameter(torch.empty(virtual_tokens, d).uniform_(-0.5, 0.5))

    def before(self, x: Tensor) -> Tensor:
        return torch.where(x >= self.vocab_size, 0, x)

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        return in_place_of(y, self.rows(), x - self.vocab_size)

    def rows(self) -> Tensor:
        """P as it is now."""
        return self.prompt


class PromptTuning(Method):
    """`virtual_tokens` learned vectors before every sequence; the base itself does not change."""

    name = "prompt_tuning"
    family = "additive"
    trains = "virtual tokens before the input"
    paper = "arXiv:2104.08691"
    equation = "[P; X]"
    searched = {"virtual_tokens": (5, 50)}
    rate_factors = (1, 1 / 4, 1 / 16, 4, 1 / 64, 1 / 2, 1 / 8, 16)  # downwards: its rate is that of Adafactor
    learning_rate = 3e-1
    learning_rate_source = "Lester et al. 2021, arXiv:2104.08691, section 3 and the authors' prompt_finetune.gin (0.3)"
    start = (
        "embeddings of tokens drawn at random: Lester et al. 2021, section 3.2, there from the 5,000 commonest; unlike "
        "peft, which draws noise"
    )
    not_on = NO_VOCABULARY

    peft = PeftNames(
        "PROMPT_TUNING",
        fields={"virtual_tokens": "num_virtual_tokens"},
        tensors={"prompt": "prompt_embeddings"},
        training_only=TRAINING_ONLY,
        bare=True,
    )

    virtual_tokens: int = Field(20, ge=1, validation_alias=AliasChoices("virtual_tokens", "num_virtual_tokens"))
    """Length of the soft prompt. Default: Lester et al. 2021, section 3.2, beyond which little is gained."""
    init: Literal["vocabulary", "text", "random"] = "vocabulary"
    """Start from embeddings of tokens drawn at random, from those of `text`, or uniform in ±0.5.
    Default: Lester et al. 2021, figure 3b, where random starts lag behind; unlike peft."""
    text: str = Field("", validation_alias=AliasChoices("text", "prompt_tuning_init_text"))
    """The text to start from, repeated or cut to `virtual_tokens` tokens."""

    @model_validator(mode="after")
    def _text_where_it_is_used(self) -> "PromptTuning":
        if (self.init == "text") != bool(self.text):
            raise ValueError("init='text' and a non-empty text belong together")
        return self

    def prefix_ids(self, anatomy: Anatomy) -> tuple[int, ...]:
        return virtual_ids(anatomy, self.virtual_tokens)

    def peft_fields(self, anatomy: Anatomy, targets: Sequence[str]) -> dict[str, object]:
        # how peft would start; the trained prompt replaces it
        return {"prompt_tuning_init": "RANDOM", **prompt_sizes(anatomy)}

    @classmethod
    def from_peft_fields(
        cls, config: Mapping[str, object], tensors: Mapping[str, Tensor], anatomy: Anatomy
    ) -> dict[str, object]:
        return {"init": "random"}

    def deltas(self, anatomy: Anatomy) -> Mapping[str, Delta]:
        site = anatomy.embedding
        return {site.name: SoftPrompt(self.virtual_tokens, anatomy.vocab_size, site.d_out)}

    @torch.no_grad()
    def warm_start(self, start: Start, deltas: Mapping[str, Delta]) -> None:
        if self.init == "random":
            return
        (delta,) = deltas.values()
        start_from_tokens(delta.prompt, self.text, start)
