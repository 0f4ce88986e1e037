"""The verdict over a test set from elsewhere, from run folders written by hand."""

import json

from tunewise.comparison.tables import verdict_of


def write_run(folder, score, answers, own=("accuracy", 50.0, 10)):
    folder.mkdir(parents=True)
    own = {"test": {own[0]: own[1]}, "n_test": own[2], "adapter_bytes": 1}
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
    counted = {
        "base": [write_run(tmp_path / f"own{seed}", 0.0, none, ("exact_match", 0.0, 4)) for seed in range(3)],
        "lora": [write_run(tmp_path / f"its{seed}", 0.0, none, ("exact_match", 75.0, 4)) for seed in range(3)],
    }
    of_four = verdict_of(counted)["pairs"][0]
    assert {name: pair[name] for name in ("gap", "t", "p")} == {name: of_four[name] for name in ("gap", "t", "p")}
    own = verdict_of(arms)
    assert (own["metric"], own["pairs"][0]["gap"]["mean"], own["pairs"][0]["items"]["gap"]) == ("accuracy", 0.0, 0.0)
