"""Novelty against rouge-score, and the pruned search against looking at everything."""

import random

import pytest
from rouge_score.rouge_scorer import RougeScorer

from tunewise.evaluation.overlap import n_in_common
from tunewise.teacher.novelty import Kept, words_of

WORDS = "the a of write list boat name sea word give old red make short text in to and one it is for you".split()
SCORER = RougeScorer(["rougeL"])


def sentences(n: int, seed: int) -> list[str]:
    """Sentences of which many are near others: some words are changed, dropped or moved."""
    drawn = random.Random(seed)
    found: list[str] = []
    for _ in range(n):
        words = drawn.choices(WORDS, k=drawn.randint(1, 14))
        if found and drawn.random() < 0.6:
            words = drawn.choice(found).split()
            for _ in range(drawn.randint(0, 3)):
                words[drawn.randrange(len(words))] = drawn.choice(WORDS)
            if drawn.random() < 0.3:
                drawn.shuffle(words)
        found.append(" ".join(words))
    return found


def rouge_l(one: str, other: str) -> float:
    return SCORER.score(one, other)["rougeL"].fmeasure


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.9, 1.0])
def test_the_nearest_kept_text_is_that_of_rouge_score(threshold: float) -> None:
    texts = sentences(80, seed=1)
    kept, so_far, n_near, n_new = Kept(threshold), [], 0, 0
    for text in texts:
        scores = [rouge_l(text, other) for other in so_far]
        best = max(scores, default=0.0)
        found = kept.nearest(text)
        if best >= threshold - 1e-12 and scores:
            assert found is not None, (text, best)
            assert found == (scores.index(best), pytest.approx(best, abs=1e-12))
            n_near += 1
        else:
            assert found is None, (text, found)
            n_new += 1
        kept.add(text)
        so_far.append(text)
    assert min(n_near, n_new) >= 5


def test_the_common_subsequence_is_that_of_the_table() -> None:
    drawn = random.Random(2)
    for _ in range(300):
        one, other = (drawn.choices(WORDS[: drawn.randint(1, 23)], k=drawn.randint(0, 70)) for _ in range(2))
        table = [[0] * (len(other) + 1) for _ in range(len(one) + 1)]
        for i, word in enumerate(one):
            for j, against in enumerate(other):
                table[i + 1][j + 1] = table[i][j] + 1 if word == against else max(table[i][j + 1], table[i + 1][j])
        assert n_in_common(one, other) == table[-1][-1]


def test_few_of_thousands_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = random.Random(3)
    vocabulary = [f"word{i}" for i in range(3000)]
    weights = [1 / (i + 1) for i in range(3000)]  # as words of a language are
    kept = Kept(0.7)
    for _ in range(4000):
        kept.add(" ".join(drawn.choices(vocabulary, weights, k=12)))
    looked = []
    counted = lambda *words: looked.append(words) or n_in_common(*words)
    monkeypatch.setattr("tunewise.teacher.novelty.n_in_common", counted)
    for _ in range(50):
        kept.nearest(" ".join(drawn.choices(vocabulary, weights, k=12)))
    assert len(looked) < 50 * 40, "of 4,000 texts one in a hundred at most is worth the exact score"


def test_words_of_other_scripts_are_words() -> None:
    assert words_of("Écris un e-mail, Øyvind!") == ["écris", "un", "e", "mail", "øyvind"]
    assert words_of("写一首诗 abc") == ["写", "一", "首", "诗", "abc"]
    kept = Kept(0.7)
    kept.add("Переведи предложение на английский язык")
    assert kept.nearest("Переведи это предложение на английский язык") is not None
    assert kept.nearest("Напиши короткое стихотворение о море") is None
    assert kept.nearest("...") is None
