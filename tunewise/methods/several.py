"""Several adapters of one base by name, of which one acts at a time, or none; switching copies nothing large."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tunewise.errors import UserError, unknown
from tunewise.methods.attach import Tuned, attach
from tunewise.methods.base import Method
from tunewise.methods.store import load_adapter


class Adapters:
    """What a base has learnt to be, by name. `active` is the one that acts, None while the base is itself."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None = None) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.active: str | None = None
        self._tuned: dict[str, Tuned] = {}
        self._scales: dict[str, float] = {}  # λ of those that do not act now

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._tuned)

    def add(self, name: str, adapter: Method | str | Path, *, seed: int = 0) -> Tuned:
        """Put a new method, or the adapter in a folder (ours or peft's), under `name`, and let it act.

        Raises UserError for a name that is taken, and as `attach` and `load_adapter` do; the active one stays then.
        """
        if name in self._tuned:
            raise UserError(f"there is an adapter named {name!r} already", hint=f"adapters.remove({name!r}) first")
        before = self.active
        self.use(None)
        try:
            if isinstance(adapter, Method):
                tuned = attach(self.model, adapter, tokenizer=self.tokenizer, seed=seed)
            else:
                tuned = load_adapter(self.model, adapter, tokenizer=self.tokenizer)
        except UserError:
            self.use(before)
            raise
        self._tuned[name], self.active = tuned, name
        return tuned

    def use(self, name: str | None) -> Tuned | None:
        """Let the adapter of that name act instead, at the λ it had, or none; UserError where there is no such name."""
        if name is not None and name not in self._tuned:
            raise unknown("adapter", name, self._tuned)
        if name != self.active:
            if self.active is not None:
                self._scales[self.active] = self._tuned[self.active].scale
                self._tuned[self.active].detach()
            self.active = name
            if name is not None:
                self._tuned[name].reattach().scale = self._scales[name]
        return None if name is None else self._tuned[name]

    @contextmanager
    def using(self, name: str | None) -> Iterator[Tuned | None]:
        """The adapter of that name inside the block, the one before it behind it."""
        before = self.active
        try:
            yield self.use(name)
        finally:
            self.use(before)

    def remove(self, name: str) -> None:
        """Forget an adapter; the base is itself if it was the active one."""
        if name not in self._tuned:
            raise unknown("adapter", name, self._tuned)
        if name == self.active:
            self.use(None)
        del self._tuned[name]
