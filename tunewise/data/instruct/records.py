"""Examples of a task -> records: what stands in each slot of a cluster's templates, and which answer is right."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from tunewise.data.choices import letter
from tunewise.data.examples import Example
from tunewise.data.instruct.clusters import RATIONALE, Cluster
from tunewise.data.shapes import Kind
from tunewise.data.splits import normalised
from tunewise.data.task import Task
from tunewise.data.template import Template
from tunewise.errors import UserError

ACCEPTABLE, UNACCEPTABLE = "acceptable", "unacceptable"
"""The classes of a sentence of a minimal pair."""


@dataclass(frozen=True)
class Record:
    """One row by slots. `label` is one of the task's `labels`, `right` the number of the right one of its choices."""

    id: str
    line: int
    fields: Mapping[str, str]
    label: str = ""
    labels: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    right: int = 0
    accepted: tuple[str, ...] = ()
    """Every right answer, where there can be several."""

    @property
    def key(self) -> str:
        """What tells a row from others: its texts without letter case and white space."""
        return normalised("\0".join((*self.fields.values(), *self.choices)))


@dataclass(frozen=True)
class Reading:
    """How a task fills the slots of a cluster; found once, used for each of its examples."""

    cluster: Cluster
    kind: Kind
    slots: Mapping[str, int]
    """Slot -> which of the texts of an example it is."""
    constants: Mapping[str, str] = field(default_factory=dict)
    """Slots that hold the same in every row."""
    classes: Mapping[str, str] = field(default_factory=dict)
    """Label of the task -> class of the cluster, or the label as it can be read."""

    def record(self, example: Example) -> Record:
        """What the example says in each slot."""
        fields = dict(self.constants)
        texts = {slot: example.texts[place].strip() for slot, place in self.slots.items()}
        fields |= dict.fromkeys(self.cluster.optional, "") | {slot: text for slot, text in texts.items() if text}
        record = Record(example.id, example.line, fields)
        match self.kind:
            case "tagging":
                return replace(record, fields=fields | tagged(example.texts, example.tags))
            case "minimal_pairs":
                return _pair(record, example)
            case "multiple_choice":
                choices = tuple(choice.strip() for choice in example.choices)
                right = [letter(number) for number in range(len(choices))].index(str(example.label))
                return replace(record, fields=fields | {"answer": choices[right]}, choices=choices, right=right)
            case "classification":
                return replace(record, label=self.classes[str(example.label)], labels=tuple(self.classes.values()))
        answer = example.answer.strip()
        if marker := self.cluster.result_after:
            fields |= reasoned(answer, marker, self.cluster.leave_out)
        else:
            fields[self.cluster.answered] = answer
        return replace(record, fields=fields, accepted=example.accepted)


def reading_of(task: Task, cluster: Cluster, constants: Mapping[str, str], name: str) -> Reading:
    """How `task` fills the slots of the cluster `name`; UserError where it is of another kind or lacks a column."""
    if task.kind not in cluster.kinds:
        raise UserError(
            f"{task.source} is {_words(task.kind)}, and {name} is for {' or '.join(map(_words, cluster.kinds))}",
            "name another cluster: --templates CLUSTER; `tunewise data templates` lists them",
        )
    for slot in constants:
        if slot not in cluster.known:
            raise UserError(f"{{{slot}}} is no slot of {name}", f"known: {', '.join(cluster.known)}")
    slots = {} if task.kind in ("tagging", "minimal_pairs") else _places(task, cluster, constants, name)
    texts = {slot: task.asked[place] for slot, place in slots.items()} if task.asked else {}
    answer = Template("", task.template.answer).fields()
    texts |= {cluster.answered: answer[0]} if task.kind == "generation" and answer else {}
    constants = {**_told(cluster, texts, constants, task.source), **constants}
    if task.kind == "tagging":
        kinds = {label[2:] if label[:2] in ("B-", "I-") else label for label in task.labels}
        constants = {"kinds": ", ".join(sorted(kinds - {"O"})), **constants}
    return Reading(cluster, task.kind, slots, constants, _classes(task, cluster, name))


def _places(task: Task, cluster: Cluster, constants: Mapping[str, str], name: str) -> dict[str, int]:
    """Slot -> place among an example's texts: by the columns' names, then in their order."""
    first = next(iter((*task.train, *task.dev, *task.test)))
    columns = [column.lower() for column in task.asked] or [f"column{n + 1}" for n in range(len(first.texts))]
    wanted = {slot: found for slot, found in cluster.slots.items() if slot not in constants}
    places: dict[str, int] = {}
    for slot, found in wanted.items():
        names = [each.lower() for each in (slot, *found) if each.lower() in columns]
        free = [columns.index(each) for each in names if columns.index(each) not in places.values()]
        if free:
            places[slot] = free[0]
    left = [place for place in range(len(columns)) if place not in places.values()]
    for slot in wanted:
        if slot not in places and slot not in cluster.optional:
            if not left:
                have = f"it asks {', '.join(task.asked)}" if task.asked else f"it asks {len(columns)} texts"
                raise UserError(
                    f"{task.source} has no column for the slot {{{slot}}} of {name}: {have}",
                    "name its columns in the order of the slots, data.text=COLUMN,COLUMN, or take another cluster",
                )
            places[slot] = left.pop(0)
    if left:
        raise UserError(
            f"{task.source}: {name} has no slot for the column {columns[left[0]]}",
            f"its slots are {', '.join(cluster.slots)}; name fewer columns, data.text=COLUMN, or take another cluster",
        )
    return places


def _told(cluster: Cluster, texts: Mapping[str, str], given: Mapping[str, str], source: str) -> dict[str, str]:
    """Slots that the name of a column tells, such as a language."""
    told = {}
    for slot, of in cluster.told_by_column.items():
        column = texts.get(of, "").casefold()
        if slot in given:
            continue
        if column not in cluster.names:
            raise UserError(
                f"the {slot.replace('_', ' ')} of {source} cannot be told from its column {column or of!r}",
                f"say it: --slot {slot}=NAME",
            )
        told[slot] = cluster.names[column]
    return told


def _classes(task: Task, cluster: Cluster, name: str) -> dict[str, str]:
    """Label -> class; `data.words` of the task come first."""
    if task.kind != "classification":
        return {}
    written = {label: task.template.words.get(label, label) for label in task.labels}
    known: dict[str, str] = {}
    for group in (*cluster.together, tuple(cluster.classes)):
        spellings = {spelling(word): one for one in group for word in (one, *cluster.classes[one])}
        known = {label: spellings[spelling(word)] for label, word in written.items() if spelling(word) in spellings}
        if len(known) == len(written):
            break
    unknown = next((label for label in written if label not in known), None)
    if unknown is not None and cluster.closed:
        raise UserError(
            f"the label {unknown!r} of {task.source} is no class of {name}",
            f"say which it is: data.words.{unknown}={'|'.join(cluster.classes)}",
        )
    classes = {label: known.get(label) or readable(word) for label, word in written.items()}
    for label, its in classes.items():
        alike = [other for other, another in classes.items() if another == its]
        if len(alike) > 1:
            raise UserError(
                f"the labels {alike[0]!r} and {alike[1]!r} of {task.source} are both taken as {its!r} of {name}",
                f"say which they are: data.words.{label}=WORDS",
            )
    return classes


def readable(label: str) -> str:
    """A label as words: `card_arrival` as "card arrival"."""
    return re.sub(r"[_\s]+", " ", label).strip()


def spelling(label: str) -> str:
    """A label without letter case, lines and hyphens, by which it is known again."""
    return normalised(re.sub(r"[_\-]", " ", label))


def tagged(words: Sequence[str], tags: Sequence[str]) -> dict[str, str]:
    """The slots of a tagged sentence; `spans` ("Oslo: LOC") only where tags are of the kind B-LOC, I-LOC, O."""
    fields = {
        "text": " ".join(words),
        "tags": " ".join(tags),
        "tagged": " ".join(f"{word}/{tag}" for word, tag in zip(words, tags, strict=True)),
    }
    if not all(tag == "O" or tag[:2] in ("B-", "I-") for tag in tags):
        return fields
    spans: list[tuple[str, list[str]]] = []
    before = "O"
    for word, tag in zip(words, tags, strict=True):
        goes_on = tag.startswith("I-") and before != "O" and before[2:] == tag[2:]
        if goes_on:
            spans[-1][1].append(word)
        elif tag != "O":
            spans.append((tag[2:], [word]))
        before = tag
    return fields | {"spans": "\n".join(f"{' '.join(found)}: {kind}" for kind, found in spans) or "none"}


def reasoned(answer: str, marker: str, leave_out: str) -> dict[str, str]:
    """The answer behind the last marker, and the reasons before it; an answer without one has no reasons."""
    reasons, found, result = answer.rpartition(marker)
    if not found or not result.strip():
        return {"answer": answer}
    reasons = re.sub(leave_out, "", reasons) if leave_out else reasons
    return {"answer": result.strip(), RATIONALE: reasons.strip()}


def _pair(record: Record, example: Example) -> Record:
    """A minimal pair: its two sentences in an order that hangs on its id, and one of them to be judged."""
    good, bad = (choice.strip() for choice in example.choices)
    bits = sum(example.id.encode()) + len(good)
    right, judged = bits % 2, bits // 2 % 2
    choices = (bad, good) if right else (good, bad)
    fields = {"good": good, "bad": bad, "first": choices[0], "second": choices[1], "answer": good}
    return replace(
        record, fields={**record.fields, **fields, "text": bad if judged else good}, choices=choices, right=right,
        label=UNACCEPTABLE if judged else ACCEPTABLE, labels=(ACCEPTABLE, UNACCEPTABLE),
    )  # fmt: skip


def _words(kind: str) -> str:
    return kind.replace("_", " ")
