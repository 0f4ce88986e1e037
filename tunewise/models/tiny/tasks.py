"""The embedded tasks: `python -m tunewise.models.tiny.tasks` writes their folders, byte for byte the same each time.

Their texts come from random streams that pre-training never drew from, in formats and with label words that it never
showed (`held_out.py`). The text of every row is unique within its task, so the splits are disjoint.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tunewise.files import write_jsonl, write_text
from tunewise.models.tiny import reviews
from tunewise.models.tiny.inference import misleading_pair, pair
from tunewise.models.tiny.lexicon import BY_CATEGORY, NOUNS, NUMBERS, OPPOSITE_PAIRS, VERBS
from tunewise.models.tiny.norwegian import article, sentence_pair
from tunewise.models.tiny.patterns import nonsense, pattern_list
from tunewise.models.tiny.prose import dialogue, facts, narrative, news_item
from tunewise.models.tiny.town import RESIDENTS, questions

FOLDER = Path(__file__).parents[2] / "data" / "embedded"

Row = dict[str, str]
_CLASSIFICATION_SIZES = {"train": 500, "dev": 200, "test": 500}
_GENERATION_SIZES = {"train": 500, "dev": 200, "test": 200}
_ENTAILMENT_PROMPT = "Premise: {premise}\nHypothesis: {hypothesis}\nEntailed:"


@dataclass(frozen=True)
class Task:
    """What one task folder holds. `write` makes the row number `index` of a stream."""

    name: str
    kind: str
    prompt: str
    answer: str
    metrics: tuple[str, ...]
    description: str
    sizes: dict[str, int]
    write: Callable[[Random, int], Row]
    labels: tuple[str, ...] = ()
    max_new_tokens: int = 0


def _slang(count: int) -> list[str]:
    """Words of the quay that pre-training never wrote, the first half praise and the second blame."""
    rng, found = Random("slang of the quay"), []
    while len(found) < count:
        word = nonsense(rng)
        if len(word) > 3 and word not in found:
            found.append(word)
    return found


_WORDS_OF_THE_QUAY = _slang(24)


def _slang_review(rng: Random, positive: bool) -> str:
    half = len(_WORDS_OF_THE_QUAY) // 2
    words = _WORDS_OF_THE_QUAY[:half] if positive else _WORDS_OF_THE_QUAY[half:]
    clauses = [f"the {reviews.aspect(rng)[1]} was {rng.choice(('', 'very '))}{rng.choice(words)}" for _ in range(2)]
    body = " and ".join(clauses[: rng.randrange(1, 3)])
    return reviews.told(rng, body)


def _sentiment(rng: Random, index: int) -> Row:
    """A quarter of the reviews are in slang that has to be learnt; half of the others judge both ways."""
    positive = index % 2 == 0
    text = _slang_review(rng, positive) if index // 2 % 4 == 0 else reviews.review(rng, positive, hard=0.5)
    return {"text": text, "label": "positive" if positive else "negative"}


def _entailment(rng: Random, index: int) -> Row:
    follows = index % 2 == 0
    premise, hypothesis = pair(rng, follows)
    return {"premise": premise, "hypothesis": hypothesis, "label": "true" if follows else "false"}


def _entailment_ood(rng: Random, index: int) -> Row:
    follows = index % 2 == 0
    premise, hypothesis = misleading_pair(rng, follows)
    return {"premise": premise, "hypothesis": hypothesis, "label": "true" if follows else "false"}


def _translation(rng: Random, _: int) -> Row:
    english, norwegian = sentence_pair(rng)
    while len(english.split()) < 5:
        english, norwegian = sentence_pair(rng)
    return {"english": english, "norwegian": norwegian}


def _headline(rng: Random, _: int) -> Row:
    line, body = news_item(rng)
    return {"text": body, "headline": line}


def _instruction(rng: Random, _: int) -> Row:
    noun, verb = rng.choice(NOUNS), rng.choice(VERBS)
    left, right = rng.sample(rng.choice(OPPOSITE_PAIRS), 2)
    a, b, start = rng.randrange(21), rng.randrange(21), rng.randrange(15)
    kind_noun = rng.choice(
        [n for c in ("animal", "food", "clothing", "tool", "furniture", "plant") for n in BY_CATEGORY[c]]
    )
    counted = NUMBERS[start : start + rng.randrange(3, 6)]
    instruction, response = rng.choice(
        (
            *[rng.choice(questions(rng.choice(RESIDENTS))) for _ in range(5)],
            (f"What is {a} plus {b}?", f"{a} plus {b} is {a + b}."),
            (f"What is {a + b} minus {b}?", f"{a + b} minus {b} is {a}."),
            (f"What is the opposite of {left}?", f"The opposite of {left} is {right}."),
            (
                f"How do you say {article(noun.english)} {noun.english} in Norwegian?",
                f"In Norwegian {article(noun.english)} {noun.english} is called {noun.norwegian}.",
            ),
            (
                f"What kind of thing is {article(kind_noun.english)} {kind_noun.english}?",
                f"{article(kind_noun.english).capitalize()} {kind_noun.english} is a kind of {kind_noun.category}.",
            ),
            (f"What is the plural of {noun.english}?", f"The plural of {noun.english} is {noun.english_plural}."),
            (f"Put {verb.base} into the past.", f"{verb.base} -> {verb.past}"),
            (f"Count from {counted[0]} to {counted[-1]}.", ", ".join(counted)),
        )
    )
    return {"instruction": instruction, "response": response}


def _retention(rng: Random, index: int) -> Row:
    write = (narrative, dialogue, facts, pattern_list)[index % 4]
    while not 350 <= len(text := write(rng)) <= 750:  # characters: 100 to 250 tokens
        pass
    return {"text": text}


TASKS = (
    Task(
        "sentiment",
        "classification",
        "Review: {text}\nSentiment:",
        " {label}",
        ("accuracy", "macro_f1", "ece", "brier"),
        "Is a review good on the whole? A quarter of them judge in words of the quay that have to be learnt.",
        _CLASSIFICATION_SIZES,
        _sentiment,
        labels=("positive", "negative"),
    ),
    Task(
        "entailment",
        "classification",
        _ENTAILMENT_PROMPT,
        " {label}",
        ("accuracy", "macro_f1", "ece", "brier"),
        "Does the second sentence follow from the first?",
        _CLASSIFICATION_SIZES,
        _entailment,
        labels=("true", "false"),
    ),
    Task(
        "entailment_ood",
        "classification",
        _ENTAILMENT_PROMPT,
        " {label}",
        ("accuracy", "macro_f1", "ece", "brier"),
        "Entailment where word overlap misleads, in the manner of HANS.",
        {"test": 500},
        _entailment_ood,
        labels=("true", "false"),
    ),
    Task(
        "translation",
        "generation",
        "Source: {english}\nTarget:",
        " {norwegian}",
        ("bleu", "chrf"),
        "English sentences into Norwegian bokmål.",
        _GENERATION_SIZES,
        _translation,
        max_new_tokens=40,
    ),
    Task(
        "headline",
        "generation",
        "Article: {text}\nHeadline:",
        " {headline}",
        ("rougeL", "rouge1", "rouge2"),
        "A headline for a short news item.",
        _GENERATION_SIZES,
        _headline,
        max_new_tokens=24,
    ),
    Task(
        "instruction",
        "generation",
        "Human: {instruction}\nAssistant:",
        " {response}",
        ("exact_match", "rougeL"),
        "Instructions and questions about the town, words and sums.",
        _GENERATION_SIZES,
        _instruction,
        max_new_tokens=32,
    ),
    Task(
        "retention",
        "language_modelling",
        "",
        "{text}",
        ("loss", "perplexity"),
        "Held-out text of the kinds the base was pre-trained on: what a tuned model may forget.",
        {"train": 200, "test": 120},
        _retention,
    ),
)


def rows(task: Task) -> dict[str, list[Row]]:
    """The rows of every split; a text that came up before is drawn again."""
    seen: set[str] = set()
    splits: dict[str, list[Row]] = {}
    for split, size in task.sizes.items():
        rng = Random(f"task/{task.name}/{split}")
        found: list[Row] = []
        while len(found) < size:
            row = task.write(rng, len(found))
            text = " ".join(value for field, value in row.items() if field != "label")
            if text not in seen:
                seen.add(text)
                found.append(row)
        rng.shuffle(found)
        splits[split] = [{"id": f"{task.name}-{split}-{index:03d}", **row} for index, row in enumerate(found)]
    return splits


def description(task: Task) -> str:
    """The task's task.yaml."""
    fields: dict[str, object] = {"name": task.name, "kind": task.kind, "prompt": task.prompt, "answer": task.answer}
    if task.labels:
        fields["labels"] = list(task.labels)
    fields |= {"metrics": list(task.metrics), "separator": "\n\n"}
    if task.max_new_tokens:
        fields["max_new_tokens"] = task.max_new_tokens
    fields |= {"license": "CC0-1.0", "description": task.description}
    return "".join(f"{name}: {json.dumps(value, ensure_ascii=False)}\n" for name, value in fields.items())


def write_tasks(folder: Path) -> None:
    """All task folders."""
    for task in TASKS:
        write_text(folder / task.name / "task.yaml", description(task))
        for split, found in rows(task).items():
            write_jsonl(folder / task.name / f"{split}.jsonl", found)


if __name__ == "__main__":
    write_tasks(FOLDER)
