"""The page: a question to all, their answers side by side, a row of dev to try, and how answers are written."""

import random
from collections.abc import Sequence
from typing import Any

import gradio
from gradio.processing_utils import save_file_to_cache

from tunewise.data.drawn import Drawn
from tunewise.data.typed import CHOICES, SEPARATOR
from tunewise.errors import UserError
from tunewise.studio.showing import Column, Heading, before_html, columns_html, error_html, heading_html
from tunewise.studio.sitting import AS_IN_ITS_RUN, Sitting, Turns, temperature_of, written_by

MOST_TOKENS, HOTTEST = 4096, 2.0
ANY_ROW = 2**31
PLACEHOLDERS = {CHOICES: f"write {SEPARATOR} between the choices"}
MOST_BYTES, SECONDS_KEPT = 8 << 20, 3600
"""Of an image that is uploaded."""


class Page:
    """The blocks of one page, and what happens in them; each tab of a browser has turns of its own."""

    def __init__(self, sitting: Sitting, columns: Sequence[Column], heading: Heading) -> None:
        self._sitting, self._columns = sitting, columns
        self._names = tuple(dict.fromkeys(name for way in sitting.ways for name in sitting.columns(way)))
        self.most_bytes = MOST_BYTES if sitting.reads_images else 0
        """Of a file that is uploaded."""
        self.blocks = gradio.Blocks(
            title=heading.title, analytics_enabled=False, fill_width=True, delete_cache=(SECONDS_KEPT, SECONDS_KEPT)
        )
        with self.blocks:
            _html(heading_html(heading))
            self._fields = [self._field(name) for name in self._names]
            with gradio.Row(elem_classes="buttons"):
                self._ask = gradio.Button("Ask", variant="primary", scale=0)
                self._draw = gradio.Button("Try a row of dev", visible=sitting.can_draw, scale=0)
                self._anew = gradio.Button("New conversation", scale=0)
                self._way = gradio.Radio(
                    list(sitting.ways), value=sitting.way, label="how they are asked", show_label=False, scale=0,
                    container=False, visible=len(sitting.ways) > 1, elem_classes="ways-of-asking",
                )  # fmt: skip
            self._settings = gradio.Accordion("How answers are written", open=False, elem_classes="settings")
            with self._settings, gradio.Row():
                self._tokens = gradio.Number(precision=0, minimum=1, maximum=MOST_TOKENS, label="most tokens")
                self._temperature = gradio.Slider(
                    0.0, HOTTEST, step=0.1, label="temperature (0 takes the most probable token)"
                )
            self._error, self._answers, self._before = _html(""), _html(""), _html("")
            self._turns, self._drawn = gradio.State({}), gradio.State(None)
            self._connect()

    def _field(self, name: str) -> gradio.Textbox | gradio.Image:
        if self._sitting.reads_images:
            # the file as it was sent: the model reads what it would read of a run's own
            return gradio.Image(
                type="filepath", image_mode=None, sources=["upload", "clipboard"], label=name, show_label=False,
                height=240, buttons=[], placeholder="an image for all of them", elem_classes="question-field",
            )  # fmt: skip
        many = len(self._sitting.columns(self._sitting.way)) > 1
        first = {self._names[0]: "ask all of them"}
        return gradio.Textbox(
            label=name, show_label=many, placeholder=(first | PLACEHOLDERS).get(name, ""),
            lines=1, max_lines=12, autofocus=name == self._names[0], elem_classes="question-field",
        )  # fmt: skip

    def _connect(self) -> None:
        shown = [self._error, self._answers, self._before]
        asked = [self._way, self._tokens, self._temperature, self._turns, self._drawn, *self._fields]
        answered = [*shown, self._turns, *self._fields]
        of_way = [*self._fields, self._draw, self._anew, self._settings, self._tokens, self._temperature]
        waited_for: dict[str, Any] = {
            "show_progress": "minimal",
            "show_progress_on": self._answers,
            "api_visibility": "private",
        }
        at_once: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        typed = [self._ask.click, *(field.submit for field in self._fields if isinstance(field, gradio.Textbox))]
        gradio.on(typed, self.ask, asked, answered, **waited_for)
        drawn = self._draw.click(self.draw, None, [self._drawn, *self._fields], **at_once)
        drawn.then(self.ask, asked, answered, **waited_for)
        self._anew.click(self.begin_again, [self._way, self._turns], answered, **at_once)
        self._way.change(self.change_way, [self._way, self._turns], [*of_way, *shown], **at_once)
        self.blocks.load(self.change_way, [self._way, self._turns], [*of_way, *shown], **at_once)

    def ask(
        self, way: str, tokens: float | None, temperature: float, turns: dict[str, Turns], drawn: Drawn | None,
        *texts: str | None,
    ) -> tuple[Any, ...]:  # fmt: skip
        """Error, answers, what was asked before, all turns, and the fields."""
        told = dict(zip(self._names, texts, strict=True))
        question = {name: told[name] or "" for name in self._sitting.columns(way)}
        before = turns.get(way, ())
        writing = written_by(self._sitting.writing(way), tokens, temperature, len(before))
        is_drawn = drawn if way == AS_IN_ITS_RUN else None
        try:
            said = self._sitting.ask(way, question, before, writing, is_drawn)
        except UserError as error:
            unchanged = [gradio.skip()] * (3 + len(self._names))  # answers, before, turns, fields
            return error_html(error), *unchanged
        return self._turned(way, turns | {way: said})

    def draw(self) -> tuple[Any, ...]:
        """A row of dev, and the texts of its columns."""
        drawn = self._sitting.drawn(random.randrange(ANY_ROW))
        told = drawn.told if drawn else {}
        if self._sitting.reads_images:  # a page shows no file but those that were put there for it
            told = {name: save_file_to_cache(path, self.blocks.GRADIO_CACHE) for name, path in told.items()}
        return (drawn, *(told.get(name, None if self._sitting.reads_images else "") for name in self._names))

    def begin_again(self, way: str, turns: dict[str, Turns]) -> tuple[Any, ...]:
        """A new conversation."""
        return self._turned(way, turns | {way: ()})

    def change_way(self, way: str, turns: dict[str, Turns]) -> tuple[Any, ...]:
        """The fields, buttons and settings of this way of asking, and what was said in it."""
        columns, writing = self._sitting.columns(way), self._sitting.writing(way)
        fields = [gradio.update(visible=name in columns, show_label=len(columns) > 1) for name in self._names]
        settings = (
            gradio.update(value=None if writing is None else writing.max_new_tokens),
            gradio.update(value=0.0 if writing is None else temperature_of(writing)),
        )
        return (
            *fields,
            gradio.update(visible=way == AS_IN_ITS_RUN and self._sitting.can_draw),
            gradio.update(visible=self._sitting.is_conversation(way)),
            gradio.update(visible=writing is not None),
            *settings,
            *self._shown(way, turns),
        )

    def _turned(self, way: str, turns: dict[str, Turns]) -> tuple[Any, ...]:
        """The same once more was said; a conversation goes on with an empty field."""
        field = "" if self._sitting.is_conversation(way) else gradio.skip()
        return *self._shown(way, turns), turns, *([field] * len(self._names))

    def _shown(self, way: str, turns: dict[str, Turns]) -> tuple[str, str, str]:
        said, converse = turns.get(way, ()), self._sitting.is_conversation(way)
        asked = [column for column in self._columns if column.name in self._sitting.names(way)]
        answers = columns_html(asked, said, is_conversation=converse)
        return "", answers, "" if converse else before_html(asked, said)


def _html(text: str) -> gradio.HTML:
    return gradio.HTML(text, apply_default_css=False)
