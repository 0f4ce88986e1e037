"""What each method would take on a device, for a recipe and its rows, before anything is spent: `tunewise.plan`."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from tunewise.data.in_memory import Data
from tunewise.data.task import Task
from tunewise.engine.trunk_store import caps
from tunewise.errors import UserError
from tunewise.methods import parse_method
from tunewise.methods.base import Method
from tunewise.models.anatomy import context_length
from tunewise.models.families import NOT_IN_16_BITS, VISION, kind_of
from tunewise.models.heads import TaskHead
from tunewise.models.load import load_config, load_tokenizer
from tunewise.models.precision import choose_dtype
from tunewise.models.quantise import format_to_be
from tunewise.planning.alternatives import OTHER_METHODS
from tunewise.planning.base_plan import Plan
from tunewise.planning.devices import Device, device_named
from tunewise.planning.fits import at_length
from tunewise.planning.method_plan import Steps, plan_method
from tunewise.planning.parameters import count_on, defaults_on
from tunewise.planning.rehearsals import Rehearsals
from tunewise.planning.shell import Shell, shell_of
from tunewise.planning.work import Seen, Work
from tunewise.run.class_weights import check_loss
from tunewise.run.measured_step import correction
from tunewise.run.prepare import drawn, head_for, task_of
from tunewise.run.recipe import NO_DATA, Recipe, build_recipe
from tunewise.run.row_lengths import RowLengths, row_lengths

USUAL = ("full", "top_layers", "lora")
"""What is planned where no method is named: all of the base, a part of it, and something added to it."""
ALL = "all"
ASSUMED_ROWS, ASSUMED_TOKENS = 1000, 512


def plan(
    model: str,
    methods: Iterable[str | Mapping[str, object] | Method] = (),
    *,
    data: Data | None = None,
    device: str = "auto",
    quantise: str = "",
    price: float | None = None,
    overrides: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] = lambda told: None,
) -> Plan:
    """What each of the methods would take to train the base `model` on a device; no weights are read.

    `methods` are names, mappings or methods, "all" for every one, and USUAL where none is given. `data` tells how many
    rows there are and how long; without it rows of ASSUMED_TOKENS are. `device` is auto (this machine), cpu, a card of
    `planning.devices`, or memory alone (24GB). `overrides` are dotted fields of a recipe, {"train.batch_size": 4};
    `progress` is told each method before it is planned. UserError for what is none of these, and for a method that
    does not act on the base.
    """
    fields = {"model": model, "data": NO_DATA if data is None else data, "method": USUAL[-1], "quantise": quantise}
    return _plan(build_recipe(fields, overrides), methods, device_named(device), price, progress)


def measured_plan(
    model: str,
    methods: Iterable[str | Mapping[str, object] | Method] = (),
    *,
    data: Data | None = None,
    quantise: str = "",
    price: float | None = None,
    overrides: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] = lambda told: None,
) -> Plan:
    """A plan for this machine, after the worst step of the first method that fits was carried out here a few times:
    memory and time of all methods are corrected by it.

    The rest is as `plan` says. UserError too for a base without weights, and where nothing fits.
    """
    fields = {"model": model, "data": NO_DATA if data is None else data, "method": USUAL[-1], "quantise": quantise}
    return _plan(build_recipe(fields, overrides), methods, device_named(), price, progress, measure=True)


def _plan(
    recipe: Recipe,
    methods: Iterable[str | Mapping[str, object] | Method],
    where: Device,
    price: float | None,
    progress: Callable[[str], None],
    measure: bool = False,
) -> Plan:
    if price is not None and not 0 <= price < math.inf:
        raise UserError(f"a price of {price} an hour is none", "give what an hour costs: --price 2.5")
    has_data = recipe.data.path != NO_DATA
    shell, lengths = _shell_and_rows(recipe) if has_data else (_shell(recipe), None)
    steps = _steps(recipe, shell, where, lengths)
    shell.model.to(steps.worst.dtype)  # in which trained tensors of the base are saved
    asked = _asked(methods, shell)
    known, found, refused = Rehearsals(shell, where), [], {}
    others = OTHER_METHODS if len(asked) == 1 else ()  # of several that are asked for, each has a line of its own
    if measure:
        progress("a measured step")
        by_label = {label: method for label, (method, _) in asked.items()}
        known = known.corrected(correction(recipe, known, steps.worst, by_label))
    for label, (method, is_named) in asked.items():
        progress(f"{label}, {len(found) + len(refused) + 1} of {len(asked)}")
        try:
            found.append(plan_method(known, label, method, steps, others))
        except UserError as error:
            if is_named:
                raise
            refused[label] = error.message
    return Plan(
        model=recipe.model,
        n_base=shell.n_parameters,
        n_active=shell.n_active,
        device=where,
        steps=steps,
        n_rows=ASSUMED_ROWS if lengths is None else recipe.train.n_drawn(lengths.n_rows),
        told=_told(recipe, shell, steps.worst, lengths),
        price=price,
        methods=tuple(found),
        refused=refused,
        correction=known.correction,
    )


def _shell(recipe: Recipe) -> Shell:
    """Of a base that nothing is known of but its name; a classifier tells two classes."""
    return shell_of(recipe.model, TaskHead("classes", ("0", "1")) if recipe.head == "classifier" else None)


def _shell_and_task(recipe: Recipe) -> tuple[Shell, Task, PreTrainedTokenizerBase | None]:
    """The shell with the head that the data wants, the data, and the base's tokenizer."""
    kind = kind_of(load_config(recipe.model))
    tokenizer = None if kind == VISION else _tokenizer(recipe.model)
    task = drawn(task_of(recipe.data, tokenizer), recipe)
    check_loss(recipe, task)
    return shell_of(recipe.model, head_for(task, kind, recipe.model, recipe.head)), task, tokenizer


def _shell_and_rows(recipe: Recipe) -> tuple[Shell, RowLengths]:
    """The shell with the head that the data wants, and its rows as this base would read them."""
    shell, task, tokenizer = _shell_and_task(recipe)
    longest = min(recipe.train.max_length, context_length(shell.config) or recipe.train.max_length)
    return shell, row_lengths(task, tokenizer, shell.kind, shell.head, longest)


def _tokenizer(model: str) -> PreTrainedTokenizerBase | None:
    """The base's own; None where it is not here, as of a shape that is known by its numbers alone."""
    try:
        return load_tokenizer(model)
    except UserError:
        return None


def _steps(recipe: Recipe, shell: Shell, device: Device, lengths: RowLengths | None) -> Steps:
    """Those of the recipe, on rows of these lengths or of ASSUMED_TOKENS."""
    train = recipe.train
    is_known = recipe.dtype != "auto" or device.is_here
    in_16_bits = shell.config.model_type not in NOT_IN_16_BITS
    if is_known or not in_16_bits:
        dtype = choose_dtype(recipe.dtype, torch.device(device.type), in_16_bits)
    else:
        dtype = device.dtype
    longest = min(ASSUMED_TOKENS, train.max_length, context_length(shell.config) or ASSUMED_TOKENS)
    longest = longest if lengths is None else lengths.longest
    if lengths is not None:
        labels, of_rows = lengths.most_labels, (lengths.mean, lengths.mean_labels, lengths.n_rows)
    else:
        labels = longest if shell.head.kind in ("lm", "tags") else 1
        of_rows = longest, labels, ASSUMED_ROWS
    work = Work(
        rows=train.batch_size,
        tokens=longest,
        labels=labels,
        dtype=dtype,
        quantise=format_to_be(shell.config, recipe.quantise),
        checkpointing=train.checkpointing,
        optimiser=train.optimiser,
        label_smoothing=train.label_smoothing,
        decays=train.weight_decay > 0,
        keeps_best=train.evaluate_every is not None,
        seen=_seen(recipe, *of_rows),
    )
    mean = work if lengths is None else at_length(work, max(1, round(lengths.mean)))
    return Steps(work, mean, train.accumulation)


def _seen(recipe: Recipe, tokens: float, labels: float, n_rows: int) -> Seen | None:
    """All rows, of so many tokens and labels on average; None where `train.trunk` keeps nothing of them."""
    if recipe.train.trunk == "live":
        return None
    passes = recipe.train.n_drawn(n_rows) / n_rows
    return Seen(n_rows, round(n_rows * tokens), round(n_rows * labels), passes, recipe.train.trunk, *caps())


def _asked(methods: Iterable[str | Mapping[str, object] | Method], shell: Shell) -> dict[str, tuple[Method, bool]]:
    """Label -> method, and whether it was named: those that `all` stands for may not act on this base."""
    found: dict[str, tuple[Method, bool]] = {}
    chosen = list(methods)
    for each in chosen or USUAL:
        if each == ALL:
            found |= {method.name: (method, False) for method in defaults_on(shell)}
            continue
        method = each if isinstance(each, Method) else parse_method(each)
        found[label_of(method)] = method, bool(chosen)
    return found


def every_method(recipe: Recipe) -> tuple[list[Method], dict[str, str]]:
    """Every method that acts on the base of this recipe, with the head that its data want, at its defaults; and of each
    other why it does not. A new head that is not trained answers by chance, so that `frozen` is none of them there.
    """
    shell, *_ = _shell_and_task(recipe)
    is_new = shell.head.kind != "lm"
    found, refused = [], {}
    for method in defaults_on(shell):
        try:
            trains = count_on(shell, method).n_trainable > 0
        except UserError as error:
            refused[method.name] = error.message
            continue
        if trains or not is_new:
            found.append(method)
    return found, refused


def label_of(method: Method) -> str:
    """The method's name, and the fields that are not at their defaults: lora rank=64."""
    said = method.model_dump(mode="json", exclude_defaults=True)
    return " ".join([method.name, *(f"{name}={_short(value)}" for name, value in said.items())])


def _short(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value).lower() if value is True else str(value)


def _told(recipe: Recipe, shell: Shell, work: Work, lengths: RowLengths | None) -> str:
    """What is counted with: precision, batch, rows, and whose time it is."""
    base = str(work.dtype).removeprefix("torch.") + (f" in {work.quantise}" if work.quantise else "")
    times = f" × {recipe.train.accumulation}" if recipe.train.accumulation > 1 else ""
    batch = f"batches of {work.rows}{times}" + (", checkpointing" if work.checkpointing else "")
    if lengths is None:
        of_images = shell.kind == VISION
        rows = "images" if of_images else f"rows of {work.tokens} tokens"
        rows += " with a label at each" if work.labels == work.tokens > 1 else ""
        return f"{base}; {batch}, assuming {rows}; time is for {ASSUMED_ROWS:,} of them"
    n_drawn = recipe.train.n_drawn(lengths.n_rows)
    return f"{base}; {batch}; {lengths.told}; time is for {n_drawn / lengths.n_rows:g} epochs of them"
