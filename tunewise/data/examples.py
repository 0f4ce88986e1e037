"""What every row becomes: text in parts, some of them trained; and the ledger that accounts for each row."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """A stretch of an example's text, and whether the model is trained to produce it."""

    text: str
    trained: bool


@dataclass(frozen=True)
class Example:
    """One row as text. `line` is where the row starts in its file, from 1.

    `label` is set in classification, and in regression, where it is a number written out. A classifier reads no
    template but the `texts` themselves: one, the two of a pair, or the words that `tags` belong to; or an `image`.
    """

    id: str
    parts: tuple[Part, ...]
    label: str | None = None
    line: int = 0
    texts: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    image: str = ""
    """The path of an image file."""
    choices: tuple[str, ...] = ()
    """Multiple choice: the answer that each choice would be; `label` is the letter of the right one. Of a minimal pair
    the good sentence and the bad one."""
    accepted: tuple[str, ...] = ()
    """Every right answer, where there can be others than the one that is trained."""
    source: str = ""
    """In a mixture, the name of its source."""
    end: str = ""
    """What a chat template ends the answer with, such as <|im_end|>; "" where it is the tokenizer's end token."""
    apart: tuple["Example", ...] = ()
    """Earlier answers of the same conversation, where they have to stand in texts of their own."""
    group: str = ""
    """What it shares with rows that must not fall into another split, such as an author."""
    mould: str = ""
    """In an instruction set, by which template and in which form it is asked: words that tell no row from another."""

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join(part.text for part in self.parts)

    @property
    def prompt(self) -> str:
        """The text before the last trained part; the whole text when nothing is trained."""
        return "".join(part.text for part in self.parts[: self._last_trained()])

    @property
    def answer(self) -> str:
        """The text of the last trained part; "" when nothing is trained."""
        last = self._last_trained()
        return self.parts[last].text if last < len(self.parts) else ""

    @property
    def asked(self) -> str:
        """What it is asked, without the words of a template where those are known apart from it."""
        if self.texts:
            return "\n".join((*self.texts, *self.choices))
        return self.prompt or "\n".join(self.choices) or self.text

    def _last_trained(self) -> int:
        last = len(self.parts) - 1
        while last >= 0 and not self.parts[last].trained:
            last -= 1
        return last if last >= 0 else len(self.parts)


@dataclass(frozen=True)
class Note:
    """Something to say about one row."""

    line: int
    reason: str


@dataclass(frozen=True)
class Ledger:
    """Every row accounted for: rows + more = trained + len(rejected), and every truncated row is also a trained one."""

    rows: int = 0
    trained: int = 0
    truncated: tuple[Note, ...] = ()
    rejected: tuple[Note, ...] = ()
    leaks: tuple[Note, ...] = ()
    detected: str = ""
    replayed: int = 0
    """Of the trained rows, those of other sources."""
    more: int = 0
    """Answers of conversations that are rows of their own, beyond one answer of each row."""

    def sentence(self) -> str:
        """The account in words, with the first reason of each kind."""
        replayed = f"{self.replayed} of them replayed, " if self.replayed else ""
        more = f" and {self.more} more answers of theirs, each as a row of its own" if self.more else ""
        text = f"{self.rows} rows{more}: {self.trained} used, {replayed}"
        text += f"{len(self.truncated)} cut, {len(self.rejected)} rejected"
        for name, notes in (("cut", self.truncated), ("rejected", self.rejected), ("leak", self.leaks)):
            if notes:
                more = f" (and {len(notes) - 1} more)" if len(notes) > 1 else ""
                text += f"; {name}: line {notes[0].line}: {notes[0].reason}{more}"
        return text
