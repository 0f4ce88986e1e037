"""Clusters of tasks and their templates: the files that say in which words a row is asked.

A cluster is a kind of task (sentiment, entailment, ...) that many data sets hold; its templates are written over named
slots, not over the columns of one data set. Wei et al. 2022 (FLAN), arXiv:2109.01652, section 2; answer choices are
those of promptsource, Bach et al. 2022, arXiv:2202.01279.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from tunewise.config import Strict, parse, read_yaml
from tunewise.data.shapes import Kind
from tunewise.data.template import Template
from tunewise.errors import UserError, nearest, unknown

FOLDER = Path(__file__).parent / "clusters"
LETTER, CHOICES, OPTIONS, RATIONALE = "letter", "choices", "options", "rationale"
DERIVED: dict[Kind, tuple[str, ...]] = {
    "classification": ("label", LETTER, CHOICES),
    "multiple_choice": ("answer", LETTER, CHOICES),
    "minimal_pairs": ("text", "label", "first", "second", "good", "bad", "answer", LETTER, CHOICES),
    "tagging": ("text", "tags", "tagged", "spans", "kinds"),
    "generation": (),
}
"""Slots that are no columns, by the kind of task; the kinds that templates can be written for."""


class InstructionTemplate(Strict):
    """One way to ask. Both texts have slots in braces; a line that is nothing but an empty slot disappears."""

    prompt: str = Field(min_length=1)
    """What is asked. `{options}` is where the possible answers may be listed, `{choices}` where they always are."""
    answer: str = Field(min_length=1)
    """What is trained; where it is left out, the cluster's first target."""
    inverted: bool = False
    """Whether the task is turned round: the answer is told, and what belongs to it is written."""
    words: dict[str, str] = Field(default_factory=dict)
    """What is written for a class. A task with a class that is not among them, or with two that are written alike, is
    not asked by this template."""
    phrases: dict[str, dict[str, str]] = Field(default_factory=dict)
    """What is written for a value of a slot, such as {question: {cause: why did it happen}}."""
    when: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Only for rows with one of these values in the slot; "" is a slot that the row does not have."""

    @cached_property
    def asked(self) -> tuple[str, ...]:
        """The slots of the prompt."""
        return Template(self.prompt, "").fields()

    @cached_property
    def told(self) -> tuple[str, ...]:
        """The slots of the answer."""
        return Template("", self.answer).fields()

    @cached_property
    def reasons(self) -> bool:
        """Whether the answer gives its reasons first (chain of thought)."""
        return RATIONALE in self.told

    @cached_property
    def chooses(self) -> bool:
        """Whether the answer is a class, or one of the choices, and nothing beside it."""
        return bool({"label", "answer", LETTER} & set(self.told)) and not self.reasons

    @cached_property
    def lists(self) -> bool:
        """Whether the possible answers can be shown."""
        return OPTIONS in self.asked or CHOICES in self.asked


class Cluster(Strict):
    """A kind of task: what its rows hold, and the templates that ask for it."""

    description: str = Field(min_length=1)
    kinds: tuple[Kind, ...] = Field(min_length=1)
    """The kinds of task it takes."""
    slots: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Slot -> names of columns it is found under; columns of other names fill the slots in their order."""
    optional: tuple[str, ...] = ()
    """Of these, the ones a task can do without."""
    answered: str = "answer"
    """The slot of a generation's answer."""
    targets: tuple[str, ...] = Field(min_length=1)
    """The slots that a template may ask for; all others are what it asks about."""
    classes: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Class -> how data sets write it beside its own name; the words of a template are written for these names."""
    together: tuple[tuple[str, ...], ...] = ()
    """Which classes data sets have together; a spelling of two classes is told by the others beside it."""
    closed: bool = False
    """Whether a task with other classes is refused."""
    result_after: str = ""
    """What stands between the reasons and the result inside an answer, such as #### in gsm8k."""
    leave_out: str = ""
    """A regular expression of what is no part of the reasons, such as a calculator's annotations."""
    told_by_column: dict[str, str] = Field(default_factory=dict)
    """Slot -> slot whose column's name tells it: the language of a column `english`."""
    names: dict[str, str] = Field(default_factory=dict)
    """What such a column's name means."""
    recognised_by: Literal["", "kind", "classes", "columns", "result", "languages"] = ""
    """What tells `templates: auto` that a task is of this cluster; "" where nothing does for certain."""
    templates: dict[str, InstructionTemplate] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, data: Any) -> Any:
        """A template that is a text is its prompt, and one without an answer asks for the first target."""
        if not isinstance(data, Mapping) or not isinstance(data.get("templates"), Mapping):
            return data
        targets = data.get("targets")
        first = targets[0] if isinstance(targets, list | tuple) and targets else ""
        opened = {}
        for name, template in data["templates"].items():
            fields = {"prompt": template} if isinstance(template, str) else template
            if isinstance(fields, Mapping) and first and not fields.get("inverted"):
                fields = {"answer": f"{{{first}}}", **fields}
            opened[str(name)] = fields
        return {**data, "templates": opened}

    @field_validator("leave_out")
    @classmethod
    def _an_expression(cls, leave_out: str) -> str:
        try:
            re.compile(leave_out)
        except re.error as error:
            raise ValueError(f"no regular expression: {error}") from None
        return leave_out

    @model_validator(mode="after")
    def _each_template_can_be_filled(self) -> Self:
        for kind in self.kinds:
            if kind not in DERIVED:
                raise ValueError(f"kind {kind} has no templates; known: {', '.join(DERIVED)}")
        for name in (one for group in self.together for one in group):
            if name not in self.classes:
                raise ValueError(f"together names {name!r}, which is no class; known: {', '.join(self.classes)}")
        for slot in self.optional:
            if slot not in self.slots:
                raise ValueError(f"optional {slot!r} is no slot; known: {', '.join(self.slots)}")
        wordings: dict[str, str] = {}
        for name, template in self.templates.items():
            if fault := self._fault(template):
                raise ValueError(f"template {name}: {fault}")
            wording = _wording(template)
            if wording in wordings:
                raise ValueError(f"templates {wordings[wording]} and {name} are the same but for case and punctuation")
            wordings[wording] = name
        return self

    @cached_property
    def known(self) -> tuple[str, ...]:
        """Every slot that a template of this cluster may name."""
        derived = [slot for kind in self.kinds for slot in DERIVED[kind]]
        answered = [self.answered] if "generation" in self.kinds else []
        own = [*self.slots, *self.told_by_column, *answered, *self.targets, *derived, OPTIONS]
        return tuple(dict.fromkeys([*own, RATIONALE] if self.result_after else own))

    @property
    def telling(self) -> tuple[str, ...]:
        """The slots that give the answer away."""
        return (*self.targets, LETTER, RATIONALE)

    def _fault(self, template: InstructionTemplate) -> str:
        """What is wrong with a template, or ""."""
        asked, told = template.asked, template.told
        for slot in (*asked, *told, *template.phrases, *template.when):
            if slot not in self.known:
                guess = nearest(slot, self.known)
                meant = f"did you mean {{{guess}}}? " if guess else ""
                return f"{{{slot}}} is no slot; {meant}known: {', '.join(self.known)}"
        if wrong := [name for name in template.words if self.classes and name not in self.classes]:
            return f"words for {wrong[0]!r}, which is no class; known: {', '.join(self.classes)}"
        if both := [slot for slot in told if slot in asked]:
            return f"the prompt contains its own answer, {{{both[0]}}}"
        given_away = [slot for slot in asked if slot in self.telling]
        if template.inverted:
            if not given_away and not set(template.when) & set(self.telling):
                return f"it is inverted, and its prompt tells none of {', '.join(self.targets)}"
            if any(slot in self.telling for slot in told) or not told:
                return f"it is inverted, and its answer {template.answer!r} is not what belongs to the one told"
            return ""
        if given_away:
            return f"the prompt contains its own answer, {{{given_away[0]}}}"
        if not any(slot in self.telling for slot in told):
            return f"the answer {template.answer!r} tells none of {', '.join(self.targets)}; say inverted: true"
        if LETTER in told and CHOICES not in asked:
            return "it is answered by a letter, and its prompt shows no {choices}"
        return ""


def cluster_names() -> list[str]:
    """The clusters that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read_cluster(name: str | Path) -> Cluster:
    """A cluster of the package by its name, or one of a yaml file; UserError for neither, and for a faulty file."""
    path = Path(name)
    if path.suffix.lower() not in (".yaml", ".yml"):
        if str(name) not in cluster_names():
            error = unknown("cluster of templates", str(name), cluster_names())
            raise UserError(error.message, f"{error.hint}; or name a file of your own, TEMPLATES.yaml")
        path = FOLDER / f"{name}.yaml"
    return parse(Cluster, read_yaml(path), where=str(path))


def _wording(template: InstructionTemplate) -> str:
    """What makes a template different from others: its texts without case, white space and punctuation."""
    conditions = sorted((slot, *values) for slot, values in template.when.items())
    text = f"{template.prompt} => {template.answer} {sorted(template.words.items())} {conditions}"
    return re.sub(r"[^\w{}]+", " ", text.casefold()).strip()
