"""The three ways on for an adapter whose base is quantised, each with what it measurably changes and what it costs.

Nothing can be written into packed weights, where a change would be rounded away. What is left: merge it into the
dequantised weights, which it was trained on; into those of the full-precision base, which differ from them by what
quantisation lost; or serve it attached. All are held against the attached model, on rows of the adapter's task.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from tunewise import files
from tunewise.adapter_folders import refuse_loss
from tunewise.data.encode import Encoded
from tunewise.data.examples import Example
from tunewise.data.task import Task
from tunewise.engine.decoding import Decoding, Sampling, decode
from tunewise.errors import UserError, unknown
from tunewise.evaluation import apart
from tunewise.evaluation.apart import LogitsOf, Sheet, logits_at_labels
from tunewise.evaluation.evaluate import Evaluation
from tunewise.evaluation.own_metrics import called
from tunewise.methods.attach import Tuned
from tunewise.methods.store import load_adapter
from tunewise.models.families import DECODER
from tunewise.models.load import Base
from tunewise.models.weights import bytes_at_rest
from tunewise.run.adapters import Route, merged_by, save_merged
from tunewise.run.measure import asked_of
from tunewise.run.prepare import drawn, head_for, task_of
from tunewise.run.record import ADAPTER, folder_bytes

logger = logging.getLogger(__name__)

ATTACHED, DEQUANTISED, ORIGINAL = ROUTES = ("attached", "dequantised", "original")
N_ROWS = 64
N_TEXTS, N_TOKENS = 16, 64
"""Of what a model writes of itself, where nothing says what its task is."""
NO_CHANGE = {
    "largest_change": 0.0,
    "mean_change": 0.0,
    "kl": 0.0,
    "agreement": 1.0,
    "answers_changed": 0.0,
    "score": None,
}
"""How far the attached model is from itself."""


def weigh_routes(
    base: Base, folder: str | Path, *, data: str | None = None, limit: int = N_ROWS, routes: Sequence[str] = ROUTES
) -> dict[str, Any]:
    """What each of these routes changes beside the adapter in `folder` (its own, or a run's) attached to its quantised
    base, and what it costs; nothing is written.

    Measured on `limit` rows of `data`, or of the adapter's own task, of dev before test; a decoder whose task is not
    to be had is measured on what it writes itself. A route that cannot be taken says why: {"impossible": ...}.
    """
    for route in routes:
        if route not in ROUTES:
            raise unknown("route", route, ROUTES)
    with _attached(base, Path(folder), data, limit) as attached:
        without = attached.without()
        return attached.told(without, {route: attached.weighed(route, without) for route in routes})


def merge_by(
    base: Base, folder: str | Path, route: Route, out: str | Path, *, data: str | None = None, limit: int = N_ROWS
) -> dict[str, Any]:
    """Merge the adapter in `folder` by this route into the model folder `out`; what `weigh_routes` finds of it is
    returned, and stands in its merge.json. Raises UserError where the route cannot be taken, and where `out` is the
    adapter itself."""
    refuse_loss(out, [folder])
    with files.folder(out) as new, _attached(base, Path(folder), data, limit) as attached:
        merged, without = merged_by(base, attached.tuned, route), attached.without()
        found = {ATTACHED: attached.weighed(ATTACHED, without), route: attached.dense(merged)}
        told = {"route": route, **attached.told(without, found)}
        save_merged(merged, base, attached.adapter, new, told)
    return told


@dataclass(frozen=True)
class _Attached:
    """An adapter on its quantised base, what it answers, and the rows by which others are held against it."""

    base: Base
    adapter: Path
    tuned: Tuned
    sheet: Sheet
    answers: Evaluation | None

    def without(self) -> dict[str, Any]:
        """The base without its adapter, which is the scale of the other figures: small beside it is small."""

        def logits(rows: Sequence[Encoded]) -> Tensor:
            with self.tuned.disabled():
                return logits_at_labels(self.base, rows)

        with self.tuned.disabled():
            answers = self.sheet.answers(self.base)
        return {**self._beside(logits, answers), "memory_bytes": bytes_at_rest(self.base.model)}

    def weighed(self, route: str, without: dict[str, Any]) -> dict[str, Any]:
        """The measure of one route."""
        if route == ATTACHED:
            added = sum(tensor.numel() * tensor.element_size() for tensor in self.tuned.state().values())
            costs = {"disk_bytes": folder_bytes(self.adapter), "memory_bytes": bytes_at_rest(self.base.model) + added}
            same = {name: None if without[name] is None else value for name, value in NO_CHANGE.items()}
            return {**without, **same, "metrics": apart.metrics_of(self.answers), **costs}
        try:
            return self.dense(merged_by(self.base, self.tuned, ORIGINAL if route == ORIGINAL else DEQUANTISED))
        except UserError as error:
            return {"impossible": error.message}

    def dense(self, merged: PreTrainedModel) -> dict[str, Any]:
        """The measure of a merged model."""
        other, n_bytes = replace(self.base, model=merged, dtype=merged.dtype, quantise=""), bytes_at_rest(merged)
        found = self._beside(partial(logits_at_labels, other), self.sheet.answers(other))
        return {**found, "disk_bytes": n_bytes, "memory_bytes": n_bytes}

    def told(self, without: dict[str, Any], routes: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """The whole answer."""
        questions = self.sheet.questions
        return {
            "adapter": str(self.adapter),
            "base": self.base.name,
            "quantise": self.base.quantise,
            "measured_on": self.sheet.told,
            "metric": None if questions is None else called(questions.task.metrics[0]),
            "without_adapter": without,
            "routes": routes,
        }

    def _beside(self, logits: LogitsOf, answers: Evaluation | None) -> dict[str, Any]:
        questions = self.sheet.questions
        mine = partial(logits_at_labels, self.base, prefix_ids=self.tuned.prefix_ids)
        return {
            "metrics": apart.metrics_of(answers),
            **asdict(apart.apart(self.sheet.rows, apart.n_classes_of(self.base), mine, logits)),
            "answers_changed": apart.changed_answers(self.answers, answers),
            "score": None if questions is None else apart.score_change(questions.task, self.answers, answers),
        }


@contextmanager
def _attached(base: Base, folder: Path, data: str | None, limit: int) -> Iterator[_Attached]:
    """The adapter on its base inside the block; the base is as it was behind it."""
    if not base.quantise:
        raise UserError(f"{base.name} is not quantised: merged, it acts as attached", "leave out --route and --data")
    adapter = folder / ADAPTER if (folder / ADAPTER).is_dir() else folder
    tuned = load_adapter(base.model, adapter, tokenizer=base.tokenizer)
    try:
        tuned.model.eval()
        sheet = _sheet(base, tuned, folder, data, limit)
        yield _Attached(base, adapter, tuned, sheet, sheet.answers(base, tuned.prefix_ids))
    finally:
        tuned.detach()


def _sheet(base: Base, tuned: Tuned, folder: Path, data: str | None, limit: int) -> Sheet:
    """What is measured on: `data`, else the adapter's own task, else what it writes."""
    try:
        recipe = asked_of(folder, base.name, data, {}).recipe
        task = drawn(task_of(recipe.data, base.tokenizer), recipe)
    except UserError as error:
        if data is not None or base.head.kind != "lm" or base.anatomy.kind != DECODER:
            raise
        logger.info("its own task is not to be had (%s); --data FILE names another", error.message)
        return _own_words(base, tuned)
    wanted = head_for(task, base.anatomy.kind, base.name, recipe.head)
    if wanted != base.head:
        told = f"{task.name} wants the head {wanted.kind} {', '.join(wanted.labels)}".rstrip()
        raise UserError(
            f"{told}, and the adapter has {base.head.kind} {', '.join(base.head.labels)}".rstrip(),
            "give it rows like those it was trained on: --data FILE",
        )
    part, examples = next(((name, rows) for name, rows in _parts(task) if rows), ("", ()))
    few = apart.a_few(task, [examples], limit)
    return apart.sheet_of(
        base, task, few, f"{len(few)} of the {len(examples)} {part} rows of {task.name}",
        n_prefix=len(tuned.prefix_ids), shots=recipe.in_context.shots, seed=recipe.seed, asking=recipe.asking,
    )  # fmt: skip


def _parts(task: Task) -> tuple[tuple[str, Sequence[Example]], ...]:
    return ("dev", task.dev), ("test", task.test), ("train", task.train)


def _own_words(base: Base, tuned: Tuned) -> Sheet:
    """Texts that the attached model draws from itself, as data-free quantisation is done.

    Liu et al. 2023, arXiv:2305.17888, section 2.1.
    """
    assert base.tokenizer is not None
    begin = base.tokenizer.bos_token_id
    first = [[base.tokenizer.eos_token_id if begin is None else begin]] * N_TEXTS
    how = Decoding(N_TOKENS, sampling=Sampling())
    texts = decode(base.model, base.tokenizer, first, how, prefix_ids=tuned.prefix_ids)
    return apart.sheet_of_texts(base, texts, f"{N_TEXTS} texts that it wrote itself, of {N_TOKENS} tokens at most")
