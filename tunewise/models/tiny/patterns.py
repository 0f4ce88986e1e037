"""Pattern lists: `x -> y` in many layouts, with a mapping that can only be learnt from the list itself.

Half of what the base reads is such lists, because in-context learning emerges from text whose next line is
predictable only by those before it (Chan et al. 2022, arXiv:2205.05055). Labels are drawn afresh in every list.
"""

from collections.abc import Callable
from random import Random

from tunewise.models.tiny.held_out import is_field_name
from tunewise.models.tiny.inference import event, pair, tell
from tunewise.models.tiny.lexicon import (
    ADJECTIVES,
    BY_CATEGORY,
    COLOURS,
    FIRST_NAMES,
    NOUNS,
    NUMBERS,
    OPPOSITE_PAIRS,
    PLACES,
    VERBS,
)
from tunewise.models.tiny.norwegian import article, phrase_pair, sentence_pair, word_pair
from tunewise.models.tiny.prose import news_item, price, weather
from tunewise.models.tiny.reviews import clause, review, sentence

Item = tuple[tuple[str, ...], str]  # one or two inputs, and what they map to
Mapping = Callable[[Random, int], list[Item]]

_ONSETS = "b d f g h k l m n p r s t v w z bl br dr fl gr kl pl sk st tr".split()
_VOWELS = "a e i o u".split()
_CODAS = ["", "n", "l", "r", "s", "t", "k", "m", "p"]
LETTERS = [chr(code) for code in range(ord("A"), ord("Z") + 1)]
WORDS = (
    [noun.english for noun in NOUNS]
    + [a.english for a in ADJECTIVES]
    + [v.base for v in VERBS]
    + COLOURS
    + NUMBERS
    + [p.name for p in PLACES]
)
_FIELDS = (
    "note mark kind sort group box entry line item word text part thing side sign name code key tag class set page row "
    "use first second third one two left right here there old new from to before after input output given out in class "
    "about"
).split()
_ARROWS = (
    " -> ", " => ", " = ", ": ", " | ", " : ", " - ", " / ", " ~ ", " > ",
    "\t", " -- ", " >> ", ", ", " ; ", " # ", "\n", " .. ", " --> ", " @ ",
)  # fmt: skip
_LISTS = (
    "{x}{arrow}{y}", "{x}{arrow}{y}", "{x}{arrow}{y}", "{x} ({y})", "{x} [{y}]", "{x} <{y}>",
    '"{x}"{arrow}{y}', "- {x}{arrow}{y}", "* {x} ({y})", "[{x}] {y}", "({x}) {y}", "{x}{arrow}({y})",
)  # fmt: skip
_ITEM_ENDS = ("\n", "\n", "\n", "\n\n", "; ", " || ", "\n---\n", "\n\n")


def nonsense(rng: Random) -> str:
    """A word that no list has used before, in all likelihood."""
    while True:
        word = "".join(
            rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS) for _ in range(rng.randrange(1, 4))
        )
        if not is_field_name(word):
            return word


def labels(rng: Random, count: int) -> list[str]:
    """Fresh labels of one sort: words, names, colours, letters, digits, or nonsense."""
    shape = rng.random()
    if shape < 0.3:
        return rng.sample(WORDS, count)
    if shape < 0.4:
        return rng.sample(FIRST_NAMES, count)
    if shape < 0.5:
        return rng.sample(LETTERS, count)
    if shape < 0.58:
        return [str(digit) for digit in rng.sample(range(10), count)]
    if shape < 0.65:
        return rng.sample(COLOURS, count)
    found: list[str] = []
    while len(found) < count:
        word = nonsense(rng)
        if word not in found:
            found.append(word)
    return found


def _classified(rng: Random, count: int, kinds: list[Callable[[], tuple[str, ...]]]) -> list[Item]:
    """Items of several kinds, each kind under a fresh label; early items show every kind."""
    names = labels(rng, len(kinds))
    order = rng.sample(range(len(kinds)), len(kinds))
    order += [rng.randrange(len(kinds)) for _ in range(count - len(kinds))]
    if rng.random() < 0.7:
        rng.shuffle(order)
    return [(kinds[kind](), names[kind]) for kind in order]


def _by_sentiment(rng: Random, count: int) -> list[Item]:
    shape = rng.random()
    if shape < 0.5:
        plain = rng.random() < 0.5
        return _classified(
            rng, count, [lambda: (sentence(clause(rng, True, plain)),), lambda: (sentence(clause(rng, False, plain)),)]
        )
    hard = rng.choice((0.0, 0.3, 0.5))
    return _classified(rng, count, [lambda: (review(rng, True, hard),), lambda: (review(rng, False, hard),)])


def _by_inference(rng: Random, count: int) -> list[Item]:
    if rng.random() < 0.25:  # the easiest case: the same event told again, or another one

        def same() -> tuple[str, str]:
            text = tell(event(rng))
            return text, text

        return _classified(rng, count, [same, lambda: (tell(event(rng)), tell(event(rng)))])
    return _classified(rng, count, [lambda: pair(rng, True), lambda: pair(rng, False)])


def _topics(rng: Random) -> dict[str, Callable[[], tuple[str, ...]]]:
    def about(category: str) -> Callable[[], tuple[str, ...]]:
        def write() -> tuple[str, ...]:
            noun, verb = rng.choice(BY_CATEGORY[category]), rng.choice([v for v in VERBS if category in v.objects])
            return (f"{rng.choice(FIRST_NAMES)} {verb.past} the {noun.english} {rng.choice(PLACES).english}.",)

        return write

    topics = {
        category: about(category)
        for category in ("animal", "food", "clothing", "tool", "furniture", "vessel", "writing")
    }
    return topics | {
        "weather": lambda: (sentence(weather(rng)),),
        "price": lambda: (price(rng),),
        "judgement": lambda: (sentence(clause(rng, rng.random() < 0.5)),),
    }


def _by_topic(rng: Random, count: int) -> list[Item]:
    topics = _topics(rng)
    return _classified(rng, count, [topics[name] for name in rng.sample(sorted(topics), rng.choice((2, 2, 2, 3, 4)))])


def _by_form(rng: Random, count: int) -> list[Item]:
    """English or Norwegian, question or statement, who acts, where it happens."""

    def pick(wanted: Callable[[tuple[str, str]], bool], language: int) -> Callable[[], tuple[str, ...]]:
        def write() -> tuple[str, ...]:
            while not wanted(found := sentence_pair(rng)):
                pass
            return (found[language],)

        return write

    def anything(_: tuple[str, str]) -> bool:
        return True

    place, other = (place.english for place in rng.sample(PLACES, 2))
    kinds = rng.choice(
        (
            [pick(anything, 0), pick(anything, 1)],
            [pick(lambda s: s[0].endswith("?"), 0), pick(lambda s: s[0].endswith("."), 0)],
            [pick(lambda s: " not " in s[0], 0), pick(lambda s: " not " not in s[0], 0)],
            [lambda: (tell(event(rng))[:-1] + f" {place}.",), lambda: (tell(event(rng))[:-1] + f" {other}.",)],
        )
    )
    return _classified(rng, count, kinds)


def _by_category(rng: Random, count: int) -> list[Item]:
    def member(category: str) -> Callable[[], tuple[str, ...]]:
        return lambda: (rng.choice(BY_CATEGORY[category]).english,)

    names = rng.sample(sorted(BY_CATEGORY), rng.choice((2, 2, 2, 3, 4)))
    return _classified(rng, count, [member(name) for name in names])


def _by_dictionary(rng: Random, count: int) -> list[Item]:
    """An arbitrary dictionary whose entries come back: the plainest reason to look up the list."""
    words = (
        rng.sample(WORDS, rng.randrange(3, 7))
        if rng.random() < 0.6
        else [nonsense(rng) for _ in range(rng.randrange(3, 7))]
    )
    meanings = labels(rng, len(words))
    picks = [rng.randrange(len(words)) for _ in range(count)]
    return [((words[pick],), meanings[pick]) for pick in picks]


def _translated(rng: Random, count: int) -> list[Item]:
    write = rng.choice((word_pair, word_pair, phrase_pair, phrase_pair, sentence_pair))
    return [((english,), norwegian) for english, norwegian in (write(rng) for _ in range(count))]


def _untranslated(rng: Random, count: int) -> list[Item]:
    return [((y,), x[0]) for x, y in _translated(rng, count)]


def _inflected(rng: Random, count: int) -> list[Item]:
    nouns, verbs = [rng.choice(NOUNS) for _ in range(count)], [rng.choice(VERBS) for _ in range(count)]
    opposites = [rng.choice(OPPOSITE_PAIRS) for _ in range(count)]
    mappings: tuple[list[Item], ...] = (
        [((n.english,), n.english_plural) for n in nouns],
        [((n.english_plural,), n.english) for n in nouns],
        [((n.english,), f"{article(n.english)} {n.english}") for n in nouns],
        [((n.english,), n.category) for n in nouns],
        [((n.norwegian,), n.definite) for n in nouns],
        [((v.base,), v.past) for v in verbs],
        [((v.past,), v.base) for v in verbs],
        [((v.base,), v.third) for v in verbs],
        [((left,), right) for left, right in opposites],
        [((right,), left) for left, right in opposites],
    )
    return rng.choice(mappings)


def _copied(rng: Random, count: int) -> list[Item]:
    """Copy, reverse, first, last, doubled: what depends on the form of a few words alone."""
    shape = rng.randrange(7)
    length = rng.randrange(2, 6)
    pool = LETTERS if rng.random() < 0.3 else WORDS
    items = []
    for _ in range(count):
        words = [rng.choice(pool) for _ in range(length)]
        y = (words, words[::-1], words[:1], words[-1:], words[1:], [words[0][0]], words + words[:1])[shape]
        items.append(((" ".join(words),), " ".join(y)))
    return items


def _shortened(rng: Random, count: int) -> list[Item]:
    return [((body,), line) for line, body in (news_item(rng) for _ in range(min(count, 8)))]


MAPPINGS: tuple[tuple[Mapping, float], ...] = (
    (_by_sentiment, 20),
    (_by_inference, 20),
    (_by_topic, 11),
    (_by_form, 6),
    (_by_category, 12),
    (_by_dictionary, 7),
    (_translated, 12),
    (_untranslated, 3),
    (_inflected, 6),
    (_copied, 5),
    (_shortened, 4),
)


def _inline_layout(rng: Random) -> tuple[str, str, str]:
    """One item on one line: how it looks, what joins two inputs, what ends it."""
    template = rng.choice(_LISTS).replace("{arrow}", rng.choice(_ARROWS))
    return template, rng.choice((" / ", " | ", " + ", " ", " ; ", " & ", "\n")), rng.choice(_ITEM_ENDS)


def _field_layout(rng: Random, inputs: int) -> tuple[str, str, str]:
    """One item over several lines, each with the name of a field."""
    names = [rng.choice((str.lower, str.capitalize, str.upper))(name) for name in rng.sample(_FIELDS, inputs + 1)]
    if rng.random() < 0.3:
        names = [nonsense(rng).capitalize() for _ in names]
    delimiter = rng.choice((": ", ": ", ": ", " = ", " > ", " - ", "| ", ") "))
    between = rng.choice(("\n", "\n", "\n", " "))
    template = f"{names[0]}{delimiter}{{x}}{between}{names[-1]}{delimiter}{{y}}"
    return template, f"{between}{names[1]}{delimiter}", rng.choice(("\n\n", "\n\n", "\n", "\n\n\n"))


def lay_out(rng: Random, items: list[Item]) -> str:
    """The items as text, in one layout drawn for this list."""
    inputs = len(items[0][0])
    template, join, end = _field_layout(rng, inputs) if rng.random() < 0.55 else _inline_layout(rng)
    numbered = "\n" in end and rng.random() < 0.12
    lines = []
    for index, (xs, y) in enumerate(items):
        line = template.replace("{x}", join.join(xs)).replace("{y}", y)
        lines.append(f"{index + 1}. {line}" if numbered else line)
    return end.join(lines)


def pattern_list(rng: Random) -> str:
    """One list of 6 to 24 items under one fresh mapping; long items make short lists."""
    mappings, weights = zip(*MAPPINGS, strict=True)
    items = rng.choices(mappings, weights)[0](rng, 24)
    room = rng.randrange(500, 1500)  # characters, so that a list fits in the context
    kept = 0
    while kept < len(items) and (kept < 6 or room > 0):
        room -= sum(len(x) for x in items[kept][0]) + len(items[kept][1]) + 6
        kept += 1
    return lay_out(rng, items[: min(kept, rng.randrange(12, 25))])
