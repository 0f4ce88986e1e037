"""Runs -> arms: the seeds of one method under one configuration, with means and intervals."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tunewise.data.mixture import MACRO_AVERAGE
from tunewise.errors import UserError
from tunewise.files import read_json
from tunewise.report import words
from tunewise.report.folders import Run, read_run, read_runs
from tunewise.stats import Interval, mean_interval
from tunewise.verdict import Contender, step_of

OF_AN_ARM = {"label", "folder", "seeds"}
"""What comparison.json says of an arm at least."""


@dataclass(frozen=True)
class Arm:
    """All seeds of one configuration: quality and retention with intervals, costs as means, memory as the largest."""

    label: str
    runs: tuple[Run, ...]
    metric: str
    scores: tuple[float, ...]
    quality: Interval
    forgetting: Interval | None
    """Change of the retention loss in nats per token; above zero the tuned model has forgotten."""
    n_diverged: int = 0
    """Seeds that are not among the runs."""

    @property
    def n_trainable(self) -> int:
        return round(self._mean("n_trainable"))

    @property
    def adapter_bytes(self) -> int:
        return round(self._mean("adapter_bytes"))

    @property
    def seconds(self) -> float:
        return self._mean("seconds")

    @property
    def train_seconds(self) -> float:
        return self._mean("train_seconds")

    @property
    def peak_bytes(self) -> int:
        return max(int(run.metrics.get("peak_bytes") or 0) for run in self.runs)

    @property
    def base_format(self) -> str:
        """How the base's weights are stored: nf4, int8, bfloat16; "" where nothing is known of it."""
        environment = self.runs[0].environment
        return (environment.get("base") or {}).get("quantise") or environment.get("dtype", "")

    @property
    def base_bytes(self) -> int:
        """Of the base's weights as they are stored; 0 where nobody counted them."""
        return (self.runs[0].environment.get("base") or {}).get("bytes", 0)

    @property
    def base_told(self) -> str:
        """2.4 MB nf4."""
        told = words.size(self.base_bytes) if self.base_bytes else ""
        return " ".join(filter(None, [told, self.base_format])) or "–"

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(int(run.metrics.get("seed", 0)) for run in self.runs)

    @property
    def middle(self) -> Run:
        """The run whose score is the median (the lower of two), to show samples of."""
        ranked = sorted(zip(self.scores, range(len(self.runs))))
        return self.runs[ranked[(len(ranked) - 1) // 2][1]]

    def interval_of(self, metric: str) -> Interval:
        """The mean of another test metric, which all its runs have, with its interval."""
        return mean_interval([float(run.metrics["test"][metric]) for run in self.runs])

    @property
    def out_of_domain(self) -> dict[str, tuple[str, Interval]]:
        """The metric of each out-of-domain test set and its mean, by the name of the set."""
        found = [run.metrics.get("out_of_domain") or {} for run in self.runs]
        # beside a mixture each set is a task of its own, with its own metric
        is_mixture = self.metric == MACRO_AVERAGE
        metrics = {name: next(iter(of)) if is_mixture else self.metric for name, of in found[0].items()}
        return {
            name: (metric, mean_interval([float(each[name][metric]) for each in found]))
            for name, metric in metrics.items()
            if all(metric in each.get(name, {}) for each in found)
        }

    def contender_on(self, name: str) -> Contender:
        """Its scores on an out-of-domain test set, for a verdict over that set alone."""
        metric, _ = self.out_of_domain[name]
        n_items = min((run.metrics.get("n_out_of_domain") or {}).get(name, 0) for run in self.runs)
        scores = tuple(float(run.metrics["out_of_domain"][name][metric]) for run in self.runs)
        return Contender(self.label, scores, step=step_of(metric, n_items))

    @property
    def by_source(self) -> dict[str, Interval]:
        """Of a mixture, the first metric of each source, by NAME.metric; {} of any other task."""
        names = [name for name in self.runs[0].metrics.get("test", {}) if "." in name]
        firsts = {name.partition(".")[0]: name for name in reversed(names)}
        return {name: self.interval_of(name) for name in names if firsts[name.partition(".")[0]] == name}

    def _mean(self, name: str) -> float:
        values = [float(run.metrics.get(name) or 0.0) for run in self.runs]
        return sum(values) / len(values)


@dataclass(frozen=True)
class DivergedArm:
    """An arm of a comparison of which some seeds, or all, have no result."""

    label: str
    n_diverged: int
    n_seeds: int
    reason: str
    """Why, of the first of them."""

    @property
    def told(self) -> str:
        return f"{self.n_diverged} of {self.n_seeds} seeds diverged"


def are_stored_unlike(arms: Sequence[Arm]) -> bool:
    """Whether the bases of these arms are stored in several formats."""
    return len({arm.base_format for arm in arms}) > 1


def main_metric(runs: Sequence[Run]) -> str:
    """The first metric that every run reports on test: a task names its most telling one first."""
    first = runs[0].metrics.get("test", {})
    shared = [name for name in first if all(name in run.metrics.get("test", {}) for run in runs)]
    return shared[0] if shared else ""


def gather_arms(
    runs: Sequence[Run], labels: Mapping[str, str] | None = None, diverged: Sequence[DivergedArm] = ()
) -> list[Arm]:
    """The arms of `runs` in the order in which they first appear, or in that of `labels` (label -> arm folder).

    Several labels may share a folder: arms for which the search chose the same point. Runs that no label speaks of are
    of one arm where their recipes are the same but for the seed; of a run that is there twice one counts. UserError for
    runs without a metric in common.
    """
    metric, labelled = main_metric(runs), set((labels or {}).values())
    if not metric:
        raise UserError("these runs have no metric of test in common", "give folders of runs that were scored alike")
    known = {run.asked: run.arm_folder for run in runs if run.arm_folder in labelled}
    found: dict[str, dict[Any, Run]] = {}
    for run in runs:
        key = run.arm_folder if run.arm_folder in labelled else known.get(run.asked, run.asked)
        found.setdefault(key, {}).setdefault(run.metrics.get("seed", 0), run)
    groups = {key: list(of_arm.values()) for key, of_arm in found.items()}
    order = [(label, key) for label, key in (labels or {}).items() if key in groups]
    named = {key for _, key in order}
    order += [(label, key) for key, label in label_by_difference(groups).items() if key not in named]
    n_diverged = {each.label: each.n_diverged for each in diverged}
    return [replace(_arm(label, groups[key], metric), n_diverged=n_diverged.get(label, 0)) for label, key in order]


def comparison_of(root: Path) -> dict[str, Any]:
    """What comparison.json says of the comparison that was carried out in `root`; {} where none was.

    UserError for a file that does not say which arms there are.
    """
    path = root / "comparison.json"
    found = read_json(path) if path.is_file() else {}
    content: dict[str, Any] = found if isinstance(found, dict) else {"arms": None}
    arms = content.get("arms", [])
    if not (isinstance(arms, list) and all(isinstance(arm, dict) and arm.keys() >= OF_AN_ARM for arm in arms)):
        raise UserError(f"{path} is damaged: it names no arms", "run the command that made it again, or remove it")
    return content


def arms_of(root: Path) -> list[dict[str, Any]]:
    """The arms (label, folder, seeds) of the comparison in `root`; [] where none was carried out."""
    return comparison_of(root).get("arms", [])


def runs_of(root: Path) -> list[Run]:
    """The runs of the comparison in `root`, or else every finished run below it.

    UserError when there is none, and for runs of several tasks or bases, whose scores say nothing of each other.
    """
    places = dict.fromkeys(root / arm["folder"] / f"seed{seed}" for arm in arms_of(root) for seed in arm["seeds"])
    if places:
        return [read_run(place) for place in places]
    runs = read_runs(root)
    refuse_unlike(runs, f"below {root}")
    return runs


def _of_one(runs: Sequence[Run], found: Sequence[str]) -> Path:
    """The folder of the first run's comparison, or of that run alone where others of another kind lie there too."""
    first = runs[0].folder
    beside = {of for run, of in zip(runs, found, strict=True) if run.folder.is_relative_to(first.parent.parent)}
    return first.parent.parent if len(beside) == 1 else first


def refuse_unlike(runs: Sequence[Run], where: str) -> None:
    """UserError for runs of several tasks or bases, or of states of one, whose scores say nothing of each other."""
    for what, found in (
        ("tasks", [str(run.metrics.get("task")) for run in runs]),
        ("bases", [str(run.recipe.get("model")) for run in runs]),
    ):
        several = sorted(set(found))
        if len(several) > 1:
            raise UserError(
                f"the runs {where} are of {len(several)} {what}: {', '.join(several[:8])}",
                f"give a folder of one, such as {_of_one(runs, found)}",
            )
    first: dict[tuple[str, str], tuple[str, Run]] = {}
    for run in runs:
        for of, digest in run.made_of.items():
            known, earlier = first.setdefault(of, (digest, run))
            if known != digest:
                raise UserError(
                    f"{of[0]} changed between the runs {where}: {earlier.folder} and {run.folder} are of unlike ones",
                    "carry the older ones out again, into other folders, or give folders of one state alone",
                )


def labels_of(root: Path) -> dict[str, str]:
    """Label -> arm folder, in the order of the comparison in `root`; {} where there is none."""
    return {arm["label"]: Path(arm["folder"]).name for arm in arms_of(root)}


def diverged_of(root: Path) -> list[DivergedArm]:
    """The arms of the comparison in `root` that have no result for some seeds."""
    return [
        DivergedArm(arm["label"], len(failed), len(failed) + len(arm["seeds"]), failed[0]["reason"])
        for arm in arms_of(root)
        if (failed := arm.get("failed"))
    ]


def read_arms(root: Path) -> list[Arm]:
    """The arms of the runs of `root`; UserError when there is none."""
    return gather_arms(runs_of(root), labels_of(root), diverged_of(root))


def label_by_difference(groups: Mapping[str, Sequence[Run]]) -> dict[str, str]:
    """Arm -> the method's name, followed by the fields in which arms of that name differ: those of the method, and
    where these are the same, others of the recipe."""
    methods = {key: {**runs[0].method, **_beside(runs[0])} for key, runs in groups.items()}
    recipes = {key: dict(_flat(runs[0].recipe)) for key, runs in groups.items()}
    labels = {}
    for key, method in methods.items():
        rivals = {other: its for other, its in methods.items() if its.get("name") == method.get("name")}
        twins = [other for other, its in rivals.items() if its == method]
        told = _differing(method, rivals.values())
        if len(twins) > 1:
            told |= _differing(recipes[key], [recipes[twin] for twin in twins])
        detail = ", ".join(f"{field}={_short(value)}" for field, value in told.items())
        name = str(method.get("name", key))
        labels[key] = f"{name} ({detail})" if detail else name
    return labels


def _differing(fields: Mapping[str, Any], others: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The fields in which any of the others has another value."""
    known = list(others)
    return {
        name: value
        for name, value in fields.items()
        if name != "name" and any(other.get(name) != value for other in known)
    }


def _flat(recipe: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The fields of a recipe beside method and seed, dotted."""
    for name, value in recipe.items():
        if name in ("method", "seed"):
            continue
        if isinstance(value, Mapping):
            yield from ((f"{name}.{inner}", each) for inner, each in value.items())
        else:
            yield name, value


def _beside(run: Run) -> dict[str, Any]:
    """How its base is stored, and its rows are asked, where the recipe says that."""
    data = run.recipe.get("data")
    stored = {"quantise": run.recipe["quantise"]} if run.recipe.get("quantise") else {}
    return stored | ({"pattern": data["pattern"]} if isinstance(data, dict) and "pattern" in data else {})


def _arm(label: str, runs: Sequence[Run], metric: str) -> Arm:
    ordered = tuple(sorted(runs, key=lambda run: int(run.metrics.get("seed", 0))))
    scores = tuple(float(run.metrics.get("test", {}).get(metric, 0.0)) for run in ordered)
    changes = [(run.metrics.get("retention") or {}).get("change") for run in ordered]
    known = [float(change) for change in changes if change is not None]
    return Arm(label, ordered, metric, scores, mean_interval(scores), mean_interval(known) if known else None)


def _short(value: Any) -> str:
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 24 else text[:23] + "…"
