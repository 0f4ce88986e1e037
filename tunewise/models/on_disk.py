"""Model folders that are refused before anything of them is read: weights that are not there, damaged, or a pickle."""

import os
from pathlib import Path

from safetensors import SafetensorError, safe_open

from tunewise import files
from tunewise.errors import UserError

INDEX, WEIGHTS = "model.safetensors.index.json", "model.safetensors"
UNSAFE_WEIGHTS = (".bin", ".pt", ".pth", ".ckpt")
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.json", "vocab.txt")
"""Files of which a folder with a tokenizer has one at least."""


def check_weights(folder: Path) -> None:
    """Refuse a folder without weights, weights that would have to be unpickled, and files that are not whole."""
    names = sorted(os.listdir(folder))
    weights = [name for name in names if name.endswith(".safetensors")]
    if not weights:
        unsafe = [name for name in names if name.endswith(UNSAFE_WEIGHTS)]
        if unsafe:
            raise pickled(str(folder), unsafe[0])
        raise UserError(f"{folder} has no *.safetensors file", hint="copy model.safetensors beside config.json")
    if WEIGHTS not in weights and INDEX in names:  # as transformers chooses
        for name in shards_in(folder / INDEX):
            if not (folder / name).is_file():
                raise UserError(f"{folder} has no {name}, which its {INDEX} names", hint="copy or download it again")
    for name in weights:
        check_whole(folder / name)


def shards_in(index: Path) -> list[str]:
    """The files of tensors that an index names, each once; UserError for one that names none."""
    content = files.read_json(index)
    tensors = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(tensors, dict) or not tensors or not all(isinstance(file, str) for file in tensors.values()):
        raise UserError(
            f'{index} is damaged: it has no "weight_map" of tensors and their files',
            hint="copy or download this file again",
        )
    return list(dict.fromkeys(tensors.values()))


def pickled(name: str, file: str) -> UserError:
    """The error for a base whose weights would have to be unpickled; to be raised by the caller."""
    return UserError(
        f"{name} holds its weights as {file}, a pickle, which can run code when it is read",
        hint="convert it once, where you trust it: AutoModelForCausalLM.from_pretrained(FOLDER)"
        ".save_pretrained(NEW_FOLDER) writes model.safetensors",
    )


def check_whole(path: Path) -> None:
    """Refuse a file of tensors whose header and size do not go together, as after a download that was broken off."""
    try:
        with safe_open(path, framework="pt"):  # reads the header alone
            pass
    except (SafetensorError, OSError) as error:
        is_small = path.is_file() and path.stat().st_size < 1_000  # a link may lead nowhere
        is_pointer = is_small and path.read_bytes().startswith(b"version https://git-lfs")
        raise UserError(
            f"{path} is damaged: {'it is a pointer of Git LFS, not the file' if is_pointer else error}",
            hint="git lfs pull" if is_pointer else "copy or download this file again",
        ) from error


def lacks_tokenizer(folder: Path) -> bool:
    """Whether this is a folder in which none of the files lies that a tokenizer is made from."""
    return folder.is_dir() and not any((folder / name).is_file() for name in TOKENIZERS)


def no_tokenizer(name: str) -> UserError:
    """The error for a base without a tokenizer; to be raised by the caller."""
    return UserError(
        f"{name} has no tokenizer: none of {', '.join(TOKENIZERS)}",
        hint="copy tokenizer.json and tokenizer_config.json there from where the model came from",
    )
