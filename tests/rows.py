"""Random rows of token ids for the vocabulary of tests.bases."""

import random

from tests.bases import VOCABULARY
from tunewise.data.encode import MASKED, Encoded

END = 2


def random_rows(n: int, seed: int = 0, longest: int = 20) -> list[Encoded]:
    """Rows of unlike lengths: a begin token, a prompt, a trained answer of 1 to 4 tokens and a trained end token."""
    draw = random.Random(seed)
    rows = []
    for index in range(n):
        prompt = [1, *(draw.randrange(3, VOCABULARY) for _ in range(draw.randrange(2, longest - 5)))]
        answer = [*(draw.randrange(3, VOCABULARY) for _ in range(draw.randrange(1, 5))), END]
        labels = (*[MASKED] * len(prompt), *answer)
        rows.append(Encoded(f"row{index}", (*prompt, *answer), labels, len(prompt), False))
    return rows
