"""Who lives in the harbour town: fixed facts that hold in every document of every kind."""

from dataclasses import dataclass
from random import Random

from tunewise.models.tiny.lexicon import (
    BOAT_NAMES,
    BY_CATEGORY,
    COLOURS,
    DAYS,
    FIRST_NAMES,
    PET_NAMES,
    STREETS,
    SURNAMES,
    WOMEN,
)
from tunewise.models.tiny.norwegian import article


@dataclass(frozen=True)
class Resident:
    """One person of the town."""

    name: str
    job: str
    street: str
    colour: str  # of the house
    pet: str
    pet_name: str
    dish: str
    boat: str
    day: str  # the day off

    @property
    def first_name(self) -> str:
        return self.name.split()[0]

    @property
    def pronoun(self) -> str:
        return "She" if self.first_name in WOMEN else "He"

    @property
    def possessive(self) -> str:
        return "Her" if self.first_name in WOMEN else "His"


def _resident(rng: Random, first_name: str) -> Resident:
    return Resident(
        name=f"{first_name} {rng.choice(SURNAMES)}",
        job=rng.choice(BY_CATEGORY["person"]).english,
        street=rng.choice(STREETS),
        colour=rng.choice(COLOURS),
        pet=rng.choice(BY_CATEGORY["animal"]).english,
        pet_name=rng.choice(PET_NAMES),
        dish=rng.choice(BY_CATEGORY["food"]).english_plural,
        boat=rng.choice(BOAT_NAMES),
        day=rng.choice(DAYS),
    )


RESIDENTS = tuple(_resident(Random(f"resident/{first_name}"), first_name) for first_name in FIRST_NAMES)


def statements(resident: Resident) -> tuple[str, ...]:
    """Everything that is known about a resident, a sentence each."""
    r = resident
    return (
        f"{r.name} is {article(r.job)} {r.job}.",
        f"{r.name} lives in {r.street}.",
        f"{r.possessive} house is {r.colour}.",
        f"{r.pronoun} has {article(r.pet)} {r.pet} called {r.pet_name}.",
        f"{r.pronoun} likes {r.dish} best.",
        f"{r.possessive} boat is the {r.boat}.",
        f"{r.pronoun} never works on {r.day}s.",
    )


def questions(resident: Resident) -> tuple[tuple[str, str], ...]:
    """What may be asked about a resident, with the answer."""
    r = resident
    return (
        (f"What does {r.name} do for a living?", f"{r.name} is {article(r.job)} {r.job}."),
        (f"Where does {r.name} live?", f"{r.name} lives in {r.street}."),
        (f"What colour is the house of {r.name}?", f"The house of {r.name} is {r.colour}."),
        (f"Which animal does {r.name} have?", f"{r.name} has {article(r.pet)} {r.pet}."),
        (f"What does {r.name} like best?", f"{r.name} likes {r.dish} best."),
        (f"What is the boat of {r.name} called?", f"The boat is called the {r.boat}."),
        (f"When does {r.name} never work?", f"{r.name} never works on {r.day}s."),
    )
