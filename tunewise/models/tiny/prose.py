"""Running text: narratives, dialogues, letters, newspaper items, facts, sums and lists of questions."""

from random import Random

from tunewise.models.tiny.inference import event, tell
from tunewise.models.tiny.lexicon import (
    ADJECTIVES,
    BY_CATEGORY,
    DAYS,
    FIRST_NAMES,
    MONTHS,
    NUMBERS,
    OPPOSITE_PAIRS,
    PLACES,
    THINGS,
)
from tunewise.models.tiny.norwegian import article, sentence_pair
from tunewise.models.tiny.reviews import clause, sentence
from tunewise.models.tiny.town import RESIDENTS, questions, statements

WEATHER = (
    "it rained all {}",
    "the sun shone all {}",
    "fog lay over the harbour all {}",
    "a storm came in that {}",
    "snow fell all {}",
    "the wind blew hard all {}",
    "the {} was grey and cold",
    "the {} was warm and still",
    "ice covered the harbour that {}",
    "hail fell that {}",
)
_NEWS = (
    ("{job} finds {number} {things}", "{name}, {a_job} from {street}, found {number} {things} {there} on {day}."),
    (
        "{number} {things} stolen",
        "Somebody stole {number} {things} {there} on the night to {day}. They belonged to {name}.",
    ),
    (
        "{things} now cost {crowns} crowns",
        "The price of {things} rose again on {day}. At the shop of {name} they now cost {crowns} crowns.",
    ),
    ("{job} wins {thing}", "At the market on {day} {name} won {a_thing}. The {job} said it was a great surprise."),
    (
        "fire at the {place}",
        "On {day} there was a fire at the {place}. {Number} {things} burnt before {name} could put it out.",
    ),
    (
        "{place} closed until {day}",
        "The {place} will stay closed until {day}, said {name}. {Number} {things} are in the way.",
    ),
)
_ANSWERS = ("Yes, please.", "No, thank you.", "Perhaps tomorrow.")
_PARTS_OF_DAY = ("morning", "day", "evening", "night", "afternoon", "week")
_FEELINGS = ("happy", "tired", "proud", "sad", "hungry", "cold", "worried", "glad", "angry", "calm")
_ERRANDS = (
    "went down to",
    "walked slowly to",
    "hurried to",
    "came back from",
    "rowed past",
    "stopped near",
    "looked for work at",
    "waited outside",
)


def weather(rng: Random) -> str:
    """A clause about the weather, in lower case and without a full stop."""
    return rng.choice(WEATHER).format(rng.choice(_PARTS_OF_DAY))


def price(rng: Random) -> str:
    """A sentence about what something costs."""
    noun = rng.choice(BY_CATEGORY[rng.choice(THINGS)])
    crowns = rng.randrange(2, 400)
    return rng.choice(
        (
            f"The {noun.english} costs {crowns} crowns.",
            f"You can buy {article(noun.english)} {noun.english} for {crowns} crowns.",
            f"The price of {noun.english_plural} went up to {crowns} crowns.",
            f"She paid {crowns} crowns for the {noun.english}.",
        )
    )


def _thing(rng: Random) -> str:
    noun = rng.choice(BY_CATEGORY[rng.choice(THINGS)])
    adjective = rng.choice(ADJECTIVES).english
    return f"{article(adjective)} {adjective} {noun.english}"


def narrative(rng: Random) -> str:
    """A short story about two residents and a thing."""
    hero, friend = rng.sample(RESIDENTS, 2)
    thing, place = _thing(rng), rng.choice(PLACES)
    noun = thing.split()[-1]
    lines = [
        f"One {rng.choice(DAYS)} in {rng.choice(MONTHS)} {weather(rng)}.",
        f"{hero.first_name} the {hero.job} {rng.choice(_ERRANDS)} the {place.name}.",
        f"{hero.pronoun} found {thing} there and was {rng.choice(_FEELINGS)}.",
        f"Then {friend.first_name} came by with {article(friend.pet)} {friend.pet}.",
        rng.choice(
            (
                f'"Is that {noun} yours?" asked {friend.first_name}.',
                f'"I have lost my {noun}," said {friend.first_name}.',
                f'"What will you do with the {noun}?" asked {friend.first_name}.',
            )
        ),
        rng.choice(
            (
                f'"I found it {place.english}," said {hero.first_name}.',
                f'"You may have it," said {hero.first_name}.',
                f'"Let us ask the {rng.choice(BY_CATEGORY["person"]).english}," said {hero.first_name}.',
            )
        ),
        tell(event(rng)),
        rng.choice(
            (
                f"So they carried the {noun} home together.",
                f"In the end they sold the {noun} for {rng.randrange(2, 300)} crowns.",
                f"They hid the {noun} under the stairs and told nobody.",
            )
        ),
        f"That night {hero.first_name} was {rng.choice(_FEELINGS)} "
        f"and {friend.first_name} was {rng.choice(_FEELINGS)}.",
    ]
    dropped = set(rng.sample(range(2, len(lines)), rng.randrange(3)))
    return " ".join(line for index, line in enumerate(lines) if index not in dropped)


def dialogue(rng: Random) -> str:
    """Two or three people talk in a shop or on the quay."""
    first, second = rng.sample(FIRST_NAMES, 2)
    place = rng.choice(PLACES)
    lines = [
        f"{first} meets {second} {place.english}.",
        f"{first}: Good {rng.choice(('morning', 'evening', 'day'))}, {second}. How are you?",
        f"{second}: I am {rng.choice(_FEELINGS)}, thank you.",
    ]
    for turn in range(rng.randrange(3, 8)):
        speaker, other = (first, second) if turn % 2 == 0 else (second, first)
        shape = rng.randrange(6)
        noun = rng.choice(BY_CATEGORY[rng.choice(THINGS)])
        said = (
            f"How much is the {noun.english}? {other}: It costs {rng.randrange(2, 300)} crowns.",
            sentence(weather(rng)),
            f"Have you heard? {tell(event(rng))}",
            f"I think {clause(rng, rng.random() < 0.5)}.",
            f"Do you need {_thing(rng)}? {other}: {rng.choice(_ANSWERS)}",
            price(rng),
        )[shape].replace(f"? {other}:", f"?\n{other}:")
        lines.append(f"{speaker}: {said}")
    return "\n".join([*lines, f"{first}: Goodbye, {second}."])


def letter(rng: Random) -> str:
    """A letter home."""
    sender, receiver = rng.sample(RESIDENTS, 2)
    body = [f"thank you for your letter of {rng.choice(MONTHS)}.", sentence(f"here {weather(rng)}")]
    body += [tell(event(rng)) for _ in range(rng.randrange(1, 4))]
    body += [
        sentence(clause(rng, rng.random() < 0.5)),
        f"My {sender.pet} {sender.pet_name} is {rng.choice(_FEELINGS)}.",
    ]
    if rng.random() < 0.5:
        body.append(f"Please send me {_thing(rng)}.")
    closing = rng.choice(("Yours", "Love", "Warm greetings"))
    return f"Dear {receiver.first_name},\n{' '.join(body)}\n{closing}, {sender.first_name}"


def news_item(rng: Random) -> tuple[str, str]:
    """A newspaper line and the item below it."""
    resident, place, noun = rng.choice(RESIDENTS), rng.choice(PLACES), rng.choice(BY_CATEGORY[rng.choice(THINGS)])
    count, crowns, day = rng.randrange(2, 20), rng.randrange(20, 900), rng.choice(DAYS)
    number = NUMBERS[count - 1]
    line, body = rng.choice(_NEWS)
    words = {
        "name": resident.name,
        "job": resident.job,
        "street": resident.street,
        "place": place.name,
        "there": place.english,
        "thing": noun.english,
        "things": noun.english_plural,
        "a_job": f"{article(resident.job)} {resident.job}",
        "a_thing": f"{article(noun.english)} {noun.english}",
        "number": number,
        "Number": number.capitalize(),
        "crowns": crowns,
        "day": day,
    }
    line, body = line.format_map(words), body.format_map(words)
    return line[0].upper() + line[1:], body


def newspaper(rng: Random) -> str:
    """A column of items, each under its line."""
    return "\n\n".join(
        f"{line}\n{body} {sentence(weather(rng))}"
        for line, body in (news_item(rng) for _ in range(rng.randrange(2, 5)))
    )


def sums(rng: Random, low: int = 0) -> str:
    """One sum with its result."""
    a, b = rng.randrange(low, 21), rng.randrange(low, 21)
    a, b = max(a, b), min(a, b)
    return rng.choice(
        (f"{a} plus {b} is {a + b}.", f"{a} minus {b} is {a - b}.", f"{a} + {b} = {a + b}", f"{a} - {b} = {a - b}")
    )


def facts(rng: Random) -> str:
    """What is known of some residents, mixed with opposites, kinds and sums."""
    lines = []
    for resident in rng.sample(RESIDENTS, rng.randrange(2, 5)):
        known = statements(resident)
        lines.append(" ".join([known[0], *rng.sample(known[1:], rng.randrange(3, 6))]))
    for _ in range(rng.randrange(2, 6)):
        noun = rng.choice(BY_CATEGORY[rng.choice(("animal", "food", "clothing", "tool", "furniture", "plant"))])
        left, right = rng.choice(OPPOSITE_PAIRS)
        lines.append(
            rng.choice(
                (
                    f"The opposite of {left} is {right}.",
                    f"The opposite of {right} is {left}.",
                    sums(rng),
                    sums(rng),
                    f"{article(noun.english).capitalize()} {noun.english} is a kind of {noun.category}.",
                    f"The plural of {noun.english} is {noun.english_plural}.",
                    f"In Norwegian {article(noun.english)} {noun.english} is called {noun.norwegian}.",
                )
            )
        )
    rng.shuffle(lines)
    return "\n".join(lines)


def arithmetic(rng: Random) -> str:
    """A page of sums."""
    return "\n".join(sums(rng) for _ in range(rng.randrange(8, 20)))


def _question(rng: Random) -> str:
    noun = rng.choice(BY_CATEGORY[rng.choice(THINGS)])
    left, _ = rng.choice(OPPOSITE_PAIRS)
    return rng.choice(
        (
            rng.choice(questions(rng.choice(RESIDENTS)))[0],
            f"What is the opposite of {left}?",
            f"What is {rng.randrange(30)} plus {rng.randrange(30)}?",
            f"How much does the {noun.english} cost?",
            f"Who took the {noun.english} from the {rng.choice(PLACES).name}?",
            f"What is the Norwegian word for {noun.english}?",
            f"Why was {rng.choice(FIRST_NAMES)} so {rng.choice(_FEELINGS)}?",
            sentence_pair(rng)[0].replace(".", ", do you think?"),
        )
    )


def question_list(rng: Random) -> str:
    """Questions that nobody answers: a list of them goes on with more of them."""
    heading = rng.choice(("Questions for {}", "What {} wanted to know", "Questions, {}", "{} asks")).format(
        rng.choice((*DAYS, *FIRST_NAMES))
    )
    mark = rng.choice(("{index}. {text}", "- {text}", "{text}"))
    return "\n".join(
        [heading, *(mark.format(index=index + 1, text=_question(rng)) for index in range(rng.randrange(5, 12)))]
    )


def phrase_book(rng: Random) -> str:
    """English sentences with the Norwegian below or beside them, or Norwegian alone."""
    layout = rng.choice(
        ("{0} - {1}", "{0}\n{1}", "{0} ({1})", "{1} - {0}", "{1}\n{0}\n", "{1}", "{0} / {1}", "{0}\n{1}\n")
    )
    return "\n".join(layout.format(*sentence_pair(rng)) for _ in range(rng.randrange(6, 13)))
