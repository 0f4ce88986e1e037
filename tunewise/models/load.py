"""Loading a base: a transformers model and its tokenizer (for images, its processor), from a folder, a hub name, or
the embedded `tiny`.
"""

import copy
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakSet

import torch
import transformers
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoTokenizer,
    ImageProcessingMixin,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from tunewise import files
from tunewise.errors import UserError
from tunewise.garbage import collect_as_usual
from tunewise.models import fingerprint, plain
from tunewise.models.anatomy import Anatomy, modules_on_top, read_anatomy
from tunewise.models.device import choose_device
from tunewise.models.families import NOT_IN_16_BITS, VISION, kind_of
from tunewise.models.found import find_base
from tunewise.models.heads import TaskHead, draw_head, head_of, is_told_by
from tunewise.models.integer_checkpoints import IntegerConfig
from tunewise.models.integer_formats import WRITERS
from tunewise.models.on_disk import lacks_tokenizer, no_tokenizer
from tunewise.models.precision import choose_dtype
from tunewise.models.quantise import (
    finish_loading,
    format_of,
    format_of_checkpoint,
    in_one_precision,
    is_plain,
    loading,
)
from tunewise.models.weights import bytes_at_rest

logger = logging.getLogger(__name__)

QUANTISATION = "quantisation.json"
"""Beside a checkpoint that was quantised here: from what, and what it lost."""
UNLIMITED = 10**9
"""Tokenizers that know no limit say 1e30."""
_LOADED: "WeakSet[PreTrainedModel]" = WeakSet()  # bases of this process that somebody still holds


@dataclass
class Base:
    """A pretrained model, its tokenizer, its anatomy, and what tells it from every other."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    """None for a base that reads images."""
    anatomy: Anatomy
    name: str
    fingerprint: str
    dtype: torch.dtype
    head: TaskHead = field(default_factory=TaskHead)
    new_parameters: tuple[str, ...] = ()
    """Parameters of a classifier that the checkpoint does not hold, and that no training has seen."""
    image_processor: ImageProcessingMixin | None = None
    """Images -> pixel values, for a base that reads images."""
    quantise: str = ""
    """The format its linear weights are in: nf4, fp4, int8, gptq, awq, ..., or plain."""

    def save_processor(self, folder: Path, chat_template: str = "") -> None:
        """Write what turns texts or images into what the model takes beside a model of this base.

        Its tokenizer has this `chat_template`, if one is given, or its own.
        """
        processor = self.image_processor if self.tokenizer is None else self.tokenizer
        if chat_template and self.tokenizer is not None:
            own = self.tokenizer.chat_template
            if chat_template not in (own, own.get("default") if isinstance(own, dict) else own):
                processor = copy.copy(self.tokenizer)
                processor.chat_template = chat_template
        assert processor is not None, self.name
        processor.save_pretrained(folder)

    @property
    def longest(self) -> int | None:
        """Tokens that a sequence may have at most, where the base or its tokenizer says so."""
        told = [] if self.tokenizer is None else [self.tokenizer.model_max_length]
        told += [] if self.anatomy.context_length is None else [self.anatomy.context_length]
        return min((n for n in told if n < UNLIMITED), default=None)


def load_base(
    name: str, dtype: str = "auto", device: str = "", head: TaskHead | None = None, quantise: str = ""
) -> Base:
    """Load the base `name`: "tiny", a folder, or a hub name, in evaluation mode.

    `dtype` is "auto" (bfloat16 where `device` multiplies it natively), "float32", "bfloat16" or "float64"; `device` is
    "cpu", "cuda" or "cuda:1", and where none is given what TUNEWISE_DEVICE says, else a GPU, else the CPU.
    `head` is the base's own language-model head, or a classifier: new, or as the checkpoint holds one with these
    labels. `quantise` stores the linear weights as "nf4", "fp4" or "int8", and with "-ends8" behind it embedding and
    head in int8; a checkpoint that is quantised already stays so. Weights are read from safetensors only, and no code
    of the checkpoint is run. Raises UserError for a folder that is no model, weights in a pickle format, a hub name
    that cannot be reached, a head that it cannot have, and a device that is not there.
    """
    collect_as_usual()
    head, where = head or TaskHead(), choose_device(device)
    config = load_config(name)
    kind = kind_of(config)
    auto_class = head.auto_class(kind, name, config)
    folder = find_base(name, "weights")
    tokenizer = None if kind == VISION else _tokenizer_in(folder, name, head)
    same_size, same_labels = config.num_labels == max(1, len(head.labels)), is_told_by(head, config)
    head.configure(config)
    chosen = choose_dtype(dtype, where, config.model_type not in NOT_IN_16_BITS)
    if tokenizer is not None and config.pad_token_id is None:
        config.pad_token_id = tokenizer.pad_token_id  # a decoder's classifier reads the last token before padding
    options = {"config": config, "dtype": chosen, "ignore_mismatched_sizes": head.kind != "lm" and not same_size}
    kept = _head_modules(auto_class, config) if quantise and head.kind != "lm" else ()
    model, absent = _read(folder, auto_class, options, quantise, where, kept)
    if model.dtype == torch.float64 and model.config._attn_implementation == "eager":
        logger.warning(
            "%s in float64: padded rows come out as NaN, as transformers takes the softmax of attention in float32, "
            "where a float64 mask is infinite; dtype=float32 has no such trouble",
            name,
        )
    _LOADED.add(model)
    anatomy = read_anatomy(model)
    new_parameters = tuple(name for name in anatomy.task_head if name in absent or not same_labels)
    draw_head(model, new_parameters, seed=0)
    if odd := sorted(absent - {*new_parameters, *_tied(model)}):
        logger.warning("%s lacks %d parameters, which stay as they were drawn: %s", name, len(odd), ", ".join(odd[:3]))
    processor = _image_processor_in(folder, name) if kind == VISION else None
    return Base(
        model,
        tokenizer,
        anatomy,
        name,
        fingerprint.of_model(model),
        model.dtype,
        head,
        new_parameters,
        image_processor=processor,
        quantise=format_of(model),
    )


def bytes_beside(model: PreTrainedModel) -> int:
    """Of the other bases that this process holds on the device of `model`: no cost of a run on it."""
    return sum(bytes_at_rest(other) for other in _LOADED if other is not model and other.device == model.device)


def _read(
    folder: Path, auto_class: Any, options: dict[str, Any], quantise: str, where: torch.device, kept: Sequence[str]
) -> tuple[PreTrainedModel, set[str]]:
    """The model on the device, in the format wanted but for the modules `kept`, in evaluation mode; what it lacks."""
    config = options["config"]
    storage = loading(config, quantise, options["dtype"], where, kept)
    if format_of_checkpoint(config) in WRITERS:
        packing = IntegerConfig(config.quantization_config)
        del config.quantization_config  # by which transformers would ask for the library that wrote it
        model, absent = _read_model(folder, auto_class, {**options, "quantization_config": packing})
    elif is_plain(config, quantise):
        model, absent = _read_plain(folder, auto_class, options, kept)
    else:
        model, absent = _read_model(folder, auto_class, {**options, **storage})
        if storage and format_of_checkpoint(config):
            in_one_precision(model, options["dtype"])
    finish_loading(model, quantise)
    if options["dtype"] is torch.float64 and model._can_set_experts_implementation():
        model.set_experts_implementation("eager")  # one expert after another: torch's grouped product knows no float64
    return (model if storage else model.to(where)).eval(), absent


def _read_model(folder: Path, auto_class: Any, options: dict[str, Any]) -> tuple[PreTrainedModel, set[str]]:
    """The model, and the names of parameters that its checkpoint lacks or has in another size, drawn from one seed."""
    try:
        with quiet(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model, loaded = auto_class.from_pretrained(
                None if "state_dict" in options else folder,
                use_safetensors=True,
                output_loading_info=True,
                trust_remote_code=False,
                **options,
            )
    except (OSError, ValueError) as error:
        raise _cannot_load(str(folder), error) from error
    return model, {*loaded["missing_keys"], *(key for key, *_ in loaded["mismatched_keys"])}


def _read_plain(
    folder: Path, auto_class: Any, options: dict[str, Any], kept: Sequence[str]
) -> tuple[PreTrainedModel, set[str]]:
    """The same in NF4 where bitsandbytes is not installed; what is packed already is read as it is."""
    config = options["config"]
    if not format_of_checkpoint(config):
        model, absent = _read_model(folder, auto_class, options)
        plain.pack_layers(model, kept)
        return model, absent
    tensors, codes = plain.read(folder)
    told = config.quantization_config
    del config.quantization_config
    with torch.device("meta"):
        model_class = type(auto_class.from_config(config))  # which, unlike auto_class, takes tensors
    model, absent = _read_model(folder, model_class, {**options, "state_dict": tensors})
    plain.put_in(model, codes)
    model.config.quantization_config, model.config._name_or_path = told, str(folder)
    return model, absent - {f"{path}.weight" for path in codes}


def _head_modules(auto_class: Any, config: PreTrainedConfig) -> tuple[str, ...]:
    """The modules of a classifier on top: transformers would pack one that has a bias, which then could not be
    trained, and fail on one that the checkpoint does not hold."""
    with torch.device("meta"):
        model = auto_class.from_config(config)
    return modules_on_top(model)


def load_tokenizer(name: str, head: TaskHead | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of the base `name`, with a padding token; for a tagger, one that knows where words begin."""
    return _tokenizer_in(find_base(name, "processor"), name, head)


def _tokenizer_in(folder: Path, name: str, head: TaskHead | None) -> PreTrainedTokenizerBase:
    words = {"add_prefix_space": True} if head is not None and head.kind == "tags" else {}
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, **words)
    except (OSError, ValueError) as error:
        raise (no_tokenizer(name) if lacks_tokenizer(folder) else _cannot_load(name, error)) from error
    if tokenizer is None:
        raise no_tokenizer(name)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _image_processor_in(folder: Path, name: str) -> ImageProcessingMixin:
    try:
        return AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)
    except ImportError as error:
        raise UserError(f"{name} reads images, which needs pillow", hint="pip install 'tunewise[vision]'") from error
    except (OSError, ValueError) as error:
        raise UserError(
            f"{name} has no preprocessor_config.json, which says how its images are made",
            hint="copy the file from where the model came from",
        ) from error


def _tied(model: PreTrainedModel) -> set[str]:
    """Names of parameters that are another one under a second name."""
    own = {name for name, _ in model.named_parameters()}
    return {name for name, _ in model.named_parameters(remove_duplicate=False)} - own


def original(model: PreTrainedModel) -> PreTrainedModel:
    """The full-precision model that `model` was quantised from, read again from where it came from, on the CPU.

    Raises UserError where it came quantised by somebody else, or cannot be found again.
    """
    source = model.config._name_or_path
    try:
        source = _dense_source(model)
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        head_of(model).configure(config)
        config.pad_token_id = model.config.pad_token_id
        with quiet():
            return type(model).from_pretrained(
                source, config=config, dtype="auto", use_safetensors=True, ignore_mismatched_sizes=True
            )
    except OSError as error:
        raise UserError(
            f"the weights that {source or 'this base'} was quantised from are not to be had: {error}",
            hint="load the full-precision checkpoint with quantise=nf4",
        ) from error


def _dense_source(model: PreTrainedModel) -> str:
    """Where a quantised model's full-precision weights lie: where it was loaded from, or what a checkpoint of
    `tunewise quantize` says that it was made from."""
    source = model.config._name_or_path
    if source and not format_of_checkpoint(AutoConfig.from_pretrained(source, trust_remote_code=False)):
        return source
    report = Path(source) / QUANTISATION
    told = files.read_json(report) if source and report.is_file() else None
    if not isinstance(told, dict) or "model" not in told:
        raise OSError("it came quantised")
    return str(find_base(told["model"], "weights"))


def load_config(name: str) -> PreTrainedConfig:
    """The configuration of the base `name`, without its weights; errors as in `load_base`."""
    try:
        return AutoConfig.from_pretrained(find_base(name, "config"), trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise _cannot_load(name, error) from error


def _cannot_load(name: str, error: Exception) -> UserError:
    if "trust_remote_code" in str(error):
        return UserError(
            f"{name} is a model of its own code (auto_map in its config.json), and no code of a checkpoint is run here",
            "take a checkpoint of an architecture that transformers knows: docs/models.md",
        )
    reason = str(error).strip().splitlines()[0]
    return UserError(f"cannot load {name}: {reason}", hint="the folder must hold a model that transformers knows")


class quiet:
    """No progress bar and no report of transformers inside: tunewise prints its own lines."""

    def __enter__(self) -> None:
        self.was_enabled = transformers.utils.logging.is_progress_bar_enabled()
        self.verbosity = transformers.utils.logging.get_verbosity()
        transformers.utils.logging.disable_progress_bar()
        transformers.utils.logging.set_verbosity_error()

    def __exit__(self, *_: object) -> None:
        transformers.utils.logging.set_verbosity(self.verbosity)
        if self.was_enabled:
            transformers.utils.logging.enable_progress_bar()
