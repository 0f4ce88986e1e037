"""A field that is one number for all sites, or a mapping with exceptions: `{"*": 8, "v": 16, "layers.0.q": 4}`."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

from tunewise.errors import UserError
from tunewise.models.anatomy import Anatomy, Site

Number = TypeVar("Number", int, float)


def at(site: Site, value: Number | Mapping[str, Number], default: Number) -> Number:
    """The number for one site: that of its name, its role, its layer, of `*`, or the default, whichever comes first."""
    if not isinstance(value, Mapping):
        return value
    return next((value[key] for key in (*_keys(site), "*") if key in value), default)


def check(field: str, value: object, sites: Sequence[Site]) -> None:
    """Raise UserError where a mapping names what is no site, role or layer of these sites."""
    unknown = set(value) - {"*", *(key for site in sites for key in _keys(site))} if isinstance(value, Mapping) else ()
    if unknown:
        raise UserError(
            f"method.{field} names {sorted(unknown)[0]!r}, where this method has no site",
            hint=f"name roles, layers or sites such as {', '.join(_keys(sites[0]))}, or * for all others",
        )


def to_peft_pattern(numbers: Mapping[str, Number], field: str, pattern: str) -> dict[str, object]:
    """A number for each module path as peft's default, that of the first path, with the exceptions to it."""
    default = next(iter(numbers.values()))
    return {field: default, pattern: {path: number for path, number in numbers.items() if number != default}}


def from_peft_pattern(config: Mapping[str, object], field: str, pattern: str, anatomy: Anatomy) -> object:
    """peft's default with its exceptions, whose keys are the ends of module paths; UserError for a real pattern."""
    exceptions = config.get(pattern) or {}
    assert isinstance(exceptions, Mapping)
    found = {"*": config[field]}
    for key, value in exceptions.items():
        if not key.replace(".", "").replace("_", "").isalnum():
            raise UserError(
                f"adapter_config.json sets {pattern} for the pattern {key!r}, and patterns of strangers are not run",
                hint=f"write the keys of {pattern} as module names",
            )
        found |= {site.name: value for site in anatomy.sites if f".{site.path}".endswith(f".{key}")}
    return found if exceptions else config[field]


def _keys(site: Site) -> tuple[str, ...]:
    """What a mapping may call a site, the most exact first."""
    return site.name, site.role, f"layers.{site.layer}"
