"""What a report reads off predictions before it says how good they are."""

from tunewise.report.folders import majority_score


def test_the_most_frequent_answer_is_told_of_labels_and_not_of_choices():
    rows = [{"expected": label} for label in "aab"]
    assert majority_score(rows) == 200 / 3
    assert majority_score([row | {"choices": {"a": "x", "b": "y"}} for row in rows]) is None
    assert majority_score([]) is None
