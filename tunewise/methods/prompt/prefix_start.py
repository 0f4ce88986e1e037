"""A prefix starts from the keys and values that the base makes of real tokens.  Li & Liang 2021, section 7.4."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tunewise.methods.base import Start
from tunewise.methods.prompt.prefix_rows import keys_values
from tunewise.methods.prompt.virtual_tokens import starting_ids
from tunewise.models.anatomy import Site
from tunewise.models.families import ENCODER_DECODER


def start_from_keys_values(trained: Mapping[str, Tensor], text: str, start: Start) -> None:
    """Set the learned rows (virtual_tokens, d_out) of each site to what the site makes of the tokens of `text`,
    repeated or cut, or of tokens drawn at random."""
    (virtual_tokens,) = {len(rows) for rows in trained.values()}
    anatomy = start.anatomy
    ids = starting_ids(virtual_tokens, text, anatomy.vocab_size, start.tokenizer)
    entered = {"input_ids": ids[None].to(start.model.device)}
    if anatomy.kind == ENCODER_DECODER:
        entered["decoder_input_ids"] = entered["input_ids"]
    with _recorded(start.model, keys_values(anatomy)) as outputs:
        start.model(**entered)
    for name, rows in trained.items():
        rows.copy_(outputs[name][0].flatten(1))


@contextmanager
def _recorded(model: PreTrainedModel, sites: Sequence[Site]) -> Iterator[dict[str, Tensor]]:
    """The outputs of sites, (batch, length, ...), by name, as the model runs inside the block."""
    outputs: dict[str, Tensor] = {}

    def keep(site: Site) -> torch.utils.hooks.RemovableHandle:
        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            outputs[site.name] = site.read(output)

        return model.get_submodule(site.module).register_forward_hook(hook)

    hooks = [keep(site) for site in sites]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()
