"""Carrying a recipe out into a folder. Train and evaluate meet here, and nowhere else.

    recipe.yaml env.json ledger.json log.jsonl adapter/ predictions.jsonl metrics.json DONE

DONE is written last. A finished run is not carried out again; an unfinished one goes on from its checkpoint; one that
another process is at is left alone.
"""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from tunewise import files
from tunewise.config import dump_yaml
from tunewise.data.encode import Encoded, end_ids
from tunewise.data.examples import Example, Ledger
from tunewise.data.in_memory import Data
from tunewise.data.out_of_domain import load_out_of_domain
from tunewise.data.streamed import witnesses_of
from tunewise.data.task import Task
from tunewise.engine.criterion import CrossEntropy, minimising
from tunewise.engine.from_trunk import Route, route_for
from tunewise.engine.fused import held
from tunewise.engine.objectives import Objective, objective_for
from tunewise.engine.sources import Sources
from tunewise.errors import UserError
from tunewise.evaluation.asks import Asks
from tunewise.evaluation.evaluate import Evaluation, prepare, probes_of
from tunewise.evaluation.out_of_domain import by_its_labels
from tunewise.evaluation.serving import cost_of_a_query
from tunewise.methods.selective.frozen import Frozen
from tunewise.models.fingerprint import checksums
from tunewise.models.heads import draw_head
from tunewise.models.load import Base
from tunewise.run import record
from tunewise.run.answers import Answers, AtTheEnd
from tunewise.run.begun import begun
from tunewise.run.class_weights import check_loss, weighed
from tunewise.run.dial import DIAL, measure_dial
from tunewise.run.ended import done, there_already
from tunewise.run.examined import refuse_unfit
from tunewise.run.forgetting import RETENTION, check_suite, forgotten
from tunewise.run.going_on import going_on
from tunewise.run.kept import ASKED, kept, shown
from tunewise.run.longest_batch import longest_batch_fits
from tunewise.run.memory import OfAllSeeds
from tunewise.run.planned import planned
from tunewise.run.prepare import drawn, fields_of, load_for
from tunewise.run.recipe import Recipe, build_recipe, run_folder
from tunewise.run.reloads import add_reload_proof
from tunewise.run.saving import Saving
from tunewise.run.training_rows import tell, tell_limit, training_rows
from tunewise.training import reload
from tunewise.training.lane import FitResult, Training
from tunewise.training.loop import fit_alone
from tunewise.training.memory import Peak
from tunewise.training.progress import Watcher
from tunewise.training.proofs import Proof, at_most, check_labels, check_rows, check_tuned, untouched
from tunewise.training.rules import check_optimiser
from tunewise.training.tensorboard import TensorBoard, check_report_to
from tunewise.training.weighing import ALIKE

logger = logging.getLogger(__name__)

N_PROBES, N_LOOKED_AT, LEAST = 2, 32, 40
"""The shortest of the first test rows are what proofs ask, six times a run; one of fewer characters tells little."""


def run(
    recipe: Recipe,
    out: str | Path,
    *,
    base: Base | None = None,
    progress: Watcher | None = None,
    prove: bool = True,
) -> dict[str, Any]:
    """Carry `recipe` out into the folder `out`; the content of its metrics.json.

    `base` is reused where given, and is as it was afterwards. Without `prove` the reload in a fresh process is left
    to the caller (`add_reload_proof`), who may want one process for many runs. What was recognised in the data is
    told through `logging`. Raises UserError for bad input, Held where another process carries the same run out, and
    Interrupted with a checkpoint left behind.
    """
    start = time.perf_counter()
    out = Path(out)
    digest = record.digest_of(recipe)
    finished = record.finished(recipe, out, digest)
    if finished is not None and not record.base_is_newer(recipe, out):
        return there_already(out, recipe, finished)
    check_optimiser(recipe.train)
    check_report_to(recipe.train)
    if prove and finished is None and not isinstance(recipe.method, Frozen):  # which leaves nothing to reload
        reload.FRESH.import_meanwhile()
    base, task = load_for(recipe.data, recipe.model, recipe.dtype, recipe.head, recipe.quantise, base)
    if finished is not None:
        record.refuse_another_base(out, base)
        return there_already(out, recipe, finished)
    memory = OfAllSeeds(recipe, base)
    peak = Peak(base.model.device, anew=not memory.is_measured)
    with record.alone(out):
        carried = Run(recipe, out, base, drawn(task, recipe), measures_memory=not memory.is_measured)
        try:
            metrics = memory.told(carried.carry_out(digest, progress, peak))
        finally:
            carried.tuned.detach()
        start -= metrics["seconds"]
        metrics["seconds"] = round(time.perf_counter() - start, 3)
        if prove:
            files.write_json(out / record.METRICS, metrics)
            metrics = add_reload_proof([out], base)[0]
            metrics["seconds"] = round(time.perf_counter() - start, 3)
        done(out, recipe, metrics)
    return metrics


def train(
    data: Data,
    *,
    model: str | Base | None = None,
    method: str | Mapping[str, Any] | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    progress: Watcher | None = None,
    ignore_findings: bool = False,
) -> dict[str, Any]:
    """`tunewise train`: one run, into `out` or runs/<task>/<method>-<hash>/seed<k>; its metrics and its folder.

    `model` is a name, or what `load_base` returned, which is reused; it and `method` are `tiny` and `lora` where
    nothing is said, or those of the adapter that the run goes on from. `overrides` holds dotted fields,
    {"train.learning_rate": 2e-4, "data.train": 500}. UserError where the data doctor finds errors, unless they are to
    be ignored.
    """
    fields, base = ({}, None) if model is None else fields_of(model)
    said = {**fields, "data": data, "seed": seed, "adapter": (overrides or {}).get("adapter", "")}
    said |= {} if method is None else {"method": method}
    recipe = build_recipe({"model": "tiny", "method": "lora", **going_on(said)}, overrides)
    folder = run_folder(recipe) if out is None else Path(out)
    if not (ignore_findings or record.is_done(folder)):
        refuse_unfit([recipe])
    return {"folder": str(folder), **run(recipe, folder, base=base, progress=progress)}


class Run:
    """One run while it is carried out."""

    def __init__(self, recipe: Recipe, out: Path, base: Base, task: Task, *, measures_memory: bool = True) -> None:
        _tell(task.ledger)
        if not task.test:
            raise UserError(
                f"{task.name} has no test rows", "add a test file to its folder, or name one file to be split"
            )
        check_loss(recipe, task)
        self.recipe, self.out, self.base, self.task = recipe, out, base, task
        self.model, self.tokenizer = base.model, base.tokenizer
        sets = recipe.out_of_domain.items()
        self.elsewhere = [load_out_of_domain(name, each, task, base.tokenizer) for name, each in sets]
        for each in self.elsewhere:
            _tell(each.ledger)
        self.spent = record.Spent()
        with self.spent.on("proofs"):
            self.untouched = untouched(self.model, probes_of(base, prepare(base, task, _short(task.test))))
        self.tuned = begun(recipe, base, self._losses)
        self.objective = objective_for(base, self.tuned.prefix_ids, packing=recipe.train.packing)  # of evaluations
        self.route = Route(self.objective, None, "nothing is trained")
        self._begin_the_head()
        self.answers = Answers(recipe, base, task, self.tuned, self.elsewhere, self.spent)
        self.rows: Sequence[Encoded] = []
        self.sources = Sources({})
        self.mixture: list[dict[str, Any]] = []
        self.class_weights: dict[str, float] = {}
        self.weighing = ALIKE
        self.proofs: dict[str, Proof] = {}
        self.measures_memory = measures_memory
        self.saving = Saving(recipe, base, task, self.tuned, out)
        self.tensorboard = TensorBoard(out) if recipe.train.report_to else None

    def _begin_the_head(self) -> None:
        """Draw a classifier that no training has seen from this run's seed; every method but frozen trains it."""
        new = [name for name in self.base.new_parameters if name in self.tuned.selected]
        if self.recipe.adapter:
            return  # which has one
        draw_head(self.model, new, self.recipe.seed)
        if self.base.new_parameters and not new:
            logger.warning("%s has a new classifier, which nothing trains: it answers at random", self.base.name)

    def _losses(self) -> Iterator[Tensor]:
        """The base's mean loss on one training example after another, for methods that look before they start."""
        objective = minimising(objective_for(self.base), CrossEntropy(self.recipe.train.label_smoothing))
        found = training_rows(self.base, replace(self.task, replayed=()), self._max_length(0))
        for batch in (objective.collate([row]) for row in found.in_turn(self.recipe.seed)):
            if batch.n_labels:
                yield objective.loss(self.model, batch.to(self.model.device)) / batch.n_labels

    def carry_out(self, digest: str, progress: Watcher | None, peak: Peak) -> dict[str, Any]:
        """Everything from the first file to the in-process proofs."""
        with held(self.model):
            self.begin(digest)
            return self.finish(fit_alone(self.training(progress)) if self.rows else None, peak)

    def begin(self, digest: str, *, beside_others: bool = False) -> None:
        """The first files, and the proofs before training, which is alone or `beside_others` in one batch."""
        record.refuse_changed(self.recipe, self.out, digest, self.base)
        self.tuned.model.eval()
        check_suite(self.recipe, self.base)
        self.answers.begin()
        self.proofs |= self._no_leak()
        ledger = Ledger()
        if self.tuned.n_trainable:
            longest = self._max_length()
            found = training_rows(self.base, self.task, longest)
            self.rows, self.sources, ledger = found.rows, found.sources, found.ledger
            self.mixture = found.table(self.recipe.train, self.recipe.seed)
            tell(ledger, self.mixture)
            tell_limit(self.base, self.recipe.train, longest, len(self.tuned.prefix_ids), ledger)
            asked, head = self.recipe.train.class_weights, self.base.head.kind
            self.class_weights, self.weighing = weighed(asked, self.task, head, found)
            self.proofs |= self._check(found.answered)
        files.write_text(self.out / record.RECIPE, dump_yaml(self.recipe))
        files.write_json(self.out / record.ENVIRONMENT, record.environment(self.base, digest))
        files.write_json(self.out / record.LEDGER, self._accounts(ledger))
        if not self.tuned.n_trainable:  # an adapter holds the same
            demonstrations = shown(self.task, self.recipe.in_context, self.recipe.seed)
            files.write_json(self.out / ASKED, {**kept(self.task, self.tokenizer), "demonstrations": demonstrations})
        if self.rows:
            criterion = CrossEntropy(self.recipe.train.label_smoothing, self.weighing.classes)
            objective = minimising(self.objective, criterion)
            self.route = Route(objective, None, "it shares its batches") if beside_others else self._route(objective)
            self.answers.trunk = self.route.trunk
            with self.spent.on("proofs"):
                config, objective = self.recipe.train, self.route.objective
                self.proofs |= longest_batch_fits(self.base, self.tuned, self.rows, config, objective)
                self.proofs |= self.saving.succeeds()

    def finish(self, result: FitResult | None, peak: Peak, found: AtTheEnd | None = None) -> dict[str, Any]:
        """The adapter, the evaluations, and the in-process proofs: the content of metrics.json. Asks what is not
        `found` yet.

        `seconds` are those of the training before a resume; who called adds those of this process.
        """
        proofs, rows = self.proofs, self.rows
        said: Tensor | None = None
        if rows:
            proofs["the_template_is_saved"], said = self.saving.save(self.untouched)
        before_training = peak.bytes() if result is None else max(peak.bytes(), result.peak_bytes)
        if found is None:
            found = self.answers.alone(self.answers.at_the_end(result))
        test, dev, out_of_domain = found.test, found.dev, self._out_of_domain(found.elsewhere)
        with self.spent.on("retention"):
            retention, items = forgotten(self.recipe, self.base, self.tuned, self.route.trunk, found.looks)
        dial = self._dial()
        others = self.route.kept_for_others(self.model)
        peak_bytes = max(before_training, peak.bytes()) - others
        left_out: dict[str, str] = {}
        if rows:
            with self.spent.on("proofs"):
                after, left_out = check_tuned(self.tuned, self.untouched, said)
            proofs |= after
        else:
            proofs["base_unchanged"] = at_most(int(checksums(self.model) != self.untouched.sums), 0)
        with self.spent.on("planning"):
            foretold = planned(self.base, self.tuned, self.recipe, rows, self.sources, result, self.route.told())
        files.write_jsonl(self.out / record.PREDICTIONS, test.predictions)
        if items:
            files.write_jsonl(self.out / RETENTION, items)
        adapter = self.out / record.ADAPTER
        return {
            "task": self.task.name,
            "method": self.recipe.method.name,
            "seed": self.recipe.seed,
            "test": test.metrics,
            "n_test": len(test.predictions),
            "dev": None if dev is None else dev.metrics,
            "out_of_domain": out_of_domain,
            "n_out_of_domain": {each.name: len(each.task.test) for each in self.elsewhere},
            "retention": retention,
            **foretold,
            "dial": dial,
            "n_trainable": self.tuned.n_trainable,
            "adapter_bytes": record.folder_bytes(adapter) if rows else 0,
            "seconds": 0.0 if result is None else result.seconds_before,
            "peak_bytes": peak_bytes,
            "peak_measure": peak.measure,
            **record.costs(result, others),
            **cost_of_a_query(test, self.recipe.method.virtual_positions(self.base.anatomy)),
            "spent": self.spent.told(),
            "layout": self.objective.layout,
            "why_padded": self.objective.why_padded,
            "trunk": self.route.told(),
            "n_dropped_demonstrations": test.n_dropped,
            "n_truncated_prompts": test.n_truncated,
            "proofs": proofs,
            "proofs_left_out": left_out,
        }

    def _dial(self) -> dict[str, Any] | None:
        """The chosen λ with what was measured there; all of them go into dial.json. None where none was asked for."""
        if not (self.recipe.dial.points and self.rows):
            return None
        with self.spent.on("dial"):
            found = measure_dial(self.base, self.tuned, self.recipe, self.task)
        files.write_json(self.out / DIAL, found)
        return next(point for point in found["points"] if point["scale"] == found["knee"])

    def _accounts(self, trained: Ledger) -> dict[str, Any]:
        """For ledger.json: every row of every file, and which ones `data.few_shot` drew."""
        found: dict[str, Any] = {"data": asdict(self.task.ledger), "train": asdict(trained)}
        if self.recipe.data.few_shot is not None:
            found["few_shot"] = [example.id for example in self.task.train]
        if self.class_weights:
            found["class_weights"] = self.class_weights
        if self.mixture:
            found["mixture"] = self.mixture
        if self.elsewhere:
            found["out_of_domain"] = {each.name: asdict(each.ledger) for each in self.elsewhere}
        return found

    def _out_of_domain(self, answered: Mapping[str, Evaluation]) -> dict[str, dict[str, float]]:
        """The metrics of each set from elsewhere, as its own labels tell them."""
        found = {}
        for each in self.elsewhere:
            told = by_its_labels(answered[each.name], each)
            files.write_jsonl(self.out / record.predictions_of(each.name), told.predictions)
            found[each.name] = told.metrics
        return found

    def _check(self, rows: Sequence[Encoded]) -> dict[str, Proof]:
        if self.tokenizer is None or self.base.head.kind != "lm":
            return check_labels(rows)
        replayed = (example for each in self.task.replayed for example in each.examples)
        return check_rows(rows, self.tokenizer, end_ids([*witnesses_of(self.task.train), *replayed], self.tokenizer))

    def training(self, progress: Watcher | None) -> Training:
        """What is to be trained."""
        dev_score = self.dev_score if self.task.dev else None
        config, seed, objective = self.recipe.train, self.recipe.seed, self.route.objective
        return Training(
            self.tuned, self.rows, config, seed, self.out, objective, dev_score, progress, sources=self.sources,
            weighing=self.weighing, told=None if self.tensorboard is None else self.tensorboard.line,
            measures_memory=self.measures_memory,
        )  # fmt: skip

    def _route(self, objective: Objective[Any]) -> Route:
        config = self.recipe.train
        n_drawn = config.n_drawn(self.sources.n)
        size, passes = config.batch_size, n_drawn / len(self.rows)
        return route_for(self.tuned, objective, self.rows, config.trunk, group_size=size, passes=passes)

    def dev_score(self) -> float:
        """How good the present state is on dev, higher being better."""
        return self.answers.alone(self.answers.dev_score())

    def dev_loss(self) -> Asks[float]:
        """Nats per label token of the dev rows, as the present state has it."""
        return self.answers.dev_loss(self.objective, self._max_length())

    def _max_length(self, n_prefix: int | None = None) -> int:
        n_prefix = len(self.tuned.prefix_ids) if n_prefix is None else n_prefix
        context = self.base.anatomy.context_length if self.base.head.kind == "lm" else self.base.longest
        longest = self.recipe.train.max_length
        return longest if context is None else min(longest, context - n_prefix)

    def _no_leak(self) -> dict[str, Proof]:
        n_leaks = sum("of test" in note.reason for note in self.task.ledger.leaks)
        n_leaks += sum(len(each.ledger.leaks) for each in self.elsewhere)
        return {"no_test_row_in_train": at_most(n_leaks, 0)}


def _short(examples: Sequence[Example]) -> list[Example]:
    first = examples[:N_LOOKED_AT]
    return sorted(first, key=lambda each: (len(each.prompt) < LEAST, len(each.prompt)))[:N_PROBES]


def _tell(ledger: Ledger) -> None:
    logger.info("%s", ledger.detected)
    if ledger.rejected or ledger.leaks:
        logger.warning("%s", ledger.sentence())
