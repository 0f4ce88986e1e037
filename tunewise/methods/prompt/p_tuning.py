"""P-tuning: [encoder(E); X], a soft prompt that an MLP or LSTM writes while training.  Liu et al. 2021,
arXiv:2103.10385, section 2.2.  After training only the prompt that the encoder wrote is kept.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from pydantic import AliasChoices, Field
from torch import Tensor, nn

from tunewise.methods.base import Delta, Method, PeftNames
from tunewise.methods.prompt.prompt_tuning import SoftPrompt
from tunewise.methods.prompt.virtual_tokens import NO_VOCABULARY, prompt_sizes, virtual_ids
from tunewise.models.anatomy import Anatomy


class PromptEncoder(nn.Module):
    """E (virtual_tokens, d) and the network that turns it into the prompt, (virtual_tokens, d)."""

    def __init__(self, virtual_tokens: int, d: int, encoder: str, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(virtual_tokens, d))
        width = d
        self.lstm = None
        if encoder == "lstm":
            self.lstm = nn.LSTM(d, hidden, num_layers=2, bidirectional=True, batch_first=True)
            width = 2 * hidden
        inner = width if encoder == "lstm" else hidden
        layers = [nn.Linear(width, inner), nn.ReLU()]
        layers += [] if encoder == "lstm" else [nn.Linear(inner, inner), nn.ReLU()]
        self.mlp = nn.Sequential(*layers, nn.Linear(inner, d))

    def forward(self) -> Tensor:
        x = self.embedding
        if self.lstm is not None:
            x = self.lstm(x[None])[0][0]
        return self.mlp(x)


class EncodedPrompt(SoftPrompt):
    """A soft prompt that its encoder writes anew for every forward pass, until it is settled."""

    def __init__(self, virtual_tokens: int, vocab_size: int, d: int, encoder: str, hidden: int) -> None:
        super().__init__(virtual_tokens, vocab_size, d)
        del self.prompt
        self.encoder: PromptEncoder | None = PromptEncoder(virtual_tokens, d, encoder, hidden)

    def rows(self) -> Tensor:
        return super().rows() if self.encoder is None else self.encoder()

    def settle(self) -> None:
        if self.encoder is not None:
            written = self.encoder().detach()
            self.encoder = None
            self.prompt = nn.Parameter(written)


class PTuning(Method):
    """A soft prompt of `virtual_tokens` vectors, written by a small network while it is trained."""

    name = "p_tuning"
    family = "additive"
    trains = "virtual tokens through an encoder"
    paper = "arXiv:2103.10385"
    equation = "[encoder(E); X]"
    searched = {"virtual_tokens": (5, 50)}
    learning_rate = 1e-3
    learning_rate_source = "Liu et al. 2021, arXiv:2103.10385, section 4 (1e-5 to 1e-3, with Adam)"
    start = "E standard normal, the encoder as torch begins its layers: Liu et al. 2021, prompt_encoder.py, and peft's"
    not_on = NO_VOCABULARY
    peft = PeftNames(
        "P_TUNING",
        fields={"virtual_tokens": "num_virtual_tokens"},
        tensors={"prompt": "prompt_embeddings"},
        training_only=frozenset(
            {"encoder_reparameterization_type", "encoder_hidden_size", "encoder_num_layers", "encoder_dropout"}
        ),
        bare=True,
    )

    virtual_tokens: int = Field(20, ge=1, validation_alias=AliasChoices("virtual_tokens", "num_virtual_tokens"))
    """Length of the soft prompt. Default: as prompt_tuning's; Liu et al. 2021 have 9 on LAMA (LAMA/cli.py)."""
    encoder: Literal["mlp", "lstm"] = "mlp"
    """Three linear layers, or a two-layer bidirectional LSTM and two linear layers.
    Default: peft's; Liu et al. 2021 have the LSTM (prompt_encoder.py)."""
    hidden: int | None = Field(None, ge=1, validation_alias=AliasChoices("hidden", "encoder_hidden_size"))
    """Width of the encoder; as wide as the base where it is not given.
    Default: Liu et al. 2021, prompt_encoder.py; peft's."""

    def prefix_ids(self, anatomy: Anatomy) -> tuple[int, ...]:
        return virtual_ids(anatomy, self.virtual_tokens)

    def deltas(self, anatomy: Anatomy) -> Mapping[str, Delta]:
        site = anatomy.embedding
        hidden = self.hidden or site.d_out
        return {site.name: EncodedPrompt(self.virtual_tokens, anatomy.vocab_size, site.d_out, self.encoder, hidden)}

    def peft_fields(self, anatomy: Anatomy, targets: Sequence[str]) -> dict[str, object]:
        hidden = self.hidden or anatomy.embedding.d_out
        encoder = {"encoder_reparameterization_type": self.encoder.upper(), "encoder_hidden_size": hidden}
        return {**encoder, **prompt_sizes(anatomy)}

    @classmethod
    def from_peft_fields(
        cls, config: Mapping[str, object], tensors: Mapping[str, Tensor], anatomy: Anatomy
    ) -> dict[str, object]:
        return {
            "encoder": str(config.get("encoder_reparameterization_type", "MLP")).lower(),
            "hidden": config.get("encoder_hidden_size"),
        }
