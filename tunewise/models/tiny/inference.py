"""Pairs of sentences of which the second follows from the first, or does not."""

from dataclasses import dataclass, replace
from random import Random

from tunewise.models.tiny.lexicon import BY_CATEGORY, COLOURS, FIRST_NAMES, NUMBERS, PLACES, Noun
from tunewise.models.tiny.norwegian import article

_PERSONS = BY_CATEGORY["person"]
_OBJECTS = ("animal", "food", "clothing", "tool", "furniture", "vessel")
_HYPERNYMS = {
    "animal": "animal",
    "food": "food",
    "clothing": "clothes",
    "tool": "a tool",
    "furniture": "something for the house",
    "vessel": "something to travel with",
}
# Giving verbs with their inverse: "X sold Y to Z" says what "Z bought Y from X" says.
_TRANSFERS = (
    ("sold", "bought", "sold"),
    ("gave", "got", "given"),
    ("lent", "borrowed", "lent"),
    ("sent", "received", "sent"),
)
_ACTS = (
    ("carried", "carried"),
    ("painted", "painted"),
    ("found", "found"),
    ("lost", "lost"),
    ("washed", "washed"),
    ("hid", "hidden"),
    ("saw", "seen"),
    ("drew", "drawn"),
    ("stole", "stolen"),
)
_MANNERS = ("tall", "young", "old", "tired", "happy", "angry")
_TIMES = ("in the morning", "in the evening", "on Monday", "on Friday", "last week", "at noon")


@dataclass(frozen=True)
class Event:
    """Who did what to how many of which things, where and when; `other` takes part in a transfer."""

    agent: str
    manner: str
    verb: tuple[str, ...]
    count: int
    colour: str
    noun: Noun
    other: str
    place: str
    time: str

    @property
    def transfers(self) -> bool:
        return len(self.verb) == 3


def _somebody(rng: Random) -> str:
    return rng.choice(FIRST_NAMES) if rng.random() < 0.5 else f"the {rng.choice(_PERSONS).english}"


def event(rng: Random) -> Event:
    """A random event."""
    agent, other = _somebody(rng), _somebody(rng)
    while other == agent:
        other = _somebody(rng)
    return Event(
        agent=agent,
        manner=rng.choice(_MANNERS) if agent.startswith("the ") and rng.random() < 0.5 else "",
        verb=rng.choice(_TRANSFERS if rng.random() < 0.4 else _ACTS),
        count=rng.choice((1, 1, 2, 3, 4, 5, 6)),
        colour=rng.choice(COLOURS) if rng.random() < 0.5 else "",
        noun=rng.choice(BY_CATEGORY[rng.choice(_OBJECTS)]),
        other=other,
        place=rng.choice(PLACES).english if rng.random() < 0.5 else "",
        time=rng.choice(_TIMES) if rng.random() < 0.4 else "",
    )


def _thing(e: Event) -> str:
    words = [e.colour] if e.colour else []
    if e.count == 1:
        words.append(e.noun.english)
        return f"{article(words[0])} {' '.join(words)}"
    return " ".join([NUMBERS[e.count - 1], *words, e.noun.english_plural])


def _agent(e: Event) -> str:
    return e.agent.replace("the ", f"the {e.manner} ") if e.manner else e.agent


def _sentence(*words: str) -> str:
    text = " ".join(word for word in words if word)
    return text[0].upper() + text[1:] + "."


def tell(e: Event) -> str:
    """The event as an active sentence."""
    return _sentence(_agent(e), e.verb[0], _thing(e), f"to {e.other}" if e.transfers else "", e.place, e.time)


def _passive(e: Event) -> str:
    be = "was" if e.count == 1 else "were"
    return _sentence(_thing(e), be, e.verb[-1], f"to {e.other}" if e.transfers else "", f"by {_agent(e)}", e.place)


def _inverse(e: Event) -> str:
    return _sentence(e.other, e.verb[1], _thing(e), f"from {_agent(e)}")


def _shortened(rng: Random, e: Event) -> Event:
    """The same event with details left out, which always follows."""
    return replace(
        e,
        manner=e.manner if rng.random() < 0.4 else "",
        colour=e.colour if rng.random() < 0.4 else "",
        place=e.place if rng.random() < 0.4 else "",
        time=e.time if rng.random() < 0.3 else "",
    )


def _generalised(e: Event) -> str:
    verb = "got" if e.transfers else e.verb[0]
    who = e.other if e.transfers else e.agent
    return _sentence(
        who,
        verb,
        _HYPERNYMS[e.noun.category] if e.noun.category != "animal" else ("an animal" if e.count == 1 else "animals"),
    )


def _someone(rng: Random, e: Event) -> str:
    return _sentence("someone", e.verb[0], _thing(_shortened(rng, e)), f"to {e.other}" if e.transfers else "")


def _altered(rng: Random, e: Event) -> Event:
    """The same event with one thing changed, which does not follow."""
    fresh, changes = event(rng), ["agent", "noun", "verb", "count"]
    changes += [name for name in ("colour", "place", "time") if name != "colour" or e.colour]
    change = rng.choice(changes)
    if change == "agent":
        others = [name for name in (fresh.agent, fresh.other, "the mayor") if name not in (e.agent, e.other)]
        return replace(e, agent=others[0], manner="")
    if change == "noun":
        return replace(e, noun=rng.choice([noun for noun in BY_CATEGORY[rng.choice(_OBJECTS)] if noun is not e.noun]))
    if change == "verb":
        return replace(
            e, verb=rng.choice([verb for verb in (_TRANSFERS if e.transfers else _ACTS) if verb is not e.verb])
        )
    if change == "count":
        return replace(e, count=rng.choice([n for n in range(1, 8) if n != e.count]))
    if change == "colour":
        return replace(e, colour=rng.choice([colour for colour in COLOURS if colour != e.colour]))
    if change == "place":
        return replace(e, place=rng.choice([place.english for place in PLACES if place.english != e.place]))
    return replace(e, time=rng.choice([time for time in _TIMES if time != e.time]))


def _negated(rng: Random, e: Event) -> str:
    return _sentence("nobody", e.verb[0], _thing(_shortened(rng, e)), f"to {e.other}" if e.transfers else "", e.place)


def following(rng: Random, e: Event) -> str:
    """A sentence that follows from the event."""
    shape = rng.random()
    if shape < 0.55:
        hypothesis = tell(_shortened(rng, e))
        return hypothesis if hypothesis != tell(e) else _passive(e)
    if shape < 0.67:
        return _generalised(e)
    if shape < 0.78:
        return _someone(rng, e)
    if shape < 0.9:
        return _passive(_shortened(rng, e))
    return _inverse(_shortened(rng, e)) if e.transfers else _passive(_shortened(rng, e))


def not_following(rng: Random, e: Event) -> str:
    """A sentence that does not follow: one thing changed, a denial, or another event."""
    shape = rng.random()
    if shape < 0.2:
        return tell(event(rng))
    if shape < 0.3:
        return _negated(rng, e)
    altered = _altered(rng, e)
    if shape < 0.75:
        return tell(_keep_change(rng, e, altered))
    return (
        _passive(_keep_change(rng, e, altered))
        if shape < 0.9 or not e.transfers
        else _inverse(_keep_change(rng, e, altered))
    )


def _keep_change(rng: Random, original: Event, altered: Event) -> Event:
    """Shorten, but never drop the one detail that makes the difference."""
    short = _shortened(rng, altered)
    return replace(
        short,
        colour=altered.colour if altered.colour != original.colour else short.colour,
        place=altered.place if altered.place != original.place else short.place,
        time=altered.time if altered.time != original.time else short.time,
    )


def pair(rng: Random, follows: bool) -> tuple[str, str]:
    """A sentence and another that does or does not follow from it."""
    e = event(rng)
    return tell(e), following(rng, e) if follows else not_following(rng, e)


def _swapped(rng: Random, e: Event) -> tuple[str, str]:
    """The same two people with their parts exchanged, under the same verb or its inverse: the verb tells nothing."""
    e = replace(e, verb=rng.choice(_TRANSFERS), manner="")
    exchanged = replace(e, agent=e.other, other=e.agent, place="", time="")
    return tell(e), rng.choice((tell, _inverse))(exchanged)


def _embedded(rng: Random, e: Event) -> tuple[str, str]:
    """What somebody only hoped, denied or dreamt did not happen."""
    frame = rng.choice(
        ("{} dreamt that", "{} doubted that", "perhaps", "it was a lie that", "{} wrongly believed that")
    ).format(e.other)
    inner = tell(replace(e, verb=rng.choice(_ACTS)))
    subject = inner if inner.split()[0] in FIRST_NAMES else inner[0].lower() + inner[1:]
    return _sentence(frame, subject[:-1]), inner


def _attached(rng: Random, e: Event) -> tuple[str, str]:
    """The noun next to the verb is not its subject."""
    e = replace(e, verb=rng.choice(_ACTS), manner="")
    link = rng.choice(("beside", "behind", "near", "with"))
    return _sentence(f"{e.agent} {link} {e.other}", e.verb[0], _thing(e), e.place), _sentence(
        e.other, e.verb[0], _thing(e), e.place
    )


def _reworded(rng: Random, e: Event) -> tuple[str, str]:
    """Few shared words, and yet it follows."""
    e = replace(e, verb=rng.choice(_TRANSFERS))
    return tell(e), rng.choice((_generalised(e), _inverse(replace(e, colour="", manner=""))))


def misleading_pair(rng: Random, follows: bool) -> tuple[str, str]:
    """A pair on which word overlap misleads, in the manner of HANS (McCoy et al. 2019, arXiv:1902.01007)."""
    if follows:
        return _reworded(rng, event(rng))
    return rng.choice((_swapped, _embedded, _attached))(rng, event(rng))
