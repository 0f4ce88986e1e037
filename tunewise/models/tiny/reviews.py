"""Reviews of inns, meals and boat trips, and the single sentences they are made of, each with its polarity."""

from random import Random

ASPECTS = {
    "meal": "soup fish bread coffee cake breakfast dinner pie tea menu dessert lunch".split(),
    "place": "room bed view garden bath kitchen stairs window lobby terrace".split(),
    "people": "waiter cook owner guide captain driver host porter barber shopkeeper".split(),
    "thing": "boat ferry film book concert play coat lamp clock tent bicycle radio".split(),
    "visit": "service price evening trip tour stay music walk booking weather".split(),
}
_ASPECT_NAMES = tuple(ASPECTS)

_PRAISE = {
    "meal": "delicious tasty fresh perfect splendid rich",
    "place": "lovely clean cosy bright charming spacious",
    "people": "friendly helpful cheerful polite charming patient",
    "thing": "excellent wonderful splendid solid beautiful thrilling",
    "visit": "excellent pleasant wonderful perfect fair delightful",
}
_BLAME = {
    "meal": "awful stale burnt bland greasy sour",
    "place": "filthy gloomy noisy shabby damp cramped",
    "people": "rude careless grumpy lazy unfriendly arrogant",
    "thing": "dull broken ugly flimsy boring useless",
    "visit": "dreadful terrible disappointing poor miserable unfair",
}
PRAISE = {aspect: words.split() for aspect, words in _PRAISE.items()}
BLAME = {aspect: words.split() for aspect, words in _BLAME.items()}

_DEGREES = ("", "", "", "very ", "really ", "quite ", "rather ", "so ")
_GOOD_CLAUSES = (
    "we loved the {}",
    "I enjoyed the {}",
    "the {} made us smile",
    "we will come back for the {}",
    "I can recommend the {}",
    "the {} was worth every crown",
    "nothing was wrong with the {}",
    "my sister praised the {}",
    "the {} was a treat",
    "we could not fault the {}",
)
_BAD_CLAUSES = (
    "we hated the {}",
    "I regret the {}",
    "the {} made us angry",
    "we will not come back for the {}",
    "I cannot recommend the {}",
    "the {} was a waste of money",
    "nothing was right with the {}",
    "my sister complained about the {}",
    "the {} was a shame",
    "we could not stand the {}",
)
_GOOD_ENDS = (
    "on the whole we were glad we came",
    "in the end it was a good day",
    "all in all we were happy",
    "we left with a smile",
    "we would do it again",
    "it was money well spent",
    "we told all our friends to go",
    "I was sorry to leave",
)
_BAD_ENDS = (
    "on the whole we were sorry we came",
    "in the end it was a bad day",
    "all in all we were cross",
    "we left with a sigh",
    "we would not do it again",
    "it was money thrown away",
    "we told all our friends to stay away",
    "I was relieved to leave",
)
_NEUTRAL = (
    "we came on a {day}",
    "we were there for {count} days",
    "we sat near the door",
    "we paid {count} crowns",
    "it rained that {day}",
    "my brother came along",
    "the place lies by the harbour",
    "we had booked in spring",
    "there were {count} other guests",
    "we arrived after dark",
)
_DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()


def aspect(rng: Random) -> tuple[str, str]:
    """Something to judge, and which kind of thing it is."""
    kind = rng.choice(_ASPECT_NAMES)
    return kind, rng.choice(ASPECTS[kind])


def clause(rng: Random, positive: bool, plain: bool = False) -> str:
    """One judgement, in lower case and without a full stop; unless `plain`, now and then by negation."""
    kind, noun = aspect(rng)
    shape = rng.random()
    if shape < 0.3:
        return rng.choice(_GOOD_CLAUSES if positive else _BAD_CLAUSES).format(noun)
    if not plain and shape < 0.45:
        word = rng.choice((BLAME if positive else PRAISE)[kind])
        return f"the {noun} was {rng.choice(('not', 'not at all', 'never', 'by no means'))} {word}"
    word = rng.choice((PRAISE if positive else BLAME)[kind])
    return f"the {noun} was {rng.choice(_DEGREES)}{word}"


def neutral(rng: Random) -> str:
    """A clause that judges nothing."""
    return rng.choice(_NEUTRAL).format(day=rng.choice(_DAYS), count=rng.randrange(2, 60))


def sentence(text: str) -> str:
    """A clause as a sentence."""
    return text[0].upper() + text[1:] + "."


def _balanced(rng: Random, positive: bool) -> str:
    """Two judgements that disagree; what follows `but` decides."""
    word = rng.choice(("but", "yet", "still,"))
    return f"{clause(rng, not positive)}, {word} {clause(rng, positive)}"


def _conceded(rng: Random, positive: bool) -> str:
    """What `although` introduces does not decide."""
    return f"{rng.choice(('although', 'though', 'even if'))} {clause(rng, not positive)}, {clause(rng, positive)}"


def _concluded(rng: Random, positive: bool) -> str:
    """A judgement either way, then a conclusion that decides."""
    ending = rng.choice(_GOOD_ENDS if positive else _BAD_ENDS)
    opening = clause(rng, rng.random() < 0.5)
    return (
        f"{opening}; {ending}"
        if rng.random() < 0.5
        else f"{opening}, {'and' if rng.random() < 0.5 else 'but'} {ending}"
    )


def _agreeing(rng: Random, positive: bool) -> str:
    return f"{clause(rng, positive)} and {clause(rng, positive)}"


def review(rng: Random, positive: bool, hard: float = 0.4) -> str:
    """One review of one to three clauses; `hard` is the share of mixed ones, whose words pull both ways."""
    if rng.random() < hard:
        body = rng.choice((_balanced, _conceded, _concluded))(rng, positive)
    else:
        body = _agreeing(rng, positive) if rng.random() < 0.5 else clause(rng, positive)
    return told(rng, body)


def told(rng: Random, body: str) -> str:
    """A judgement as a review; every third has a sentence beside it that judges nothing."""
    parts = [sentence(body)]
    if rng.random() < 0.35:
        parts.insert(rng.randrange(2), sentence(neutral(rng)))
    return " ".join(parts)


def starred_review(rng: Random) -> str:
    """Several reviews by townspeople, each with its stars, in one layout."""
    layout = rng.choice(
        (
            "{text} {stars} of 5 stars.",
            "{stars} of 5 stars. {text}",
            "{text} ({stars}/5)",
            "{stars}/5 {text}",
            "{text}\nStars: {stars}",
            "{text} {mark}",
        )
    )
    lines = []
    for _ in range(rng.randrange(3, 7)):
        positive = rng.random() < 0.5
        stars = rng.choice((4, 5) if positive else (1, 2))
        text = review(rng, positive)
        if rng.random() < 0.5:
            text = f"{text} {sentence(rng.choice(_GOOD_ENDS if positive else _BAD_ENDS))}"
        lines.append(layout.format(text=text, stars=stars, mark="*" * stars))
    return "\n".join(lines)
