"""Where the files of a base lie: those of the embedded one, a folder, or what is fetched of a repository of the hub."""

import os
from collections.abc import Collection
from pathlib import Path
from typing import Literal

from tunewise import hub
from tunewise.errors import UserError, nearest
from tunewise.models.on_disk import INDEX, TOKENIZERS, UNSAFE_WEIGHTS, WEIGHTS, check_weights, pickled, shards_in
from tunewise.models.shapes import is_shape
from tunewise.models.tiny import FOLDER as TINY

Part = Literal["config", "processor", "weights"]
EMBEDDED = {"tiny": TINY}
CONFIG = "config.json"
ADAPTERS = ("adapter_config.json", "tunewise.json")
READ_BESIDE = (".json", ".jinja", ".txt", ".model", ".tiktoken")
"""Ends of the small files of a repository that configurations, tokenizers and processors are read from."""
TEMPLATES = "additional_chat_templates/"
PROCESSOR = "preprocessor_config.json"
START = "start.safetensors"
"""What a base was quantised around lies beside its weights."""


def find_base(name: str, part: Part) -> Path:
    """The folder of the base `name`: "tiny", a folder, OWNER/NAME on the hub, or OWNER/NAME@REVISION.

    Of a repository the `part` is fetched that is asked for: the configuration alone, what tokenizers and processors
    are read from as well, or all that a model is loaded from, in safetensors only. Raises UserError for what is none of
    these, for weights that are a pickle or not whole, and as `hub.look_up` does.
    """
    folder = Path(EMBEDDED.get(name, name))
    if folder.exists():
        if not (folder / CONFIG).is_file():
            raise _no_model(str(folder), {file.name for file in folder.iterdir()} if folder.is_dir() else set())
        if part == "weights":
            check_weights(folder)
        return folder
    if _looks_like_a_path(name):
        raise _no_such_folder(folder)
    try:
        return _of_the_hub(name, part)
    except hub.Refused as refused:
        raise _cannot_load(name, refused) from refused


def _of_the_hub(name: str, part: Part) -> Path:
    found = hub.look_up(name)
    if CONFIG not in found.files:
        raise _no_model(name, found.files)
    if part == "config":
        return found.fetch([CONFIG])
    if found.cached is not None and not found.files.keys() & {*TOKENIZERS, PROCESSOR}:
        told = "no more than its configuration was downloaded before"
        raise hub.Refused(f"{hub.why_not_asked()}; {told}", "try again with a network")
    folder = found.fetch([file for file in found.files if _is_read_beside(file)])
    if part == "weights":
        folder = found.fetch(_weights_of(found, folder))
        check_weights(folder)
    return folder


def _is_read_beside(file: str) -> bool:
    inner = file.removeprefix(TEMPLATES)
    return "/" not in inner and inner.endswith(READ_BESIDE) and file not in ADAPTERS


def _weights_of(found: hub.Repository, folder: Path) -> list[str]:
    """The files of weights that transformers reads, in its order; UserError where there are pickles alone, or none."""
    beside = [START] if START in found.files else []
    if WEIGHTS in found.files:
        return [WEIGHTS, *beside]
    if INDEX in found.files:
        shards = shards_in(folder / INDEX)
        if found.cached is None and (lacking := [file for file in shards if file not in found.files]):
            raise UserError(f"{found.full_name} has no {lacking[0]}, which its {INDEX} names", "take another revision")
        return [*shards, *beside]
    if found.cached is not None:  # where a configuration may have been all that was wanted
        raise hub.Refused(f"{hub.why_not_asked()}; its weights were not downloaded before", "try again with a network")
    if unsafe := [file for file in found.files if file.endswith(UNSAFE_WEIGHTS) and "/" not in file]:
        raise pickled(found.full_name, unsafe[0])
    raise _no_model(found.full_name, found.files, f"{WEIGHTS} and no {INDEX}")


def _no_model(name: str, there: Collection[str], lacking: str = CONFIG) -> UserError:
    if adapter := next((file for file in ADAPTERS if file in there), ""):
        return UserError(
            f"{name} is an adapter ({adapter}), and no base: it has no {lacking}",
            f"give its base as the model, and train it further by adapter={name}",
        )
    what = "no model folder" if Path(name).exists() else "no model"
    gguf = next((file for file in there if file.endswith(".gguf")), "")
    return UserError(
        f"{name} is {what}: it has no {lacking}{f', and {gguf} is not read' if gguf else ''}",
        "give a folder written by save_pretrained(), a hub name such as HuggingFaceTB/SmolLM2-135M, or tiny",
    )


def _looks_like_a_path(name: str) -> bool:
    plain = name.partition("@")[0]
    return plain.startswith((".", "/", "~")) or plain.count("/") > 1 or (os.sep != "/" and os.sep in plain)


def _no_such_folder(folder: Path) -> UserError:
    beside = [path.name for path in folder.parent.iterdir()] if folder.parent.is_dir() else []
    close = nearest(folder.name, beside)
    return UserError(
        f"no model folder {folder}",
        f"did you mean {folder.parent / close}?" if close else "check the path, or use --model tiny",
    )


def _cannot_load(name: str, refused: hub.Refused) -> UserError:
    if is_shape(name):
        return UserError(
            f"{name!r} is a shape without weights, for `tunewise plan`: there is no such folder, and {refused.message}",
            "give the base's folder, or its name on the hub: ORGANISATION/NAME",
        )
    close = nearest(name, EMBEDDED)
    told = f"cannot load {name!r}: there is no such folder, and {refused.message}"
    return UserError(told, f"did you mean {close}?" if close else refused.hint)
