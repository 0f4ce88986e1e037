"""Where an adapter lies: a folder of its own, in that of a run, or on the hub; and what it says about itself."""

from collections.abc import Iterable
from pathlib import Path

from tunewise import files, hub
from tunewise.errors import UserError, missing, no_adapter_yet

OF_A_RUN = "adapter"
"""The adapter's folder in that of a run."""
CARD, PEFT_CONFIG = "tunewise.json", "adapter_config.json"
OBJECTS = {CARD: ("base", "notes"), PEFT_CONFIG: ()}
"""What has to be an object in these, where it is there."""
OF_A_MODEL = ("model", "tokenizer", "vocab")
"""How the files of a repository begin that are of a model or its tokenizer, and no part of the adapter beside them."""


def find_adapter(name: str | Path) -> Path:
    """The folder of an adapter: `name` itself, of the folder of a run the adapter in it, of OWNER/NAME or
    OWNER/NAME@REVISION on the hub what was fetched.

    UserError where there is none, with the reason.
    """
    folder = Path(name)
    if folder.is_dir():
        inner = folder / OF_A_RUN
        if (folder / "recipe.yaml").is_file() and not inner.is_dir():
            raise no_adapter_yet(folder)
        return inner if inner.is_dir() else folder
    if folder.exists():
        raise UserError(f"{folder} is no folder", "give an adapter folder, such as runs/first/adapter")
    if not hub.is_name(str(name)):
        error = missing(folder)
        hint = error.hint if "did you mean" in error.hint else "give an adapter folder, such as runs/first/adapter"
        raise UserError(f"no such folder: {folder}", hint)
    try:
        return _of_the_hub(str(name))
    except hub.Refused as refused:
        told = f"cannot find the adapter {name}: there is no such folder, and {refused.message}"
        raise UserError(told, refused.hint) from refused


def card_of(folder: Path) -> dict:
    """tunewise.json, or the adapter_config.json of peft or AdapterHub's library where there is no other."""
    for name in (CARD, PEFT_CONFIG):
        if (folder / name).is_file():
            card = files.read_json(folder / name)
            if isinstance(card, dict) and all(isinstance(card.get(part, {}), dict) for part in OBJECTS[name]):
                return card
    raise no_adapter(str(folder))


def base_named(card: dict) -> str:
    """The base that an adapter says it belongs to, at the revision that peft noted; "" where it names none."""
    if name := card.get("base", {}).get("name"):
        return name
    name, revision = card.get("base_model_name_or_path") or card.get("model_name") or "", card.get("revision")
    return hub.at_revision(name, revision or "") if name and not Path(name).exists() else name


def refuse_loss(out: str | Path, read: Iterable[str | Path]) -> None:
    """UserError where what is written to `out` would replace what it is made of, or the adapter of a run."""
    place = Path(out)
    if any(place.exists() and Path(each).exists() and place.samefile(each) for each in read):
        raise UserError(f"{place} is what this is made of, and would be lost", "name a new folder")
    if place.name == OF_A_RUN and (place.parent / "recipe.yaml").is_file():
        raise UserError(f"{place} is the adapter of a run, and would be lost", "name a new folder")


def no_adapter(name: str) -> UserError:
    """The error for a place that holds no adapter; to be raised by the caller."""
    return UserError(
        f"{name} is no adapter folder: it has neither {CARD} nor {PEFT_CONFIG}",
        "give the adapter/ folder of a run, or one that peft or AdapterHub's library saved",
    )


def _of_the_hub(name: str) -> Path:
    found = hub.look_up(name)
    if not {CARD, PEFT_CONFIG} & found.files.keys():
        raise no_adapter(name)
    read = [file for file in found.files if "/" not in file and file.endswith((".json", ".safetensors"))]
    return found.fetch([file for file in read if not file.startswith(OF_A_MODEL)])
