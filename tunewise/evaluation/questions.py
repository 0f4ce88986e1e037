"""Examples -> prompts as token ids: the demonstrations before them, and what fits into the context.

Demonstrations are drawn from train, all classes alike or by their shares, and ordered, both by seed; every question
gets the same ones.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from transformers import PreTrainedTokenizerBase

from tunewise.data.encode import Encoded, Ids
from tunewise.data.examples import Example
from tunewise.data.splits import few_shot
from tunewise.data.streamed import witnesses_of
from tunewise.data.task import Task


@dataclass(frozen=True)
class Questions:
    """A part of a task as ids, ready to be asked of any model with this tokenizer; row by row in the order given."""

    task: Task
    examples: tuple[Example, ...]
    demonstrations: tuple[Example, ...]
    prompts: list[list[int]]
    answers: list[list[int]]
    """The expected answer's ids, as they continue the prompt."""
    options: list[list[list[int]]]
    """The ids of each label's answer; empty rows unless the task is a classification."""
    n_dropped: list[int]
    """Demonstrations left out, the first ones first, so that the prompt fits."""
    truncated: list[bool]
    """Whether the prompt lost its own beginning, demonstrations aside."""
    n_bare: list[int]
    """Tokens of the prompt that are its question's own: all but demonstrations and the separators behind them."""
    without_content: "Questions | None" = None
    """What is asked to calibrate the labels, behind the same demonstrations; None where they are not."""


@dataclass(frozen=True)
class LabelledRows:
    """A part of a task as a classifier reads it."""

    task: Task
    examples: tuple[Example, ...]
    rows: Sequence[Encoded]

    @property
    def shown(self) -> list[str]:
        """What each row asks, for a person: its text, or the name of its image."""
        return [one.id if one.image else "\n".join(one.texts) for one in self.examples]


def ask(
    task: Task,
    examples: Sequence[Example],
    tokenizer: PreTrainedTokenizerBase,
    *,
    ids_by: type[Ids] = Ids,
    room: int | None = None,
    shots: int = 0,
    seed: int = 0,
    balanced: bool = True,
) -> Questions:
    """Encode `examples`, with `shots` demonstrations; prompt and answer together take at most `room` tokens.

    `balanced` shows as many of each class; otherwise classes keep their shares.
    `ids_by` is how the base cuts prompts and answers: `SeparateIds` for an encoder-decoder.
    """
    demonstrations = few_shot(task.train, shots, seed, balanced) if shots else ()
    shown = [one.prompt + one.answer + one.end for one in demonstrations]
    found = Questions(task, tuple(examples), demonstrations, [], [], [], [], [], [])
    join = partial(_joined, task.separator, str(tokenizer.bos_token or "") if task.chat else "")
    whole = [join([*shown, example.prompt]) for example in examples]
    asked = [
        text
        for example in examples
        for text in (example.prompt, *(example.prompt + end for end in (example.answer, *task.options(example))))
    ]
    ids = ids_by(tokenizer, [*whole, *asked])  # all in one call: many times faster than one after the other
    for example in examples:
        answer = ids.answer(example.prompt, example.answer)
        options = [ids.answer(example.prompt, option) for option in task.options(example)]
        longest = task.max_new_tokens if task.kind == "generation" else max(map(len, [*options, answer]))
        budget = None if room is None else max(1, room - longest)
        prompt, n_dropped, truncated = _prompt([*shown, example.prompt], join, ids, budget)
        # an empty prompt leaves the first token of the answer without anything to be predicted from
        found.prompts.append(prompt or [tokenizer.eos_token_id])
        found.answers.append(answer)
        found.options.append(options)
        found.n_dropped.append(n_dropped)
        found.truncated.append(truncated)
        found.n_bare.append(min(len(ids.prompt(example.prompt)) or 1, len(found.prompts[-1])))
    return found


def stop_text(task: Task) -> str:
    """Where a generated answer ends: before the first separator of the task, whoever wrote it.

    A base that was shown demonstrations goes on with the next one after its answer, so the separator ends an answer
    for every model alike; unless expected answers contain it themselves, in which case only the end token ends one.
    """
    if task.gist is not None:
        return task.gist.stop
    parts = (witnesses_of(part) for part in (task.train, task.dev, task.test))
    inside = any(task.separator in example.answer for part in parts for example in part)
    return "" if inside else task.separator


def _joined(separator: str, begin: str, parts: Sequence[str]) -> str:
    """Demonstrations and the question; a begin token that a chat template writes stands before the first alone."""
    first, *others = parts
    return separator.join([first, *(part.removeprefix(begin) for part in others)])


def _prompt(
    parts: Sequence[str], join: Callable[[Sequence[str]], str], ids: Ids, budget: int | None
) -> tuple[list[int], int, bool]:
    """(ids, demonstrations left out, truncated) of one prompt of at most `budget` tokens; its question is the last."""
    prompt: list[int] = []
    for n_dropped in range(len(parts)):
        prompt = ids.prompt(join(parts[n_dropped:]))
        if budget is None or len(prompt) <= budget:
            return prompt, n_dropped, False
    begin = ids.begin if budget > len(ids.begin) else []
    return begin + prompt[len(prompt) - budget + len(begin) :], len(parts) - 1, True
