"""Loading a base: a transformers model and its tokenizer, from a folder, a hub name, or the embedded `tiny`."""

import logging
import os
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from tunewise.errors import UserError, nearest
from tunewise.models import fingerprint
from tunewise.models.anatomy import Anatomy, read_anatomy
from tunewise.models.families import DECODER
from tunewise.models.precision import choose_dtype
from tunewise.models.quantise import format_of, keep_layout, loading
from tunewise.models.tiny import FOLDER as TINY

logger = logging.getLogger(__name__)

EMBEDDED = {"tiny": TINY}
UNSAFE_WEIGHTS = (".bin", ".pt", ".pth", ".ckpt")


@dataclass
class Base:
    """A pretrained model, its tokenizer, its anatomy, and what tells it from every other."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    anatomy: Anatomy
    name: str
    fingerprint: str
    dtype: torch.dtype
    quantise: str = ""  # the format its linear weights are in: nf4, fp4, int8, or plain


def load_base(name: str, dtype: str = "auto", device: str = "cpu", quantise: str = "") -> Base:
    """Load the base `name`: "tiny", a folder, or a hub name, in evaluation mode.

    `dtype` is "auto" (bfloat16 where this machine multiplies it natively), "float32", "bfloat16" or "float64".
    `quantise` stores the linear weights as "nf4", "fp4" or "int8"; a checkpoint that is quantised already stays so.
    Weights are read from safetensors only, and no code of the checkpoint is run. Raises UserError for a folder that
    is no model, weights in a pickle format, and a hub name that cannot be reached.
    """
    config = load_config(name)
    source = EMBEDDED.get(name, name)
    if Path(source).exists():
        _check_weights(Path(source))
    where = torch.device(device)
    chosen = choose_dtype(dtype, where)
    storage = loading(config, quantise, chosen, where)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        with _quiet():
            model = AutoModelForCausalLM.from_pretrained(
                source, config=config, dtype=chosen, use_safetensors=True, **storage
            )
    except (OSError, ValueError) as error:
        raise _cannot_load(name, error) from error
    keep_layout(model)
    (model if storage else model.to(where)).eval()
    anatomy = read_anatomy(model)
    if anatomy.kind != DECODER:
        raise UserError(
            f"{name} is a model of the kind {anatomy.kind}; this trains and evaluates decoders",
            hint="attach a method to it in Python and train it with your own loop: docs/methods.md, On which models",
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return Base(model, tokenizer, anatomy, name, fingerprint.of_model(model), model.dtype, format_of(model))


def original(model: PreTrainedModel) -> PreTrainedModel:
    """The full-precision model that `model` was quantised from, read again from where it came from, on the CPU.

    Raises UserError where it came quantised, or cannot be found again.
    """
    source = model.config._name_or_path
    try:
        if not source or model.hf_quantizer.pre_quantized:
            raise OSError("it came quantised")
        with _quiet():
            return type(model).from_pretrained(source, dtype="auto", use_safetensors=True)
    except OSError as error:
        raise UserError(
            f"the weights that {source or 'this base'} was quantised from are not to be had: {error}",
            hint="load the full-precision checkpoint with quantise=nf4",
        ) from error


def load_config(name: str) -> PreTrainedConfig:
    """The configuration of the base `name`, without its weights; errors as in `load_base`."""
    folder = Path(EMBEDDED.get(name, name))
    if not folder.exists():
        if _looks_like_a_path(name):
            raise _no_such_folder(folder)
    elif not (folder / "config.json").is_file():
        raise UserError(
            f"{folder} is no model folder: it has no config.json",
            hint="give a folder written by save_pretrained(), a hub name such as HuggingFaceTB/SmolLM2-135M, or tiny",
        )
    try:
        return AutoConfig.from_pretrained(folder if folder.exists() else name)
    except (OSError, ValueError) as error:
        raise _cannot_load(name, error) from error


def _check_weights(folder: Path) -> None:
    """Refuse a folder without weights, and weights that would have to be unpickled."""
    names = os.listdir(folder)
    if not any(name.endswith(".safetensors") for name in names):
        unsafe = sorted(name for name in names if name.endswith(UNSAFE_WEIGHTS))
        if unsafe:
            raise UserError(
                f"{folder} holds its weights as {unsafe[0]}, a pickle, which can run code when it is read",
                hint="convert it once, where you trust it: AutoModelForCausalLM.from_pretrained(FOLDER)"
                ".save_pretrained(NEW_FOLDER) writes model.safetensors",
            )
        raise UserError(f"{folder} has no *.safetensors file", hint="copy model.safetensors beside config.json")


def _looks_like_a_path(name: str) -> bool:
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or (os.sep != "/" and os.sep in name)


def _no_such_folder(folder: Path) -> UserError:
    beside = [path.name for path in folder.parent.iterdir()] if folder.parent.is_dir() else []
    close = nearest(folder.name, beside)
    return UserError(
        f"no model folder {folder}",
        hint=f"did you mean {folder.parent / close}?" if close else "check the path, or use --model tiny",
    )


def _cannot_load(name: str, error: Exception) -> UserError:
    if Path(name).exists() or name in EMBEDDED:
        reason = str(error).strip().splitlines()[0]
        return UserError(f"cannot load {name}: {reason}", hint="the folder must hold a decoder that transformers knows")
    close = nearest(name, EMBEDDED)
    return UserError(
        f"cannot load {name!r}: there is no such folder, and the hub did not give it",
        hint=f"did you mean {close}?"
        if close
        else "check the name and the network, or give a folder: huggingface-cli download NAME --local-dir FOLDER",
    )


class _quiet:
    """No progress bar of transformers inside: tunewise prints its own line."""

    def __enter__(self) -> None:
        self.was_enabled = transformers.utils.logging.is_progress_bar_enabled()
        transformers.utils.logging.disable_progress_bar()

    def __exit__(self, *_: object) -> None:
        if self.was_enabled:
            transformers.utils.logging.enable_progress_bar()
