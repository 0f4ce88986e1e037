"""Pages that come back to what they said: the shortest way to heads that look things up in the text so far.

Two million tokens of mixed text in rows of 512 did not bring such heads forth (Olsson et al. 2022, arXiv:2209.11895,
call them induction heads); short pages of this sort, read in short rows, do. All in-context learning builds on them.
"""

from random import Random

from tunewise.models.tiny.lexicon import BY_CATEGORY, FIRST_NAMES
from tunewise.models.tiny.patterns import LETTERS, WORDS, Item, labels, lay_out, nonsense
from tunewise.models.tiny.reviews import clause, review, sentence

_GAPS = (" ", " ", ", ", "\n", " - ", "; ")
_ARROWS = (" -> ", ": ", " = ", " | ", " => ", ", ", "\n")


def _words(rng: Random, count: int) -> list[str]:
    shape = rng.random()
    if shape < 0.7:
        return [rng.choice(WORDS) for _ in range(count)]
    if shape < 0.8:
        return [rng.choice(FIRST_NAMES) for _ in range(count)]
    if shape < 0.9:
        return [rng.choice(LETTERS) for _ in range(count)]
    return [nonsense(rng) for _ in range(count)]


def repetition(rng: Random) -> str:
    """A row of words, then the same row again, two to five times in all."""
    gap, turns = rng.choice(_GAPS), rng.randrange(2, 6)
    row = gap.join(_words(rng, rng.randrange(6, 40)))
    return rng.choice(("\n", "\n\n", gap)).join([row] * turns)


def _list(rng: Random, items: list[tuple[str, str]]) -> str:
    """One item a line as a rule; every fourth list in any layout of the pattern lists."""
    if rng.random() < 0.25:
        return lay_out(rng, [((x,), y) for x, y in items])
    arrow = rng.choice(_ARROWS)
    return rng.choice(("\n", "\n", "\n\n", "; ")).join(f"{x}{arrow}{y}" for x, y in items)


def glossary(rng: Random) -> str:
    """A small dictionary whose entries come back again and again."""
    entries = rng.randrange(3, 9)
    words, meanings = rng.sample(WORDS, entries), labels(rng, entries)
    picks = [rng.randrange(entries) for _ in range(rng.randrange(20, 45))]
    return _list(rng, [(words[pick], meanings[pick]) for pick in picks])


def sorted_words(rng: Random) -> str:
    """Words of two or three kinds, each kind under a fresh label."""
    kinds = rng.sample(sorted(BY_CATEGORY), rng.choice((2, 2, 3)))
    names = labels(rng, len(kinds))
    picks = [rng.randrange(len(kinds)) for _ in range(rng.randrange(20, 45))]
    return _list(rng, [(rng.choice(BY_CATEGORY[kinds[pick]]).english, names[pick]) for pick in picks])


def sorted_judgements(rng: Random) -> str:
    """Plain judgements, good and bad, each under a fresh label."""
    names = labels(rng, 2)
    picks = [rng.randrange(2) for _ in range(rng.randrange(12, 24))]
    return _list(rng, [(sentence(clause(rng, pick == 0, plain=True)), names[pick]) for pick in picks])


def short_drill(rng: Random) -> str:
    """A page of a few dozen words: a short row said again, or a list of two labels."""
    shape = rng.random()
    if shape < 0.4:
        gap = rng.choice(_GAPS)
        row = gap.join(_words(rng, rng.randrange(4, 16)))
        return rng.choice(("\n", "\n\n", gap)).join([row] * rng.randrange(2, 5))
    count, names = rng.randrange(8, 17), rng.sample(WORDS, 3)
    if shape < 0.7:
        words = rng.sample(WORDS, rng.randrange(2, 5))
        meanings = [rng.choice(names) for _ in words]
        picks = [rng.randrange(len(words)) for _ in range(count)]
        return _list(rng, [(words[pick], meanings[pick]) for pick in picks])
    if shape < 0.9:
        kinds = [BY_CATEGORY[kind] for kind in rng.sample(sorted(BY_CATEGORY), 2)]
        picks = [rng.randrange(2) for _ in range(count)]
        return _list(rng, [(rng.choice(kinds[pick]).english, names[pick]) for pick in picks])
    picks = [rng.randrange(2) for _ in range(rng.randrange(5, 10))]
    return _list(rng, [(sentence(clause(rng, pick == 0, plain=True)), names[pick]) for pick in picks])


def judgement_list(rng: Random) -> str:
    """Judgements or short reviews in any layout of the pattern lists, good and bad under fresh labels."""
    names = rng.sample(WORDS, 2) if rng.random() < 0.6 else labels(rng, 2)
    plain = rng.random() < 0.5
    items: list[Item] = []
    for _ in range(rng.randrange(10, 17) if plain else rng.randrange(8, 11)):
        bad = rng.randrange(2)
        text = sentence(clause(rng, not bad, plain=True)) if plain else review(rng, not bad, hard=0.15)
        items.append(((text,), names[bad]))
    return lay_out(rng, items)
