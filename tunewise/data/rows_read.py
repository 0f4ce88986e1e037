"""The rows of files as examples, with all that a task is told of them; here of files that are read whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tunewise.data.build import build, ids_of
from tunewise.data.chat_template import ChatTemplate, chat_template
from tunewise.data.config import DataConfig
from tunewise.data.conversations import Conversations
from tunewise.data.detect import detect
from tunewise.data.examples import Example, Note
from tunewise.data.readers import columns, require
from tunewise.data.shapes import Shape, bare_template, template_of
from tunewise.data.sources import open_source, stem_of
from tunewise.data.splits import split
from tunewise.data.streamed import witnesses_of
from tunewise.data.template import Template
from tunewise.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ASKED_AS_TURNS = ("instruction and response", "prompt and completion")

Parts = Mapping[str, Sequence[Example]]
"""train, dev and test."""


@dataclass(frozen=True)
class RowsRead:
    """What a task takes from the places of its rows."""

    config: DataConfig
    """With what the place itself says of its columns."""
    shape: Shape
    template: Template
    known: list[str]
    """All columns."""
    n_rows: int
    """That were read."""
    rejected: list[Note]
    every: Sequence[Example]
    """All examples."""
    parts: Callable[[], Parts]
    """Split as the configuration says where the parts have no files of their own."""
    chat: ChatTemplate | None = None
    place: str = ""
    """What was chosen of the place they lie in, and how to choose otherwise."""
    told: str = ""
    """What is to be told of how they are written and split."""

    @property
    def witnesses(self) -> Sequence[Example]:
        """Examples that show what any of them has, each label, the longest answer; or all of them."""
        return witnesses_of(self.every)

    def asked_alone(self) -> Parts:
        """All rows as test; of a big file those that are read one by one."""
        return {"train": (), "dev": (), "test": self.every}


def read_whole(config: DataConfig, tokenizer: PreTrainedTokenizerBase | None) -> RowsRead:
    """All rows, with their examples in memory; UserError for what is wrong with them."""
    source = open_source(config)
    config, every = source.config, source.rows
    shape, known = detect(every, config), columns(every)
    template, chat = how_asked(shape, config, known, tokenizer)
    parts: dict[str, list[Example]] = {}
    rejected: list[Note] = []
    group = config.group and require(config.group, known, config.path)
    taken: set[str] = set()
    for table in source.tables:
        ids = ids_of(table.rows, stem_of(table.name), taken)
        found, notes = build(table.rows, shape, template, ids, chat, group)
        taken.update(ids)
        parts.setdefault(table.part, []).extend(found)
        rejected += [replace(note, reason=f"{table.name}: {note.reason}") for note in notes] if table.part else notes
    examples = [example for part in parts.values() for example in part]
    told = f"; {chat.sentence()}" if chat else ""
    if group:
        told += f"; {len({example.group for example in examples})} groups by {group}, "
        in_parts = Counter(name for part in parts.values() for name in {example.group for example in part})
        n_torn = sum(n > 1 for n in in_parts.values())
        told += f"{n_torn} of them in several of the given splits" if n_torn else "each whole in one split"
    return RowsRead(
        config, shape, template, known, len(every), rejected, examples, lambda: completed(parts, config),
        chat.template if chat else None, source.told, told,
    )  # fmt: skip


def how_asked(
    shape: Shape, config: DataConfig, known: Sequence[str], tokenizer: PreTrainedTokenizerBase | None
) -> tuple[Template, Conversations | None]:
    """The template of rows of this shape, and what writes them where they are conversations or are asked as such."""
    template = template_of(shape, config, known)
    if shape.name == "messages" or (config.template and shape.name in ASKED_AS_TURNS):
        if config.pattern != "none" and config.template:
            raise UserError(f"data.pattern={config.pattern} and conversations both say how to ask", "keep one of them")
        chat = Conversations(chat_template(config.template, tokenizer), config.roles)
        return bare_template(shape, config) if shape.name in ASKED_AS_TURNS else template, chat
    for name in config.said(("template", "roles")):
        raise UserError(
            f"data.{name} is of conversations, and {config.path} holds {shape.name}", f"leave data.{name} out"
        )
    return template, None


def completed(parts: Mapping[str, list[Example]], config: DataConfig) -> dict[str, list[Example]]:
    """Three parts: those that have a file of their own as it is, the others split from the one file or from train."""
    given = {name: part for name, part in parts.items() if name not in ("", "train")}
    rest = parts.get("", parts.get("train", []))
    shares = {name: share for name, share in zip(("train", "dev", "test"), config.split) if name not in given}
    made = dict(zip(shares, map(list, split(rest, list(shares.values()), config.seed))))
    return {name: (given | made)[name] for name in ("train", "dev", "test")}
