"""Splits are a function of texts and seed, keep labels in their shares, and no text on two sides."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunewise.data.examples import Example, Part
from tunewise.data.groups import split_by_group
from tunewise.data.leaks import find_leaks
from tunewise.data.splits import few_shot, normalised, split
from tunewise.errors import UserError

SHARES = (0.8, 0.1, 0.1)


def row(line: int, prompt: str, label: str | None = None, answer: str = " a") -> Example:
    return Example(f"r{line}", (Part(prompt, False), Part(answer, True)), label, line)


def rows(texts_and_labels) -> list[Example]:
    return [row(line, text, label) for line, (text, label) in enumerate(texts_and_labels, start=1)]


many = st.lists(st.tuples(st.text("abc ", max_size=4), st.sampled_from("xyz")), min_size=30, max_size=120).map(rows)


@given(many, st.integers(0, 5))
@settings(deadline=None, max_examples=40)
def test_every_row_once_and_no_text_on_two_sides(examples, seed):
    if len({normalised(example.prompt) for example in examples}) < 3:
        return
    parts = split(examples, SHARES, seed)
    assert sorted(example.line for part in parts for example in part) == [example.line for example in examples]
    assert all(part for part in parts)
    sides = Counter(text for part in parts for text in {normalised(example.prompt) for example in part})
    assert set(sides.values()) == {1}
    assert find_leaks(parts[0], parts[1]) == find_leaks(parts[0], parts[2]) == ()
    for part in parts:
        assert list(part) == sorted(part, key=lambda example: example.line)


@given(many, st.randoms())
@settings(deadline=None, max_examples=30)
def test_the_order_of_rows_does_not_matter(examples, random):
    one_label = {normalised(e.prompt): e for e in reversed(examples)}
    unique = list(one_label.values())
    shuffled = random.sample(unique, len(unique))
    if len(unique) >= 3:
        for one, other in zip(split(unique, SHARES, 0), split(shuffled, SHARES, 0)):
            assert {example.id for example in one} == {example.id for example in other}


def test_labels_keep_their_shares_and_the_seed_changes_the_rows():
    examples = rows((f"text {n}", "spam" if n % 10 == 0 else "ham") for n in range(1000))
    parts = split(examples, SHARES, 0)
    assert [len(part) for part in parts] == [800, 100, 100]
    for part, size in zip(parts, (80, 10, 10)):
        assert abs(Counter(example.label for example in part)["spam"] - size) <= 1
    assert split(examples, SHARES, 0) == parts
    assert split(examples, SHARES, 1) != parts


def test_one_prompt_for_all_rows_is_told_apart_by_answers():
    examples = [row(n, "Write a line.", answer=f" line {n}") for n in range(20)]
    assert [len(part) for part in split(examples, SHARES, 0)] == [16, 2, 2]


def test_small_files_give_every_part_something():
    assert [len(part) for part in split(rows([("a", "x"), ("b", "y"), ("c", "x")]), SHARES, 0)] == [1, 1, 1]
    with pytest.raises(UserError, match="2 different rows cannot be split into 3 parts") as error:
        split(rows([("a", "x"), ("A ", "y"), ("b", "x")]), SHARES, 0)
    assert "train, dev and test as files" in error.value.hint


@given(many, st.integers(0, 40), st.integers(0, 5))
@settings(deadline=None, max_examples=40)
def test_few_shot_is_balanced_and_repeatable(examples, k, seed):
    chosen = few_shot(examples, k, seed)
    assert chosen == few_shot(examples, k, seed)
    assert len(chosen) == len({example.id for example in chosen}) == min(k, len(examples))
    have, got = Counter(e.label for e in examples), Counter(e.label for e in chosen)
    for label in have:
        for other in have:
            # a label that was not used up has at most one row less than any other
            assert got[label] == have[label] or got[other] <= got[label] + 1


def test_few_shot_without_balance_keeps_shares():
    examples = rows((f"text {n}", "spam" if n % 10 == 0 else "ham") for n in range(1000))
    chosen = few_shot(examples, 100, 0, balanced=False)
    assert Counter(example.label for example in chosen) == {"ham": 90, "spam": 10}
    assert len({few_shot(examples, 4, seed) for seed in range(5)}) == 5
    orders = {tuple(example.label for example in few_shot(examples, 4, seed)) for seed in range(20)}
    assert len(orders) > 3, "labels stand in random order"


def test_a_leak_names_both_lines():
    train = rows([("The cat.", "x"), ("a dog", "y")])
    test = rows([("a bird", "x"), ("the  CAT.", "x")])
    (leak,) = find_leaks(train, test)
    assert (leak.line, leak.reason) == (2, "this row of test is also in train, line 1")


grouped = st.lists(
    st.tuples(st.text("abc ", min_size=1, max_size=4), st.sampled_from("xyz"), st.sampled_from(["", *"ABCDEFGHIJ"])),
    min_size=3,
    max_size=120,
).map(
    lambda found: [
        replace(row(line, text, label), group=group) for line, (text, label, group) in enumerate(found, start=1)
    ]
)


def components(examples: list[Example]) -> set[frozenset[int]]:
    """Lines of rows that must stay together, found the slow way: each set grows until nothing touches it."""
    left, found = list(examples), set()
    while left:
        together = [left.pop()]
        while touched := [
            other
            for other in left
            if any(
                normalised(one.prompt) == normalised(other.prompt) or (one.group and one.group == other.group)
                for one in together
            )
        ]:
            together += touched
            left = [other for other in left if other not in touched]
        found.add(frozenset(example.line for example in together))
    return found


@given(grouped, st.integers(0, 5), st.randoms())
@settings(deadline=None, max_examples=80)
def test_groups_and_texts_stay_whole_whatever_the_order(examples, seed, random):
    bundles = components(examples)
    key = lambda example: normalised(example.prompt)
    if len(bundles) < 3:
        with pytest.raises(UserError, match=r"groups cannot be split into 3 parts|different rows"):
            split_by_group(examples, SHARES, seed, key)
        return
    parts = split_by_group(examples, SHARES, seed, key)
    lines = [{example.line for example in part} for part in parts]
    assert all(lines)
    assert sorted(line for part in lines for line in part) == [example.line for example in examples]
    for bundle in bundles:
        assert sum(bool(bundle & part) for part in lines) == 1
    if len({example.text for example in examples}) == len(examples):
        shuffled = split_by_group(random.sample(examples, len(examples)), SHARES, seed, key)
        assert [{example.line for example in part} for part in shuffled] == lines


@pytest.mark.parametrize("sizes", [[1] * 300, [10] * 60, [30, 20, 20, *[7] * 30, *[2] * 60]])
def test_groups_keep_shares_and_labels_as_nearly_as_they_can(sizes):
    examples = []
    for number, size in enumerate(sizes):
        for _ in range(size):
            label = "spam" if len(examples) % 5 == 0 else "ham"
            examples.append(replace(row(len(examples), f"text {len(examples)}", label), group=f"author {number}"))
    share = sum(example.label == "spam" for example in examples) / len(examples)
    seen = set()
    for seed in range(5):
        parts = split(examples, SHARES, seed)
        for part, wanted in zip(parts, SHARES):
            assert len(part) / len(examples) == pytest.approx(wanted, abs=0.02)
            assert sum(example.label == "spam" for example in part) / len(part) == pytest.approx(share, abs=0.05)
        seen.add(parts[2])
    assert len(seen) == 5, "the seed chooses the groups"


def test_one_large_group_goes_where_there_is_room():
    examples = [replace(row(n, f"text {n}", "xy"[n % 2]), group="big" if n < 70 else f"g{n}") for n in range(100)]
    parts = split(examples, SHARES, 0)
    assert [len(part) for part in parts] == [80, 10, 10]
    assert {example.group for example in parts[1] + parts[2]}.isdisjoint({"big"})


def test_a_group_that_is_in_train_too_is_told():
    train = [replace(row(1, "a", "x"), group="Kari")]
    test = [replace(row(2, "b", "x"), group="Kari"), replace(row(3, "c", "x"), group="Ola"), row(4, "d", "x")]
    (leak,) = find_leaks(train, test)
    assert (leak.line, leak.reason) == (2, "'Kari', the group of this row in test, has rows in train too, line 1")
