"""YAML <-> pydantic: 2e-4 is a number, and an unknown key names the nearest one."""

import copy
import re
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import AliasChoices, BaseModel, ConfigDict, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from yaml.constructor import ConstructorError

from tunewise.elsewhere import hint_for
from tunewise.errors import UserError, nearest, unreadable

M = TypeVar("M", bound=BaseModel)
PARSED = "parsed"
"""In pydantic's context of what `parse` reads: it tells what is wrong itself."""


class Strict(BaseModel):
    """A frozen configuration that refuses unknown keys, NaN and a field given by two of its names."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", populate_by_name=True, loc_by_alias=False, allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _one_name_a_field(cls, data: Any) -> Any:
        """Rename aliases (lora_alpha) to the field's own name (alpha), so that errors and dumps know one name."""
        if not isinstance(data, Mapping):
            return data
        names = {alias: name for name, field in cls.model_fields.items() for alias in _aliases(field)}
        renamed: dict[Any, Any] = {}
        given: dict[Any, Any] = {}
        for key, value in data.items():
            name = names.get(key, key)
            if name in given:
                raise ValueError(f"{given[name]} and {key} are the same field; keep one of them")
            given[name] = key
            renamed[name] = value
        return renamed


# YAML 1.2's core schema, not PyYAML's 1.1: `2e-4` is a float, and `yes`, `no`, `12:30`, `2024-01-01` are the strings
# they look like (labels are often "yes" and "no"). What the dumper writes, the loader reads back.
_PLAIN_SCALARS = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?(?:0|[1-9][0-9_]*)|0x[0-9a-fA-F]+", list("-+0123456789")),
    "float": (
        r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9_]+)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    "merge": (r"<<", ["<"]),
}


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            # PyYAML would let the last one win without a word
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise ConstructorError(None, None, f"the key {key.value!r} is there twice", key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    """Keeps PyYAML's own schema beside ours, so that it quotes every string that either would misread."""


def _quoted(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    # PyYAML folds line breaks other than \n into spaces unless they are escaped; and "{text}\nLabel:" reads best so
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"')


_Dumper.add_representer(str, _quoted)
for _tag, (_pattern, _first_characters) in _PLAIN_SCALARS.items():
    for _side in (_Loader, _Dumper):
        _side.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first_characters)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping a YAML file holds; UserError (with the line) when it is missing, empty, bad YAML or no mapping."""
    try:
        data = yaml.load(Path(path).read_bytes().decode("utf-8-sig"), Loader=_Loader)
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable(path, error) from None
    except yaml.YAMLError as error:
        raise _bad_yaml(str(path), error) from None
    if data is None:
        raise UserError(f"{path} is empty", "write at least one line such as  model: tiny")
    if not isinstance(data, dict):
        raise UserError(f"{path} holds a {type(data).__name__}, not a mapping", "write lines of the form  name: value")
    return data


def dump_yaml(obj: object) -> str:
    """YAML text of a mapping or a pydantic model, keys in their own order; read_yaml gives the same values back."""
    plain = obj.model_dump(mode="json") if isinstance(obj, BaseModel) else obj
    return yaml.dump(plain, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def dotted(values: Mapping[str, Any], under: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted field -> value, of fields in fields; what is empty is a value."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from dotted(value, f"{under}{name}.")
        else:
            yield f"{under}{name}", value


def override(data: dict[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    """A copy of `data` with assignments such as "train.learning_rate=2e-4" carried out; values are read as YAML."""
    result = copy.deepcopy(data)
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        keys = path.strip().split(".")
        if not equals or not all(keys):
            raise UserError(f"cannot read {assignment!r}", "write name=value, for example train.learning_rate=2e-4")
        try:
            value = yaml.load(text, Loader=_Loader)
        except yaml.YAMLError as error:
            raise _bad_yaml(assignment, error) from None
        place = result
        for depth, key in enumerate(keys[:-1], start=1):
            inner = place.setdefault(key, {})
            if not isinstance(inner, dict):
                parent = ".".join(keys[:depth])
                raise UserError(
                    f"cannot set {path}: {parent} is {inner!r}, which has no fields", f"set it as a whole: {parent}=..."
                )
            place = inner
        place[keys[-1]] = value
    return result


def in_one_word(word: str) -> dict[str, Any]:
    """The fields of a method that is written in one word: lora, or lora:rank=4:alpha=8."""
    name, *assignments = parts_of(word.strip(), ":")
    return override({"name": name}, named(word, assignments))


def parts_of(text: str, separator: str) -> list[str]:
    """The text cut where `separator` stands outside of quotes and brackets: lora:roles=[q,v] and data.path="tiny:task"
    are one part each for commas and for colons."""
    parts, depth, quote, before = [""], 0, "", ""
    for character in text:
        if quote:
            quote = "" if character == quote and before != "\\" else quote
        elif character in "\"'" and (not parts[-1] or parts[-1][-1] in "=[{,: '"):  # and no apostrophe
            quote = character
        elif character == separator and not depth:
            parts.append("")
            continue
        else:
            depth = max(0, depth + (character in "[{") - (character in "]}"))
        parts[-1] += character
        before = character
    return parts


def named(word: str, assignments: Sequence[str]) -> Sequence[str]:
    """The assignments that `word` holds between its colons; UserError for one that is none."""
    for part in assignments:
        if "=" not in part:
            raise UserError(
                f"cannot read {part!r} in {word!r}",
                "write name=value behind each colon; a value with a colon or a comma in it stands in quotes, as in "
                """'frozen:data.path="tiny:sentiment"'""",
            )
    return assignments


def parse(model_class: type[M], data: Mapping[str, Any], where: str = "") -> M:
    """A checked instance of `model_class`; one UserError lists every wrong field, its value and the nearest known one.

    `where` is put before the message, for example the file the data came from.
    """
    try:
        return model_class.model_validate(data, context={PARSED: True})
    except ValidationError as error:
        raise in_words(model_class, error, where) from None


def in_words(model_class: type[BaseModel], error: ValidationError, where: str = "") -> UserError:
    """What pydantic found wrong with the fields of a model, with what to type; to be raised by the caller."""
    lines: dict[str, None] = {}
    hints: dict[str, None] = {}
    for detail in _without_other_branches(error.errors(include_url=False)):
        line, hint = _told(model_class, detail)
        lines[line] = None
        if hint:
            hints[hint] = None
    prefix = f"{where}: " if where else ""
    if len(lines) == 1:
        message = prefix + next(iter(lines))
    else:
        message = f"{prefix}{len(lines)} fields are wrong" + "".join(f"\n  {line}" for line in lines)
    return UserError(message, "; ".join(hints) or f"known fields: {', '.join(model_class.model_fields)}")


def _told(model_class: type[BaseModel], detail: ErrorDetails) -> tuple[str, str]:
    """One pydantic error as (what is wrong with which field, hint)."""
    owner, names = _walk(model_class, detail["loc"])
    path = ".".join(names)
    value = _short(detail["input"])
    if detail["type"] == "extra_forbidden":
        known = owner.model_fields if owner else {}
        aliases = {alias: name for name, field in known.items() for alias in _aliases(field)}
        guess = nearest(names[-1], [*known, *aliases])
        parent = "".join(f"{name}." for name in names[:-1])
        line = f"no field named {path} (given {value})"
        if hint := hint_for([names[-1]]):
            return line, hint
        return line, f"did you mean {parent}{aliases.get(guess, guess)}?" if guess else f"known: {', '.join(known)}"
    if detail["type"] == "missing":
        return f"{path} is missing", f"add {path}"
    reason = detail["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return (f"{path} = {value}: {reason}", f"correct {path}") if path else (reason, "")


def _walk(model_class: type[BaseModel], location: tuple[int | str, ...]) -> tuple[type[BaseModel] | None, list[str]]:
    """The model that holds the last element of an error's location, and the location without pydantic's union tags."""
    owner: type[BaseModel] | None = None
    here: Any = model_class
    names: list[str] = []
    for element in location:
        members = _members(here)
        model = next((member for member in members if _is_model(member) and element in _names(member)), None)
        tagged = [member for member in members if len(members) > 1 and element == _tag_of(member)]
        if model is not None:
            owner, here = model, _annotation(model, element)
            names.append(str(element))
        elif tagged:
            here = tagged[0]
        else:
            owner = next((member for member in members if _is_model(member)), None)
            here = next((argument for member in members for argument in get_args(member)[-1:]), Any)
            # union tags of validators ("function-after[...]") are pydantic's business, not the user's
            if not _is_tag((element,)):
                names.append(str(element))
    return owner, names


def _without_other_branches(details: list[ErrorDetails]) -> list[ErrorDetails]:
    """Of `data: DataConfig | str` given a mapping, drop "should be a string": the user meant the mapping."""
    inside = {detail["loc"][:depth] for detail in details for depth in range(len(detail["loc"]) - 1)}
    kept = [
        detail
        for detail in details
        if not (isinstance(detail["input"], dict) and detail["type"].endswith("_type") and detail["loc"][:-1] in inside)
    ]
    kept = kept or details
    meant = {detail["loc"][:-1] for detail in kept if _is_tag(detail["loc"][-1:]) and not _of_type(detail)}
    # a number that is too small was meant to be a number, whatever else may stand there
    return [d for d in kept if not (_is_tag(d["loc"][-1:]) and _of_type(d) and d["loc"][:-1] in meant)]


def _of_type(detail: ErrorDetails) -> bool:
    return detail["type"].endswith("_type")


def _is_tag(last: tuple[int | str, ...]) -> bool:
    """Whether this end of a location is how pydantic calls a member of a union, and no field."""
    return any("[" in str(element) or str(element).startswith("constrained-") for element in last)


def _members(annotation: Any) -> list[Any]:
    """The alternatives of a union, or the annotation alone; Annotated[...] is looked through."""
    if get_origin(annotation) in (Union, types.UnionType):
        return [member for argument in get_args(annotation) for member in _members(argument)]
    return [annotation.__origin__ if get_origin(annotation) is Annotated else annotation]


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _tag_of(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)


def _names(model: type[BaseModel]) -> set[int | str]:
    return {name for field, info in model.model_fields.items() for name in (field, *_aliases(info))}


def _annotation(model: type[BaseModel], name: int | str) -> Any:
    return next(info.annotation for field, info in model.model_fields.items() if name in (field, *_aliases(info)))


def field_named(model_class: type[BaseModel], name: str) -> str | None:
    """The field that goes by this name or alias, or None."""
    return next((own for own, field in model_class.model_fields.items() if name in (own, *_aliases(field))), None)


def _aliases(field: FieldInfo) -> list[str]:
    if isinstance(field.validation_alias, AliasChoices):
        return [choice for choice in field.validation_alias.choices if isinstance(choice, str)]
    return [alias for alias in (field.alias, field.validation_alias) if isinstance(alias, str)]


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 and "\n" not in text else f"{text.splitlines()[0][:77]}..."


def _bad_yaml(where: str, error: yaml.YAMLError) -> UserError:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        line = error.problem_mark.line + 1
        return UserError(f"{where}, line {line}: {error.problem}", f"correct line {line}; YAML indents with spaces")
    return UserError(f"{where}: {error}", "write it as YAML, name: value")
