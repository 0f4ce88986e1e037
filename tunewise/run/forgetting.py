"""What a run forgot: its base and its tuned model, asked the same questions of what the base knew before."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tunewise.data.encode import encode_prompt
from tunewise.data.load import load_task
from tunewise.data.task import Task
from tunewise.engine.trunk import Trunk
from tunewise.errors import UserError
from tunewise.evaluation.asks import Asks, How, alone
from tunewise.evaluation.config import RetentionTask
from tunewise.evaluation.evaluate import Asking, asks_of, prepare
from tunewise.evaluation.harness import harness_scores
from tunewise.evaluation.retention import losses_of_texts
from tunewise.evaluation.suite import Look, look_at_harness, look_at_texts, look_of, noise_floor, paired
from tunewise.methods.attach import Tuned
from tunewise.models.families import DECODER
from tunewise.models.load import Base
from tunewise.run.prepare import head_for, key_of
from tunewise.run.recipe import Recipe

RETENTION = "retention.jsonl"
N_QUESTIONS = 50
TEXTS = "language_modelling"
_TASKS: dict[tuple[str | None, ...], Task] = {}  # read once a process
_OF_BASES: dict[tuple[object, ...], tuple[Look, float]] = {}  # what its bases make of them, and how far that is exact
_LENGTHS: dict[tuple[object, ...], int] = {}  # tokens of the longest of some texts


@dataclass(frozen=True)
class Setting:
    """How both models are asked, so that neither sees more of a text than the other."""

    n_prefix: int
    longest: int | None
    packing: bool
    trunk: Trunk | None

    @classmethod
    def of(cls, recipe: Recipe, base: Base, tuned: Tuned, trunk: Trunk | None) -> "Setting":
        """For `tuned`, of which `trunk` is frozen; it is not taken where filling it would cost more than one look."""
        n_prefix, context = len(tuned.prefix_ids), tuned.anatomy.context_length
        if trunk is not None and 2 * trunk.n_layers < base.anatomy.n_layers:
            trunk = None
        return cls(n_prefix, None if context is None else context - n_prefix, recipe.train.packing, trunk)


def check_suite(recipe: Recipe, base: Base) -> None:
    """UserError for a part of the retention suite that this base cannot be asked; nothing is."""
    for asked in recipe.retention_suite:
        if asked.of_harness:
            _of_harness(base, asked, n_items=1)
        else:
            suite_task(asked, recipe, base)


def forgotten(
    recipe: Recipe, base: Base, tuned: Tuned, trunk: Trunk | None, known: Mapping[int, Look]
) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """For metrics.json, and a row for each item; None where the recipe asks for nothing.

    `base`, `tuned` and `change` of the first text loss stand on top, an entry for each task under `suite`. `trunk` is
    what is frozen of the tuned model; `known` are looks of it that there are already, by their places in the suite.
    Raises UserError as `check_suite` does.
    """
    setting = Setting.of(recipe, base, tuned, trunk)
    suite: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    for place, asked in enumerate(recipe.retention_suite):
        task = None if asked.of_harness else suite_task(asked, recipe, base)
        before, floor = _of_base(base, tuned, asked, task, setting)
        after = known.get(place) or before
        if tuned.n_trainable and place not in known:
            after = look(base, asked, task, setting, tuned.prefix_ids)
        suite.append({"task": asked.name, **paired(before, after, floor)})
        rows += [
            {"task": asked.name, "id": item, "base": value, "tuned": after.items[item]}
            for item, value in before.items.items()
        ]
    if not suite:
        return None, []
    losses = [each for each in suite if each["metric"] == "loss"]
    on_top = {name: losses[0][name] for name in ("base", "tuned", "change")} if losses else {}
    return {**on_top, "suite": suite}, rows


def suite_task(asked: RetentionTask, recipe: Recipe, base: Base) -> Task:
    """The task as it was read first; UserError where this base, with this head, has no answer to it."""
    path = asked.data.path
    key = key_of(asked.data, base.tokenizer)
    if key not in _TASKS:
        _TASKS[key] = load_task(asked.data, base.tokenizer)
    task = _TASKS[key]
    if not task.test:
        raise UserError(f"retention={path} has no test rows", "add a test file, or name one file to be split")
    if asked.shots and not task.train:
        raise UserError(f"retention={path} has no training rows to show", "set its shots to 0")
    if task.kind == TEXTS:
        if base.head.kind != "lm" or base.anatomy.kind != DECODER:
            raise UserError(
                f"retention={path} is a loss on text, and {base.name} with this head has none",
                "leave retention out, or name a task that this head answers",
            )
    elif (wanted := head_for(task, base.anatomy.kind, base.name, recipe.head)) != base.head:
        raise UserError(
            f"retention={path} wants the head {wanted.kind} {', '.join(wanted.labels)}".rstrip()
            + f", and {base.name} here has {base.head.kind} {', '.join(base.head.labels)}".rstrip(),
            "name a task with the same labels as the one that is trained on",
        )
    return task


def look(
    base: Base, asked: RetentionTask, task: Task | None, setting: Setting, prefix_ids: tuple[int, ...] = ()
) -> Look:
    """What `base`, with whatever acts on it now, makes of the task; None is one of the harness."""
    if task is None:
        return _of_harness(base, asked, asked.rows or N_QUESTIONS, setting.packing, prefix_ids)
    how = How(prefix_ids, packing=setting.packing, trunk=setting.trunk)
    return alone(base, _look(base, asked, task, setting), how)


def looks_at(recipe: Recipe, base: Base, setting: Setting) -> Asks[dict[int, Look]]:
    """What a model makes of the tasks of the suite, by their places there; those of the harness are left out, which
    asks a model itself."""
    found = {}
    for place, asked in enumerate(recipe.retention_suite):
        if not asked.of_harness:
            found[place] = yield from _look(base, asked, suite_task(asked, recipe, base), setting)
    return found


def _look(base: Base, asked: RetentionTask, task: Task, setting: Setting) -> Asks[Look]:
    n_rows = asked.rows or (None if task.kind == TEXTS else N_QUESTIONS)
    examples = task.test[:n_rows]
    if task.kind == TEXTS:
        documents = [example.text for example in examples]
        found = yield from losses_of_texts(base, documents, setting.longest)
        return look_at_texts([example.id for example in examples], found)
    questions = prepare(base, task, examples, n_prefix=setting.n_prefix, shots=asked.shots)
    return look_of(task, (yield from asks_of(base, questions, Asking(setting.packing))))


def _of_harness(
    base: Base, asked: RetentionTask, n_items: int, packing: bool = True, prefix_ids: tuple[int, ...] = ()
) -> Look:
    """The first items of a task of the harness; `data.folder` holds task files that are known beside its own."""
    found = harness_scores(
        base, [asked.of_harness], prefix_ids=prefix_ids, include_path=asked.data.folder, limit=n_items,
        shots=asked.shots or None, packing=packing,
    )  # fmt: skip
    return look_at_harness(asked.of_harness, found[asked.of_harness])


def _of_base(base: Base, tuned: Tuned, asked: RetentionTask, task: Task | None, setting: Setting) -> tuple[Look, float]:
    """The look of the base, measured once a process, and its noise floor: of losses measured, of answers 0."""
    known = base.fingerprint, base.dtype, str(base.model.device), base.head
    texts = () if task is None else tuple(example.text for example in task.test)
    is_text = task is not None and task.kind == TEXTS
    cut = _cut(base, texts[: asked.rows], setting.longest) if is_text else setting.n_prefix
    key = (*known, cut, setting.packing, asked.model_dump_json(), texts)
    if key not in _OF_BASES:
        with tuned.disabled():
            found = look(base, asked, task, setting)
            floor = 0.0
            if is_text:
                floor = noise_floor(base, texts[: asked.rows], setting.longest, list(found.items.values()))
        _OF_BASES[key] = found, floor
    return _OF_BASES[key]


def _cut(base: Base, texts: tuple[str, ...], longest: int | None) -> int | None:
    """`longest` where it cuts any of these; else None, so that methods which leave unlike room share a look."""
    if longest is None:
        return None
    assert base.tokenizer is not None, "what reads texts has a tokenizer"
    known = base.fingerprint, texts
    if known not in _LENGTHS:
        _LENGTHS[known] = max((len(encode_prompt(text, base.tokenizer)) for text in texts), default=0)
    return longest if _LENGTHS[known] > longest else None
