"""How answers are written: the `generation:` section of a recipe."""

from typing import Self

from pydantic import Field, model_validator

from tunewise.config import Strict
from tunewise.engine.decoding import Sampling


class GenerationConfig(Strict):
    """Of tasks whose answers are generated; the fields are named, and mean the same, as in transformers'."""

    do_sample: bool = False
    """Draw tokens at random, by the run's seed; else the most probable one is taken."""
    temperature: float = Field(1.0, gt=0)
    """What logits are divided by."""
    top_k: int | None = Field(None, gt=0)
    """Only so many of the most probable tokens; None takes all."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Of those only the most probable ones that together hold so much."""

    @model_validator(mode="after")
    def _of_effect(self) -> Self:
        given = {name: value for name, value in self.model_dump(exclude_defaults=True).items() if name != "do_sample"}
        if given and not self.do_sample:
            told = ", ".join(f"{name}={value}" for name, value in given.items())
            raise ValueError(f"{told} has no effect without do_sample=true")
        return self

    def sampling(self, seed: int) -> Sampling | None:
        """How tokens are drawn by a run of this seed; None where none are."""
        return Sampling(self.temperature, self.top_p, seed, self.top_k) if self.do_sample else None
