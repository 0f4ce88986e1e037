"""The verdict over a test set from elsewhere, from run folders written by hand."""

import json

from tunewise.comparison.tables import verdict_of


def write_run(folder, score, answers):
    folder.mkdir(parents=True)
    own = {"test": {"accuracy": 50.0}, "n_test": 10, "adapter_bytes": 1}
    elsewhere = {"out_of_domain": {"twin": {"exact_match": score, "rougeL": 0.0}}, "n_out_of_domain": {"twin": 4}}
    (folder / "metrics.json").write_text(json.dumps(own | elsewhere))
    for name, right in (("predictions.jsonl", [True] * 4), ("predictions-twin.jsonl", answers)):
        rows = ({"id": f"i{n}", "correct": each} for n, each in enumerate(right))
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_a_set_from_elsewhere_counts_in_place_of_test(tmp_path):
    none, most = [False] * 4, [True, True, True, False]
    arms = {
        "base": [write_run(tmp_path / f"base{seed}", 0.0, none) for seed in range(3)],
        "lora": [write_run(tmp_path / f"lora{seed}", 75.0, most) for seed in range(3)],
    }
    found = verdict_of(arms, elsewhere="twin")
    assert (found["metric"], found["best"]) == ("exact_match", "lora")
    (pair,) = found["pairs"]
    assert (pair["gap"]["mean"], pair["items"]["gap"], pair["items"]["n"]) == (-75.0, -75.0, 4)
    own = verdict_of(arms)
    assert (own["metric"], own["pairs"][0]["gap"]["mean"], own["pairs"][0]["items"]["gap"]) == ("accuracy", 0.0, 0.0)
