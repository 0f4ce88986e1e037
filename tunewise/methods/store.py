"""Adapter folders: saving, loading, and proving that what was saved works.

tunewise.json               the method, its λ, the base and tokenizer it belongs to, versions
adapter_model.safetensors   its tensors, under peft's names where peft has such an adapter
adapter_config.json         peft's configuration, where it has one: peft loads the folder as it stands
tunewise.safetensors        our tensors, where peft's layout is another and its file stands beside
probe.safetensors           a few rows with the logits of base and tuned model, to check a reload against
manifest.json               size and sha-256 of each file
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tunewise import files
from tunewise.adapter_folders import CARD, PEFT_CONFIG, find_adapter, no_adapter
from tunewise.errors import UserError
from tunewise.methods import adapterhub, parse_method
from tunewise.methods.acting import refuse_a_second
from tunewise.methods.attach import Tuned, attach
from tunewise.methods.base import Method
from tunewise.methods.interop import PeftForm, from_peft, to_peft
from tunewise.models import fingerprint
from tunewise.models.heads import TaskHead, head_of
from tunewise.models.quantise import format_of
from tunewise.versions import versions

FORMAT = 1
PROBE, TENSORS, OWN_TENSORS = "probe.safetensors", "adapter_model.safetensors", "tunewise.safetensors"
PROBED_LOGITS = 256
Probe = Mapping[str, Tensor]
"""What a model's forward takes for one row: input_ids (1, T), or pixel_values, ...; virtual tokens left out."""
Said = tuple[Tensor | None, Tensor | None]
"""What comes of probes (`last_logits` of each) with the method on and off, where that is known."""
# A stranger's file -> the pickle it may have been saved as instead, and how it is saved again.
PICKLES = {
    TENSORS: ("adapter_model.bin", "peft's save_pretrained(safe_serialization=True)"),
    adapterhub.TENSORS: ("pytorch_adapter.bin", "model.save_adapter(folder, name, use_safetensors=True)"),
}


def save_adapter(
    tuned: Tuned,
    folder: str | Path,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    base_name: str = "",
    base_fingerprint: str = "",
    notes: Mapping[str, object] | None = None,
    probe: Sequence[Probe] = (),
    said: Said = (None, None),
) -> None:
    """Write the adapter folder in one step. `probe` holds what a few forwards take, for `check_probe`, and `said` what
    comes of them.

    It is saved at its present λ (of one that is off: at 1): `load_adapter` puts it on so, and peft finds it so or not
    at all. `base_fingerprint` spares reading the base again where it is known, as in `Base.fingerprint`.
    """
    scale = tuned.scale or 1.0
    form = _peft_form(tuned, base_name, scale) or PeftForm({}, {}, {})
    state = {name: tensor.contiguous() for name, tensor in tuned.settled_state().items()}
    if not base_fingerprint:
        with tuned.disabled():
            base_fingerprint = fingerprint.of_model(tuned.model)
    card = {
        "format": FORMAT,
        "method": tuned.method.configuration(),
        "scale": scale,
        "base": {
            "name": base_name,
            "model_type": tuned.anatomy.model_type,
            "fingerprint": base_fingerprint,
            "head": asdict(head_of(tuned.model)),
            "quantise": format_of(tuned.model),
        },
        "tokenizer": None if tokenizer is None else fingerprint.of_tokenizer(tokenizer),
        "chat_template": None if tokenizer is None else fingerprint.of_chat_template(tokenizer),
        "dtype": str(tuned.model.dtype).removeprefix("torch."),
        "n_trainable": tuned.n_trainable,
        "versions": versions(),
        "notes": dict(notes or {}),
    }
    with files.folder(folder) as new:
        files.write_json(new / CARD, card)
        with files.writing(new / (OWN_TENSORS if form.tensors else TENSORS)) as path:
            named = state if form.tensors else {form.keys.get(name, name): tensor for name, tensor in state.items()}
            save_file(named, path, metadata={"format": "pt"})
        if form.tensors:
            with files.writing(new / TENSORS) as path:
                save_file(form.tensors, path, metadata={"format": "pt"})
        if form.config:
            files.write_json(new / PEFT_CONFIG, form.config)
        if probe:
            with files.writing(new / PROBE) as path:
                save_file(_probe(tuned, probe, said), path, metadata={"format": "pt"})


def load_adapter(
    model: PreTrainedModel,
    folder: str | Path,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    base_fingerprint: str = "",
) -> Tuned:
    """Attach the adapter in `folder`, ours or one that peft or AdapterHub's library wrote, to `model`, at its λ; of the
    folder of a run, its adapter; of OWNER/NAME or OWNER/NAME@REVISION, that of the hub.

    `base_fingerprint` spares reading the base again where it is known, as in `Base.fingerprint`. Raises UserError when
    a file is damaged, the adapter belongs to another base or tokenizer, or it does not fit.
    """
    refuse_a_second(model)
    folder, scale = find_adapter(folder), 1.0
    if (folder / CARD).is_file():
        method, state = _read_own(model, folder, tokenizer, base_fingerprint)
        scale = float(read_card(folder).get("scale", 1.0))
    else:
        method, state = read_of_others(model, folder)
    tuned = attach(model, method, warm_start=False)  # the state is what the start would have become
    tuned.settle()
    try:
        tuned.load_state(state)
    except UserError:
        tuned.detach()
        raise
    tuned.scale = scale
    return tuned


def read_of_others(model: PreTrainedModel, folder: Path) -> tuple[Method, dict[str, Tensor]]:
    """Our method and our state for an adapter that peft or AdapterHub's library wrote, on `model`, which may live on
    the `meta` device: then what its weights would tell of the state is left out.

    UserError for a folder without one, and for what has no equal here.
    """
    if not (folder / PEFT_CONFIG).is_file():
        raise no_adapter(str(folder))
    config = files.read_json(folder / PEFT_CONFIG)
    if not isinstance(config, dict):
        raise UserError(f"{folder / PEFT_CONFIG} is no adapter configuration", hint="it must hold a json object")
    if not adapterhub.is_adapterhub(config):
        return from_peft(config, _read_tensors(folder), model)
    tensors, has_head = _read_tensors(folder, adapterhub.TENSORS), (folder / adapterhub.HEAD_TENSORS).is_file()
    head = _read_tensors(folder, adapterhub.HEAD_TENSORS) if has_head else {}
    return adapterhub.from_adapterhub(config, tensors, head, model)


def check_probe(tuned: Tuned, folder: str | Path, base_logits: Tensor | None = None) -> dict[str, float]:
    """The largest absolute differences between the probe saved in `folder` and this model now.

    `tuned` with the method on, `base` with it off (or as it was before it was attached, where those logits are given),
    `effect` between the two as saved: 0 would be an adapter that does nothing.
    """
    path = Path(folder) / PROBE
    if not path.is_file():
        raise UserError(f"{folder} holds no {PROBE}", hint="adapters saved by a run have one; save with probe=[...]")
    saved, probes = load_file(path), saved_probes(folder)
    now = _probe(tuned, probes, (None, base_logits))

    def largest(names: Sequence[tuple[dict[str, Tensor], str, dict[str, Tensor], str]]) -> float:
        return max(float((a[x] - b[y]).abs().max()) for a, x, b, y in names)

    indices = range(len(probes))
    return {
        "tuned": largest([(saved, f"tuned.{i}", now, f"tuned.{i}") for i in indices]),
        "base": largest([(saved, f"base.{i}", now, f"base.{i}") for i in indices]),
        "effect": largest([(saved, f"tuned.{i}", saved, f"base.{i}") for i in indices]),
    }


def saved_probes(folder: str | Path) -> list[Probe]:
    """What the forwards of the probe saved in `folder` take; none where there is no probe."""
    path = Path(folder) / PROBE
    saved = load_file(path) if path.is_file() else {}
    found: dict[int, dict[str, Tensor]] = {}
    for key, tensor in saved.items():
        kind, index, name = (*key.split("."), "")[:3]
        if kind == "input":
            found.setdefault(int(index), {})[name] = tensor
    return [found[index] for index in sorted(found)]


@torch.no_grad()
def last_logits(model: PreTrainedModel, inputs: Probe, prefix_ids: Sequence[int] = ()) -> Tensor:
    """What `model` says of one row behind a prefix: (vocabulary,) of its last token, or (classes,)."""
    entered = {name: tensor.to(model.device) for name, tensor in inputs.items()}
    if prefix_ids:
        ids = entered["input_ids"]
        entered["input_ids"] = torch.cat([ids.new_tensor([list(prefix_ids)]), ids], dim=1)
        if "token_type_ids" in entered:
            entered["token_type_ids"] = functional.pad(entered["token_type_ids"], (len(prefix_ids), 0))
    logits = model(**entered).logits[0]
    return logits if logits.dim() == 1 else logits[-1]


def _peft_form(tuned: Tuned, base_name: str, scale: float) -> PeftForm | None:
    """As `to_peft`, at λ = `scale`; None where no adapter of peft's acts so."""
    if scale == 1.0:
        return to_peft(tuned, base_name)
    method = None if tuned.selected else tuned.method.at_scale(scale)
    if method is None:
        return None
    scaled = copy.copy(tuned)
    scaled.method = method
    return to_peft(scaled, base_name)


def _read_own(
    model: PreTrainedModel, folder: Path, tokenizer: PreTrainedTokenizerBase | None, base_fingerprint: str
) -> tuple[Method, dict[str, Tensor]]:
    card = read_card(folder)
    files.verify(folder)
    base = card["base"]
    here = base_fingerprint or fingerprint.of_model(model)
    if base["fingerprint"] != here:
        name, stored = base["name"] or "THE_BASE_IT_WAS_TRAINED_ON", base.get("quantise")
        raise UserError(
            f"{folder} was made for base {base['name'] or base['model_type']}{f' in {stored}' if stored else ''} "
            f"(fingerprint {base['fingerprint'][:8]}), this one is {here[:8]}",
            hint="load the base it belongs to: "
            + (f"load_base({name!r}, quantise={stored!r})" if stored else f"--model {name}"),
        )
    if tokenizer is not None and card["tokenizer"] not in (None, fingerprint.of_tokenizer(tokenizer)):
        raise UserError(
            f"{folder} was trained with another tokenizer than this one",
            hint="load the tokenizer from the same folder or hub name as the base",
        )
    method = parse_method(card["method"])
    if (folder / OWN_TENSORS).is_file():
        return method, _read_tensors(folder, OWN_TENSORS)
    tensors = _read_tensors(folder)
    if not (folder / PEFT_CONFIG).is_file():
        return method, tensors
    config = files.read_json(folder / PEFT_CONFIG)
    assert isinstance(config, dict)
    return method, from_peft(config, tensors, model)[1]


def read_card(folder: str | Path) -> dict:
    """The content of an adapter's tunewise.json; raises UserError for another format or a file that is none."""
    card = files.read_json(Path(folder) / CARD)
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        raise UserError(
            f"{Path(folder) / CARD} has format {card.get('format') if isinstance(card, dict) else None!r}, "
            f"this version reads {FORMAT}",
            hint="pip install --upgrade tunewise",
        )
    return card


def head_noted(folder: str | Path) -> TaskHead:
    """The head of the base that an adapter of ours was trained on."""
    noted = read_card(folder)["base"]["head"]
    return TaskHead(noted["kind"], tuple(noted["labels"]))


def _read_tensors(folder: Path, name: str = TENSORS) -> dict[str, Tensor]:
    path = folder / name
    if not path.is_file():
        pickle, again = PICKLES[name]
        unsafe = f", and {pickle} is a pickle, which can run code" if (folder / pickle).exists() else ""
        raise UserError(f"{path} is missing{unsafe}", hint=f"save it again with {again}")
    try:
        return load_file(path)
    except Exception as error:  # safetensors raises its own type, which it does not export by a stable name
        raise UserError(f"{path} is damaged: {error}", hint="copy the folder again from its source") from error


@torch.no_grad()
def _probe(tuned: Tuned, probes: Sequence[Probe], said: Said = (None, None)) -> dict[str, Tensor]:
    """Logits of each probe at evenly spaced entries, with the method on and off: as `said`, or asked for now."""
    was_training = tuned.model.training
    tuned.model.eval()
    on, off = said
    if on is None:
        on = [last_logits(tuned.model, inputs, tuned.prefix_ids) for inputs in probes]
    if off is None:
        with tuned.disabled():
            off = [last_logits(tuned.model, inputs) for inputs in probes]
    tuned.model.train(was_training)
    found: dict[str, Tensor] = {}
    for index, inputs in enumerate(probes):
        found |= {f"input.{index}.{name}": tensor.cpu().contiguous() for name, tensor in inputs.items()}
        found |= {f"tuned.{index}": _few_of(on[index]), f"base.{index}": _few_of(off[index])}
    return found


def _few_of(logits: Tensor) -> Tensor:
    return logits[:: max(1, len(logits) // PROBED_LOGITS)].float().cpu().contiguous()
