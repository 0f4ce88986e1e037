"""Which method acts on which kind of model, and on quantised weights: the contract tests' outcomes (`matrix.json`)."""

from pathlib import Path

from tunewise.files import read_json
from tunewise.methods import METHODS
from tunewise.models.families import KINDS
from tunewise.models.quantise import FORMATS

FILE = Path(__file__).with_name("matrix.json")
COLUMNS = (*KINDS, *FORMATS)
"""Kinds of model, and decoders whose weights are in a format."""


def matrix() -> dict[str, dict[str, dict[str, object]]]:
    """method -> kind of model, or quantised -> {"passed", "failed"} counts of contract cases, or {"refused": why}."""
    content = read_json(FILE)
    assert isinstance(content, dict)
    tested, none = content["methods"], {"passed": 0, "failed": 0}
    return {
        name: {
            kind: {"refused": method.not_on[kind]} if kind in method.not_on else tested.get(name, {}).get(kind, none)
            for kind in COLUMNS
        }
        for name, method in METHODS.items()
    }
