"""Which cluster a task is of, where its labels, columns or answers leave no doubt."""

from collections.abc import Mapping

from tunewise.data.instruct.clusters import Cluster, cluster_names, read_cluster
from tunewise.data.instruct.records import reading_of, spelling
from tunewise.data.task import Task
from tunewise.errors import UserError

AUTO = "auto"


def recognised(task: Task, constants: Mapping[str, str]) -> str:
    """The one cluster that `task` is certainly of; UserError, with those to choose from, for none and for several."""
    clusters = {name: read_cluster(name) for name in cluster_names()}
    found = [name for name, cluster in clusters.items() if _is_of(task, cluster, constants)]
    if len(found) == 1:
        return found[0]
    possible = found or [name for name, cluster in clusters.items() if task.kind in cluster.kinds]
    raise UserError(
        f"which cluster {task.source} is of cannot be told for certain",
        f"say it: --templates {'|'.join(possible) or 'FILE.yaml'}",
    )


def _is_of(task: Task, cluster: Cluster, constants: Mapping[str, str]) -> bool:
    if task.kind not in cluster.kinds:
        return False
    examples = (*task.train, *task.dev, *task.test)
    match cluster.recognised_by:
        case "kind":
            return task.kind in ("minimal_pairs", "tagging")
        case "classes":
            known = {spelling(word) for name, others in cluster.classes.items() for word in (name, *others)}
            written = [spelling(task.template.words.get(label, label)) for label in task.labels]
            n_texts = len(cluster.slots) - len(cluster.optional)
            named = all(word in known and not word.isdecimal() for word in written)
            return bool(written) and named and all(len(example.texts) == n_texts for example in examples)
        case "result":
            return all(cluster.result_after in example.answer for example in examples)
        case "columns":
            columns = {column.lower() for column in task.asked}
            wanted = {slot: found for slot, found in cluster.slots.items() if slot not in cluster.optional}
            by_name = all(columns & {each.lower() for each in (slot, *found)} for slot, found in wanted.items())
            needs_accepted = task.kind == "generation" and not all(example.accepted for example in examples)
            return by_name and not needs_accepted and _can_be_read(task, cluster, constants)
        case "languages":
            return len(task.asked) == 1 and _can_be_read(task, cluster, constants)
    return False


def _can_be_read(task: Task, cluster: Cluster, constants: Mapping[str, str]) -> bool:
    try:
        reading_of(task, cluster, constants, "")
    except UserError:
        return False
    return True
