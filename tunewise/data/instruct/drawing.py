"""Which templates ask a record, in which form, and behind which demonstrations: functions of a seed and the record."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from random import Random
from typing import Annotated, Literal

from pydantic import Field

from tunewise.config import Strict
from tunewise.data.instruct.clusters import CHOICES, OPTIONS, Cluster, InstructionTemplate
from tunewise.data.instruct.forms import FRAMES, HEADS, Form, Instruction, asked, fits, with_demonstrations
from tunewise.data.instruct.records import Record
from tunewise.errors import UserError

TRIES = 8
"""How often another row is drawn for a demonstration before one fewer is shown."""


class Drawing(Strict):
    """What is drawn for each row."""

    per_row: Annotated[int, Field(ge=1)] | Literal["all"] = 1
    """How many templates ask a training row; those of dev and test are asked by one each."""
    options: Literal["mixed", "always", "never"] = "mixed"
    """Whether the possible answers are listed, where there are some; mixed tosses a coin for each row."""
    inverted: float = Field(0.15, ge=0, le=1)
    """Share of training rows that are asked the other way round, where templates are there for it."""
    chain_of_thought: float = Field(0.5, ge=0, le=1)
    """Share of rows answered with their reasons, where a row has some."""
    shots: int = Field(0, ge=0)
    """Demonstrations before a training row, drawn from the other training rows."""
    few_shot: float = Field(0.5, gt=0, le=1)
    """Share of training rows that get them."""
    held_out_templates: int = Field(0, ge=0)
    """How many templates of each cluster ask dev and test alone; 0 asks all parts by all."""
    options_at_most: int = Field(16, ge=2)
    """Of more classes than this, the right one and some others are listed."""
    seed: int = 0
    """What all of this is drawn by."""


@dataclass(frozen=True)
class Drawn:
    """An instruction, the template it comes from, and its form in words."""

    record: Record
    template: str
    form: str
    instruction: Instruction


def held_out(cluster: Cluster, n: int, seed: int) -> frozenset[str]:
    """The templates that never ask a training row; the same n for every task of a cluster.

    Templates that are answered alike, and need the same of a row, take turns, so that each kind of row keeps some to be
    trained by. UserError where n is more than half of them.
    """
    groups: dict[str, list[str]] = {}
    for name, each in cluster.templates.items():
        if not each.inverted:
            groups.setdefault(f"{each.told} {bool(each.words)} {sorted(each.when.items())}", []).append(name)
    halves = [
        sorted(names, key=lambda name: _digest(seed, "held out", name))[: len(names) // 2]
        for names in sorted(groups.values(), key=len, reverse=True)
    ]
    turns = [name for turn in zip_longest(*halves) for name in turn if name is not None]
    if n > len(turns):
        raise UserError(
            f"held_out_templates={n} is more than half of the cluster's templates", f"hold out {len(turns)} at most"
        )
    return frozenset(turns[:n])


def drawn(
    records: Sequence[Record], shown: Sequence[Record], cluster: Cluster, drawing: Drawing, in_train: bool
) -> tuple[list[Drawn], list[Record]]:
    """The instructions of these records, and the records that no template fits.

    Demonstrations come from `shown`, the training records. Rows of dev and test are asked once each, forwards and
    without demonstrations, and where they have classes or choices in such a way that the answer is one of those.
    """
    unseen = held_out(cluster, drawing.held_out_templates, drawing.seed)
    if in_train:
        allowed = {name: each for name, each in cluster.templates.items() if name not in unseen}
    else:
        allowed = {name: each for name, each in cluster.templates.items() if not unseen or name in unseen}
        allowed = {name: each for name, each in allowed.items() if not each.inverted}
    found: list[Drawn] = []
    left: list[Record] = []
    for record in records:
        draw = Random(_digest(drawing.seed, "row", record.id, str(in_train)))
        fitting = {name: each for name, each in allowed.items() if fits(each, record) and _shows(each, record, drawing)}
        if not in_train and (record.labels or record.choices):
            fitting = {name: each for name, each in fitting.items() if each.chooses}
        names = _chosen(fitting, drawing, in_train, draw)
        if not names:
            left.append(record)
        for name in names:
            others = shown if in_train and drawing.shots and draw.random() < drawing.few_shot else ()
            found.append(_written(name, cluster.templates[name], record, others, drawing, draw))
    return found, left


def _shows(template: InstructionTemplate, record: Record, drawing: Drawing) -> bool:
    """Whether the template can list the possible answers, or leave them out, where that is always wanted."""
    if template.inverted or not (record.labels or record.choices):
        return True
    return (
        template.lists if drawing.options == "always" else drawing.options == "mixed" or CHOICES not in template.asked
    )


def _chosen(fitting: Mapping[str, InstructionTemplate], drawing: Drawing, in_train: bool, draw: Random) -> list[str]:
    """The names of the templates that ask one row, none twice."""
    inverted = [name for name, each in fitting.items() if each.inverted]
    reasoned = [name for name, each in fitting.items() if each.reasons and not each.inverted]
    plain = [name for name in fitting if name not in inverted and name not in reasoned]
    if drawing.chain_of_thought == 1 and reasoned:
        plain = []
    if drawing.chain_of_thought == 0:
        reasoned = []
    if drawing.per_row == "all" and in_train:
        return [*plain, *reasoned, *(inverted if drawing.inverted else ())]
    names: list[str] = []
    for _ in range(drawing.per_row if in_train and drawing.per_row != "all" else 1):
        turned, with_reasons = draw.random() < drawing.inverted, draw.random() < drawing.chain_of_thought
        forwards = (reasoned if with_reasons else plain) or plain or reasoned
        pool = inverted if inverted and (turned or (not forwards and drawing.inverted > 0)) else forwards
        if not pool:
            break
        names.append(pool.pop(draw.randrange(len(pool))))
    return names


def _written(
    name: str, template: InstructionTemplate, record: Record, shown: Sequence[Record], drawing: Drawing, draw: Random
) -> Drawn:
    listed = draw.random() < 0.5 if drawing.options == "mixed" else drawing.options == "always"
    head, frame = draw.choice(HEADS), draw.choice(FRAMES)
    before = _demonstrations(template, record, shown, drawing, draw)
    _, cue, _ = frame
    form = Form(listed, head, drawing.options_at_most, cued=bool(before and cue))
    last = asked(template, record, form, draw)
    others = [asked(template, each, form, draw) for each in before]
    is_shown = CHOICES in template.asked or (listed and OPTIONS in template.asked)
    told = (
        "inverted" if template.inverted else "",
        "chain_of_thought" if template.reasons else "",
        "options" if is_shown and last.options else "",
        "few_shot" if others else "zero_shot",
    )
    return Drawn(
        record, name, " ".join(filter(None, told)), with_demonstrations(others, last, frame) if others else last
    )


def _demonstrations(
    template: InstructionTemplate, record: Record, shown: Sequence[Record], drawing: Drawing, draw: Random
) -> list[Record]:
    """Other training records that the template fits, none of them twice, none with the text of this one."""
    found: dict[str, Record] = {}
    for _ in range(TRIES * drawing.shots if shown else 0):
        other = draw.choice(shown)
        if other.key != record.key and fits(template, other):
            found[other.key] = other
        if len(found) == drawing.shots:
            break
    return list(found.values())


def _digest(seed: int, *words: str) -> str:
    return hashlib.sha256("\0".join((str(seed), *words)).encode("utf-8", "surrogatepass")).hexdigest()
