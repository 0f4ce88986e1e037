"""The recipe of a run, and where its folder lies."""

import json
import re
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, field_serializer, field_validator, model_validator

from tunewise.config import Strict, field_named, in_one_word, override, parse
from tunewise.data.benchmarks import is_benchmark
from tunewise.data.config import DataConfig
from tunewise.data.in_memory import data_fields
from tunewise.data.out_of_domain import OutOfDomainConfig
from tunewise.data.sources import name_of
from tunewise.elsewhere import ELSEWHERE
from tunewise.errors import UserError
from tunewise.evaluation.config import DialConfig, GenerationConfig, RetentionTask
from tunewise.evaluation.evaluate import Asking
from tunewise.evaluation.own_metrics import refuse_in_a_file_of_metrics, spelled
from tunewise.identity import digest_of_arm
from tunewise.methods import METHODS, parse_method
from tunewise.methods.base import Method
from tunewise.methods.selective.frozen import Frozen
from tunewise.models.heads import HeadChoice
from tunewise.training.config import TrainConfig

NO_DATA = "none"
"""Stands for the data of a recipe that has none: of a plan, and of those who are asked freely."""
OF_TINY = (
    RetentionTask.model_validate("tiny:retention"),
    RetentionTask.model_validate({"data": "tiny:sentiment", "shots": 8}),
    RetentionTask.model_validate({"data": "tiny:translation", "shots": 8}),
    RetentionTask.model_validate("tiny:headline"),
)
"""What the embedded base can do without training: entailment and instruction it cannot, so it has nothing to lose."""


class Recipe(Strict):
    """Everything that decides what a run is."""

    model: str = "tiny"
    """`tiny`, a folder, or a name on the hub: OWNER/NAME, or OWNER/NAME@REVISION."""
    dtype: str = "auto"
    """float32, bfloat16, float64; auto measures."""
    head: HeadChoice = "auto"
    """lm answers in words; classifier puts a new head on the base; auto takes words where the base can write."""
    quantise: Literal["", "nf4", "fp4", "int8", "nf4-ends8", "fp4-ends8", "int8-ends8"] = ""
    """Keep the base's linear weights in 4 or 8 bits, through bitsandbytes; with -ends8, embedding and head in int8."""
    data: DataConfig
    """A task; a bare string is its path."""
    out_of_domain: dict[str, OutOfDomainConfig] = Field(default_factory=dict)
    """Test sets from elsewhere, by name: asked as the task's own test rows are, when everything has been chosen."""
    method: Method
    """A method's name, or its name and fields."""
    adapter: str = ""
    """A run or adapter folder, ours or peft's, or one on the hub, that training goes on from, not from a new start."""
    train: TrainConfig = Field(default_factory=TrainConfig)
    seed: int = Field(0, ge=-(2**63), lt=2**63)
    """Initialisation, data order, few-shot sample, demonstrations, tokens that are drawn."""
    generation: GenerationConfig = Field(default_factory=GenerationConfig)
    retention: Literal["auto"] | tuple[RetentionTask, ...] = "auto"
    """What shows what is forgotten: a text file or task, a list of them, or null; auto has some for tiny only."""
    dial: DialConfig = Field(default_factory=DialConfig)

    @model_validator(mode="before")
    @classmethod
    def _inner_fields_have_their_section(cls, data: Any) -> Any:
        """`r=4` or `learning_rate=1e-4` alone, as peft and Trainer name them, or train.seed=1: where they belong."""
        if isinstance(data, Mapping):
            chosen = data.get("method")
            name = chosen.get("name") if isinstance(chosen, Mapping) else chosen
            sections: dict[str, type[BaseModel] | None] = {
                "method": METHODS.get(name) if isinstance(name, str) else None,
                "train": TrainConfig,
            }
            sections["data"], sections["generation"] = DataConfig, GenerationConfig
            lost = [(key, place) for key, value in data.items() for place in _places(sections, "", key, value)]
            for section in sections:
                inner = data.get(section)
                for key, value in inner.items() if isinstance(inner, Mapping) else ():
                    lost += [(f"{section}.{key}", place) for place in _places(sections, section, str(key), value)]
            if lost:
                names = ", ".join(dict.fromkeys(key for key, _ in lost))
                raise UserError(f"no field named {names}", f"write {' '.join(place for _, place in lost)}")
        return data

    @field_validator("model", mode="before")
    @classmethod
    def _by_its_name(cls, value: Any) -> Any:
        """A folder may be a path. Only a run and an evaluation take a base that is loaded, beside the recipe."""
        if isinstance(value, PathLike):
            return str(value)
        if not isinstance(value, str | int | float | list | dict | None):
            raise ValueError("is to be the name of a base, or its folder; a loaded one is taken by train and evaluate")
        return value

    @field_validator("data", mode="before")
    @classmethod
    def _path_alone(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value

    @field_validator("retention", mode="before")
    @classmethod
    def _one_or_none(cls, value: Any) -> Any:
        if value is None:
            return ()
        if str(value).lower() in ("none", "off", "false"):
            raise ValueError("nothing is asked where it is null")
        return (value,) if value != "auto" and isinstance(value, str | Mapping) else value

    @field_validator("out_of_domain", mode="before")
    @classmethod
    def _names_of_files(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        wrong = next((name for name in value if not re.fullmatch(r"[\w.-]+", str(name))), None)
        if wrong is not None:
            raise ValueError(f"{wrong!r} is to be part of a file's name: use letters, digits, - and _")
        return {str(name): {"path": each} if isinstance(each, str) else each for name, each in value.items()}

    @field_validator("method", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return value if isinstance(value, Method) else parse_method(value)

    @field_serializer("method")
    def _configuration(self, method: Method) -> dict[str, object]:
        return method.configuration()

    @property
    def in_context(self) -> Frozen:
        """How questions are asked in context: as a frozen base's method says, and without demonstrations of others."""
        return self.method if isinstance(self.method, Frozen) else Frozen()

    @property
    def asking(self) -> Asking:
        """How the questions of its task are asked."""
        shown = self.in_context
        return Asking(self.train.packing, self.generation.sampling(self.seed), shown.balanced, shown.calibration)

    @property
    def retention_suite(self) -> tuple[RetentionTask, ...]:
        """What is asked of base and tuned model; by itself, of `tiny`: what it can do, less what it is trained on."""
        if self.retention != "auto":
            return self.retention
        writes = self.model == "tiny" and self.head != "classifier"
        trained = [each.path for each in self.data.each.values()]
        return tuple(each for each in OF_TINY if each.data.path not in trained) if writes else ()


def _places(sections: Mapping[str, type[BaseModel] | None], here: str, key: str, value: object) -> list[str]:
    """What to type for a field that has no such name in the section `here`, and has it elsewhere."""
    own = Recipe if not here else sections[here]
    if own is None or field_named(own, key) or (here == "method" and key == "name"):
        return []
    if here and key in Recipe.model_fields:
        return [f"{key}={value}"]
    others = ((name, fields) for name, fields in sections.items() if name != here and fields is not None)
    places = [f"{name}.{field}={value}" for name, fields in others if (field := field_named(fields, key))]
    if places or key in ELSEWHERE:
        return places
    methods = ((name, field_named(method, key)) for name, method in METHODS.items())
    return next(([f"method={name} method.{field}={value}"] for name, field in methods if field), [])


def build_recipe(fields: Mapping[str, Any], overrides: Mapping[str, Any] | None = None) -> Recipe:
    """A checked recipe; short forms (`data: FILE`, `method: NAME`) are opened first, so that overrides reach inside."""
    refuse_in_a_file_of_metrics()
    opened = {name: str(value) if isinstance(value, PathLike) else value for name, value in fields.items()}
    if "data" in opened:
        opened["data"] = data_fields(opened["data"])
    if isinstance(method := opened.get("method"), str | Mapping):
        opened["method"] = in_one_word(method) if isinstance(method, str) else dict(method)
    if isinstance(data := opened.get("data"), dict) and "metrics" in data:
        data["metrics"] = json.loads(json.dumps(data["metrics"], default=spelled))
    assignments = [f"{path}={json.dumps(value, default=spelled)}" for path, value in (overrides or {}).items()]
    return parse(Recipe, override(opened, assignments))


def run_folder(recipe: Recipe, root: str | Path = "runs") -> Path:
    """runs/<task>/<method>-<hash>/seed<k>, where the hash stands for all of the recipe's identity but the seed."""
    path = recipe.data.path
    task = path.replace(":", "-") if path.startswith("tiny:") or is_benchmark(path) else name_of(path)
    digest = digest_of_arm(recipe.model_dump(mode="json"))
    return Path(root) / task / f"{recipe.method.name}-{digest}" / f"seed{recipe.seed}"
