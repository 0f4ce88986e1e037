"""The fields of a request: those that are understood, those that change nothing, and those that are refused."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tunewise.engine.decoding import Sampling
from tunewise.errors import nearest
from tunewise.serve.refusal import Refusal

IGNORED = ("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key")
"""They are about the service, and change no answer."""
MOST_CHOICES, MOST_STOPS, MOST_PROMPTS, MOST_BEST = 128, 16, 256, 20
Stop = Annotated[str, Field(min_length=1)]
Prompt = str | list[int]


class _Fields(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)


class StreamOptions(_Fields):
    """What a stream holds beside its pieces."""

    include_usage: bool = False
    include_obfuscation: bool = False
    """Padding of the pieces, which nobody on the way shall tell by their length. There is none."""


class Request(_Fields):
    """What both kinds of requests have. A field that is null is left out."""

    NEUTRAL: ClassVar[Mapping[str, tuple[object, ...]]] = {
        "frequency_penalty": (0,),
        "presence_penalty": (0,),
        "logit_bias": ({},),
    }
    """Fields that are not supported, and the values at which they would change nothing."""

    model: str
    temperature: float | None = Field(None, ge=0)
    """0 takes the most probable token; left out, tokens are chosen as in the run."""
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=1)
    seed: int | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=MOST_STOPS)] = Field(default_factory=list)
    n: int = Field(1, ge=1, le=MOST_CHOICES)
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()

    @model_validator(mode="before")
    @classmethod
    def _without_what_changes_nothing(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        _refuse_half_characters(data)
        given = {name: value for name, value in data.items() if value is not None and name not in IGNORED}
        for name, value in [*given.items()]:
            if name not in cls.model_fields:
                neutral = cls.NEUTRAL.get(name)
                if neutral is None:
                    guess = nearest(name, cls.model_fields)
                    raise Refusal(
                        f"unknown field {name!r}" + (f"; did you mean {guess!r}?" if guess else ""),
                        param=name, code="unknown_parameter",
                    )  # fmt: skip
                if not any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in neutral):
                    raise Refusal(f"{name} is not supported; leave it out", param=name, code="unsupported_parameter")
                del given[name]
        return given

    @property
    def n_answers(self) -> int:
        """How many are to come."""
        return self.n

    @property
    def weighs_prompts(self) -> bool:
        """Whether it is told how probable the tokens of its prompts are."""
        return False

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    def sampling(self, own: Sampling | None, drawn: int) -> Sampling | None:
        """How tokens are drawn: as the run does it (`own`), but for what is said; by the seed that was `drawn` if none
        is said. None takes the most probable one."""
        if self.temperature == 0:
            return None
        said = {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}
        given: dict[str, Any] = {name: value for name, value in said.items() if value is not None}
        if own is None and given in ({}, {"top_p": 1.0}):
            return None
        if self.seed is not None or given:
            given["seed"] = drawn if self.seed is None else self.seed
        return replace(own or Sampling(), **given)


def _refuse_half_characters(data: object) -> None:
    """JSON can hold half of a pair of surrogates (\\ud800), which is no text: no tokenizer reads it."""
    try:
        json.dumps(data, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise Refusal(f"the body holds {half!r}, half of a character of UTF-16 without the other half") from None
    except RecursionError:
        raise Refusal("the body is nested too deeply") from None


def _is_ids(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(type(one) is int and one >= 0 for one in value)


class Chat(Request):
    """The body of /v1/chat/completions."""

    NEUTRAL: ClassVar[Mapping[str, tuple[object, ...]]] = {
        **Request.NEUTRAL,
        "tools": ([],),
        "tool_choice": ("none", "auto"),
        "parallel_tool_calls": (True, False),
        "functions": ([],),
        "response_format": ({"type": "text"},),
        "modalities": (["text"],),
    }

    messages: list[dict[str, Any]] = Field(min_length=1)
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=MOST_BEST)
    max_completion_tokens: int | None = Field(None, ge=1)
    max_tokens: int | None = Field(None, ge=1)
    """The same, by its former name."""

    @property
    def longest(self) -> int | None:
        """Tokens that an answer has at most."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def n_best(self) -> int | None:
        """Of how many of the most probable tokens it is told what they had; None where it is told of none."""
        return self.top_logprobs if self.logprobs else None


class Completion(Request):
    """The body of /v1/completions."""

    NEUTRAL: ClassVar[Mapping[str, tuple[object, ...]]] = {**Request.NEUTRAL, "suffix": ("",), "best_of": (1,)}

    prompt: list[Prompt]
    """Texts, or the ids of their tokens; a single one may stand there alone."""
    max_tokens: int | None = Field(None, ge=0)
    logprobs: int | None = Field(None, ge=0, le=MOST_BEST)
    echo: bool = False
    """Whether the prompt is told before its answer."""

    @field_validator("prompt", mode="before")
    @classmethod
    def _of_one_kind(cls, value: Any) -> Any:
        each = value if isinstance(value, list) and any(isinstance(one, str | list) for one in value) else [value]
        if not all(isinstance(one, str) for one in each) and not all(map(_is_ids, each)):
            told = "a prompt is a text or a list of token ids (whole numbers), and several are a list of either kind"
            raise Refusal(f"prompt: {told}", param="prompt")
        if len(each) > MOST_PROMPTS:
            raise Refusal(f"prompt: {len(each)} of them are more than {MOST_PROMPTS}", param="prompt")
        return each

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        if self.max_tokens == 0 and not self.echo:
            raise Refusal("max_tokens: 0 are answered with nothing but the prompt, by echo", param="max_tokens")
        return self

    @property
    def n_best(self) -> int | None:
        return self.logprobs

    @property
    def n_answers(self) -> int:
        return self.n * len(self.prompt)

    @property
    def weighs_prompts(self) -> bool:
        return self.echo and self.logprobs is not None

    @property
    def longest(self) -> int | None:
        return self.max_tokens
