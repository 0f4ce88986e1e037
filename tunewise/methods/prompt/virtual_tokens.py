"""Virtual tokens: their ids behind the vocabulary, the real tokens they start from, and what peft asks beside them."""

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from tunewise.errors import UserError
from tunewise.methods.base import Start
from tunewise.models.anatomy import Anatomy
from tunewise.models.families import PROJECTS_POSITIONS, READS_IDS, RECURRENT, VISION

NO_VOCABULARY = {
    VISION: "a soft prompt is extra vocabulary, and it reads images",
    **dict.fromkeys(READS_IDS, "its layers look up token ids in tables of their own, which have no virtual tokens"),
}
NO_PREFIX = {
    **NO_VOCABULARY,
    PROJECTS_POSITIONS: "its projection to keys runs over relative positions too, which have no virtual tokens",
    **dict.fromkeys(RECURRENT, "most of its layers have no keys and values, and would read what makes room for them"),
}


def virtual_ids(anatomy: Anatomy, virtual_tokens: int) -> tuple[int, ...]:
    """The ids of virtual tokens: those behind the vocabulary."""
    return tuple(range(anatomy.vocab_size, anatomy.vocab_size + virtual_tokens))


def starting_ids(virtual_tokens: int, text: str, vocab_size: int, tokenizer: PreTrainedTokenizerBase | None) -> Tensor:
    """Ids (virtual_tokens,) of the tokens to start from: those of `text`, repeated or cut, or drawn at random."""
    if not text:
        return torch.randint(vocab_size, (virtual_tokens,))
    if tokenizer is None:
        raise UserError("a start from text needs a tokenizer", hint="attach(..., tokenizer=tokenizer)")
    tokens = tokenizer.encode(text, add_special_tokens=False)
    return torch.tensor((tokens * -(-virtual_tokens // len(tokens)))[:virtual_tokens])


def start_from_tokens(prompt: Tensor, text: str, start: Start) -> None:
    """Set a prompt (virtual_tokens, d) to the embeddings of the tokens of `text`, or of tokens drawn at random."""
    ids = starting_ids(len(prompt), text, start.anatomy.vocab_size, start.tokenizer)
    embed = start.model.get_submodule(start.anatomy.embedding.module)
    prompt.copy_(embed(ids.to(embed.weight.device)))


def prompt_sizes(anatomy: Anatomy) -> dict[str, object]:
    """What peft wants to know of the base beside a soft prompt."""
    return {
        "token_dim": anatomy.embedding.d_out,
        "num_transformer_submodules": 1,
        "num_layers": len(anatomy.stacks[0]),
        "num_attention_heads": anatomy.n_heads,
    }
