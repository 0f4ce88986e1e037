"""What a query costs in tokens, counted by hand: demonstrations, separators and virtual positions."""

import pytest

from tests import bases
from tests.evaluation.test_evaluate import TOKENIZER, as_base, base, task
from tests.small_base import QUICK, write_encoder, write_place
from tunewise.data.encode import encode_prompt
from tunewise.data.splits import few_shot
from tunewise.evaluation.evaluate import evaluate_task
from tunewise.evaluation.serving import cost_of_a_query
from tunewise.methods import METHODS, parse_method
from tunewise.models.anatomy import read_anatomy
from tunewise.run import build_recipe, evaluate, run


def mean(values):
    return sum(values) / len(values)


@pytest.mark.parametrize("n_virtual", [0, 3])
@pytest.mark.parametrize("shots", [0, 1, 4])
def test_tokens_of_a_query_are_counted(shots, n_virtual):
    asked = task()
    found = evaluate_task(as_base(base()), asked, asked.test, shots=shots, seed=1)
    cost = cost_of_a_query(found, n_virtual)
    shown = "".join(f"{each.prompt}{each.answer}\n\n" for each in few_shot(asked.train, shots, 1)) if shots else ""
    whole = mean([len(encode_prompt(shown + each.prompt, TOKENIZER)) for each in asked.test])
    bare = mean([len(encode_prompt(each.prompt, TOKENIZER)) for each in asked.test])
    assert cost["prompt_tokens"] == pytest.approx(n_virtual + whole, abs=0.006)
    assert cost["serving_tokens"] == pytest.approx(n_virtual + whole - bare, abs=0.006)
    assert (cost["serving_tokens"] == 0) == (shots == 0 and n_virtual == 0)
    assert cost["seconds_a_query"] == pytest.approx(found.seconds / len(asked.test), abs=1e-6)
    assert found.seconds > 0


def test_a_question_that_was_cut_shows_nothing_more_than_fits():
    asked = task()
    found = evaluate_task(as_base(base(context=8)), asked, asked.test, shots=4)
    assert found.n_truncated > 0
    assert 0 < found.n_bare <= found.n_read <= 8 * len(asked.test)


def test_virtual_positions_are_those_before_every_sequence():
    fields = {"prompt_tuning": 4, "p_tuning": 4, "multitask_prompt": 4, "prefix_tuning": 4, "mam": 4}
    seen = {}
    for kind in ("llama", "t5"):
        anatomy = read_anatomy(bases.build(kind))
        for name, method in METHODS.items():
            given = {"virtual_tokens": fields[name]} if name in fields else {}
            seen[kind, name] = parse_method({"name": name, **given}).virtual_positions(anatomy)
            assert seen[kind, name] >= len(method(**given).prefix_ids(anatomy))
    assert len(seen) == 2 * len(METHODS)
    # an adapter whose prompt has a softmax of its own takes no place
    assert {name for (_, name), n in seen.items() if n} == set(fields)
    assert {n for (_, name), n in seen.items() if name in fields} == {4}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return write_place(tmp_path_factory.mktemp("place"))


@pytest.mark.parametrize(
    ("method", "extra"),
    [({"name": "frozen"}, 0), ({"name": "bitfit", "add": True}, 0), ({"name": "prompt_tuning", "virtual_tokens": 5}, 5),
     ({"name": "prefix_tuning", "virtual_tokens": 6}, 6)],
)  # fmt: skip
def test_every_run_says_what_a_query_costs_and_eval_says_the_same(place, tmp_path, method, extra):
    fields = {"model": str(place / "base"), "data": str(place / "reviews.csv"), "dtype": "float32", "method": method}
    metrics = run(build_recipe(fields, QUICK), tmp_path / "run", prove=False)
    assert metrics["serving_tokens"] == extra
    assert 0 < metrics["seconds_a_query"] < metrics["seconds"]
    again = evaluate(tmp_path / "run")
    for name in ("serving_tokens", "prompt_tokens"):
        assert again[name] == metrics[name]
    shown = evaluate(tmp_path / "run", shots=1)
    assert shown["serving_tokens"] > extra
    assert shown["prompt_tokens"] - shown["serving_tokens"] == pytest.approx(metrics["prompt_tokens"] - extra, abs=0.02)


def test_a_classifier_reads_the_bare_text(place, tmp_path):
    encoder = str(write_encoder(tmp_path / "bert"))
    fields = {"model": encoder, "data": str(place / "reviews.csv"), "method": "bitfit"}
    metrics = run(build_recipe(fields, QUICK), tmp_path / "run", prove=False)
    assert metrics["serving_tokens"] == 0
    assert metrics["prompt_tokens"] > 5
