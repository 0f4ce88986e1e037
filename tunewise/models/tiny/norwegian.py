"""A small grammar that writes one sentence in English and Norwegian bokmål at once, agreement included."""

from dataclasses import dataclass
from random import Random

from tunewise.models.tiny.lexicon import (
    ADJECTIVE_BY_NAME,
    BY_CATEGORY,
    FIRST_NAMES,
    FITTING,
    NORWEGIAN_NUMBERS,
    NUMBERS,
    PLACES,
    THINGS,
    VERBS,
    Adjective,
    Noun,
    Verb,
)

Pair = tuple[str, str]  # English, Norwegian

_TIMES = (
    ("today", "i dag"),
    ("now", "nå"),
    ("often", "ofte"),
    ("every day", "hver dag"),
    ("in the evening", "om kvelden"),
    ("in winter", "om vinteren"),
    ("in summer", "om sommeren"),
)
_PAST_TIMES = (
    ("yesterday", "i går"),
    ("last week", "i forrige uke"),
    ("in the morning", "om morgenen"),
    ("on Monday", "på mandag"),
    ("last year", "i fjor"),
    ("on Friday", "på fredag"),
)
_ARTICLES = {"m": "en", "f": "ei", "n": "et"}
_POSSESSIVES = {
    "my": ("min", "mi", "mitt", "mine"),
    "your": ("din", "di", "ditt", "dine"),
    "his": ("hans",) * 4,
    "her": ("hennes",) * 4,
}
_PRONOUNS = (("I", "jeg"), ("you", "du"), ("he", "han"), ("she", "hun"), ("we", "vi"), ("they", "de"))


@dataclass(frozen=True)
class Phrase:
    """A noun phrase in both languages; `third` tells whether the English verb takes -s."""

    english: str
    norwegian: str
    third: bool = True
    gender: str = "m"
    plural: bool = False


def article(word: str) -> str:
    """`a` or `an`, as the word wants."""
    return "an" if word[0] in "aeiou" else "a"


def adjective_form(adjective: Adjective, gender: str, plural: bool, definite: bool) -> str:
    """The Norwegian form that agrees; `liten` alone has forms of its own for the feminine and the definite."""
    if adjective.english == "small" and not plural:
        if definite:
            return "lille"
        return {"m": "liten", "f": "lita", "n": "lite"}[gender]
    if plural or definite:
        return adjective.plural
    return adjective.neuter if gender == "n" else adjective.common


def _fitting_adjective(rng: Random, noun: Noun) -> Adjective:
    return ADJECTIVE_BY_NAME[rng.choice(FITTING[noun.category].split())]


def _indefinite(rng: Random, noun: Noun, adjective: Adjective | None) -> Phrase:
    if rng.random() < 0.25:
        count = rng.randrange(1, 12)
        words = [NUMBERS[count], adjective.english if adjective else "", noun.english_plural]
        ord_ = [
            NORWEGIAN_NUMBERS[count],
            adjective_form(adjective, noun.gender, True, False) if adjective else "",
            noun.plural,
        ]
        return Phrase(_join(words), _join(ord_), False, noun.gender, True)
    first = adjective.english if adjective else noun.english
    words = [article(first), adjective.english if adjective else "", noun.english]
    ord_ = [
        _ARTICLES[noun.gender],
        adjective_form(adjective, noun.gender, False, False) if adjective else "",
        noun.norwegian,
    ]
    return Phrase(_join(words), _join(ord_), True, noun.gender)


def _definite(noun: Noun, adjective: Adjective | None, plural: bool) -> Phrase:
    english = noun.english_plural if plural else noun.english
    norwegian = noun.definite_plural if plural else noun.definite
    if adjective is None:
        return Phrase(f"the {english}", norwegian, not plural, noun.gender, plural)
    determiner = "de" if plural else ("det" if noun.gender == "n" else "den")
    form = adjective_form(adjective, noun.gender, plural, True)
    return Phrase(
        f"the {adjective.english} {english}", f"{determiner} {form} {norwegian}", not plural, noun.gender, plural
    )


def _possessed(rng: Random, noun: Noun, plural: bool) -> Phrase:
    owner = rng.choice(tuple(_POSSESSIVES))
    form = _POSSESSIVES[owner][3 if plural else "mfn".index(noun.gender)]
    english = noun.english_plural if plural else noun.english
    norwegian = noun.definite_plural if plural else noun.definite
    return Phrase(f"{owner} {english}", f"{norwegian} {form}", not plural, noun.gender, plural)


def noun_phrase(rng: Random, categories: tuple[str, ...], subject: bool = False) -> Phrase:
    """A noun phrase headed by a noun of one of the categories."""
    noun = rng.choice(BY_CATEGORY[rng.choice(categories)])
    adjective = _fitting_adjective(rng, noun) if rng.random() < 0.4 else None
    shape = rng.random()
    if shape < (0.15 if subject else 0.5):
        return _indefinite(rng, noun, adjective)
    if shape < 0.8:
        return _definite(noun, adjective, rng.random() < 0.25)
    return _possessed(rng, noun, rng.random() < 0.25)


def subject_phrase(rng: Random) -> Phrase:
    """Somebody who can act: a pronoun, a name, or a person."""
    shape = rng.random()
    if shape < 0.3:
        english, norwegian = rng.choice(_PRONOUNS)
        return Phrase(english, norwegian, english in ("he", "she"))
    if shape < 0.5:
        name = rng.choice(FIRST_NAMES)
        return Phrase(name, name)
    return noun_phrase(rng, ("person", "kin"), subject=True)


def _join(words: list[str]) -> str:
    return " ".join(word for word in words if word)


def _capital(pair: Pair, mark: str) -> Pair:
    english, norwegian = pair
    return english[0].upper() + english[1:] + mark, norwegian[0].upper() + norwegian[1:] + mark


def _inflected(verb: Verb, subject: Phrase, past: bool, negated: bool) -> str:
    if negated:
        auxiliary = "did" if past else ("does" if subject.third else "do")
        return f"{auxiliary} not {verb.base}"
    if past:
        return verb.past
    return verb.third if subject.third else verb.base


def _action(rng: Random) -> Pair:
    subject, verb = subject_phrase(rng), rng.choice(VERBS)
    past, negated = rng.random() < 0.5, rng.random() < 0.15
    thing = noun_phrase(rng, verb.objects) if verb.objects else Phrase("", "")
    place = rng.choice(PLACES) if rng.random() < (0.3 if verb.objects else 0.7) else None
    time_ = rng.choice(_PAST_TIMES if past else _TIMES) if rng.random() < 0.35 else ("", "")
    where = (place.english, place.norwegian) if place else ("", "")
    english_verb = _inflected(verb, subject, past, negated)
    norwegian_verb = verb.norwegian_past if past else verb.norwegian_present
    negation = "ikke" if negated else ""
    if time_[0] and rng.random() < 0.5:  # Norwegian keeps its verb second when the time comes first
        english = _join([time_[0] + ",", subject.english, english_verb, thing.english, where[0]])
        norwegian = _join([time_[1], norwegian_verb, subject.norwegian, negation, thing.norwegian, where[1]])
    else:
        english = _join([subject.english, english_verb, thing.english, where[0], time_[0]])
        norwegian = _join([subject.norwegian, norwegian_verb, negation, thing.norwegian, where[1], time_[1]])
    return _capital((english, norwegian), ".")


def _question(rng: Random) -> Pair:
    subject, verb = subject_phrase(rng), rng.choice(VERBS)
    past = rng.random() < 0.5
    thing = noun_phrase(rng, verb.objects) if verb.objects else Phrase("", "")
    auxiliary = "did" if past else ("does" if subject.third else "do")
    english = _join([auxiliary, subject.english, verb.base, thing.english])
    norwegian = _join([verb.norwegian_past if past else verb.norwegian_present, subject.norwegian, thing.norwegian])
    return _capital((english, norwegian), "?")


def _description(rng: Random) -> Pair:
    noun = rng.choice(BY_CATEGORY[rng.choice((*THINGS, "person", "kin"))])
    plural, past = rng.random() < 0.3, rng.random() < 0.4
    subject = _possessed(rng, noun, plural) if rng.random() < 0.3 else _definite(noun, None, plural)
    adjective = _fitting_adjective(rng, noun)
    be = ("were" if plural else "was") if past else ("are" if plural else "is")
    very = ("very", "veldig") if rng.random() < 0.2 else ("", "")
    negated = rng.random() < 0.15
    form = adjective_form(adjective, noun.gender, plural, False)
    english = _join([subject.english, be, "not" if negated else "", very[0], adjective.english])
    norwegian = _join([subject.norwegian, "var" if past else "er", "ikke" if negated else "", very[1], form])
    return _capital((english, norwegian), ".")


def _existence(rng: Random) -> Pair:
    noun = rng.choice(BY_CATEGORY[rng.choice(THINGS)])
    thing = _indefinite(rng, noun, _fitting_adjective(rng, noun) if rng.random() < 0.4 else None)
    past, place = rng.random() < 0.5, rng.choice(PLACES)
    be = ("were" if thing.plural else "was") if past else ("are" if thing.plural else "is")
    english = f"there {be} {thing.english} {place.english}"
    norwegian = f"det {'var' if past else 'er'} {thing.norwegian} {place.norwegian}"
    return _capital((english, norwegian), ".")


def sentence_pair(rng: Random) -> Pair:
    """One full sentence in both languages."""
    return rng.choices((_action, _description, _existence, _question), (6, 3, 2, 1))[0](rng)


def phrase_pair(rng: Random) -> Pair:
    """A noun phrase or a place, without a full stop."""
    if rng.random() < 0.15:
        place = rng.choice(PLACES)
        return place.english, place.norwegian
    phrase = noun_phrase(rng, (*THINGS, "person", "kin"))
    return phrase.english, phrase.norwegian


def word_pair(rng: Random) -> Pair:
    """One word in both languages."""
    noun = rng.choice(BY_CATEGORY[rng.choice(tuple(BY_CATEGORY))])
    return (noun.english, noun.norwegian) if rng.random() < 0.7 else (noun.english_plural, noun.plural)
