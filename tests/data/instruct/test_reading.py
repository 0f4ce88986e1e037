"""Prompts and completions with the answers to choose from, whoever wrote them."""

import pytest

from tests.data.instruct.samples import write_rows
from tunewise.data.config import DataConfig
from tunewise.data.load import load_task
from tunewise.data.out_of_domain import OutOfDomainConfig, load_out_of_domain
from tunewise.errors import UserError
from tunewise.evaluation.evaluate import evaluate_task
from tunewise.models.load import load_base

ROWS = [
    {"prompt": f"Is {n} even?", "completion": ["yes", "no"][n % 2], "options": ["no", "yes", "perhaps"]}
    for n in range(20)
]


def test_the_answers_are_those_that_are_listed(tmp_path):
    task = load_task(write_rows(tmp_path / "rows.jsonl", ROWS))
    assert (task.kind, task.metrics[0]) == ("multiple_choice", "accuracy")
    for example in (*task.train, *task.dev, *task.test):
        assert example.choices == (" no", " yes", " perhaps")  # as the answer stands behind its prompt
        assert task.options(example)["ABC".index(example.label)] == example.answer


def test_listed_answers_are_written_where_that_is_wished(tmp_path):
    path = str(write_rows(tmp_path / "rows.jsonl", ROWS))
    task = load_task(DataConfig(path=path, answered="written"))
    assert (task.kind, task.metrics) == ("generation", ("normalised_match", "token_f1", "exact_match"))
    assert "written, not chosen" in task.ledger.detected
    assert "among its options" not in task.ledger.detected
    assert load_task(DataConfig(path=path, answered="written", metrics="rougeL")).metrics == ("rougeL",)
    base = load_base("tiny")
    found = evaluate_task(base, task, task.test)
    ids = base.tokenizer(task.test[0].prompt, return_tensors="pt")
    n = ids["input_ids"].shape[1]
    written = base.model.generate(**ids, max_new_tokens=task.max_new_tokens, do_sample=False, stop_strings=["\n\n"],
                                  tokenizer=base.tokenizer)  # fmt: skip
    told = base.tokenizer.decode(written[0, n:], skip_special_tokens=True).split("\n\n")[0].strip()
    assert found.predictions[0]["predicted"] == told
    assert "scores" not in found.predictions[0]


def test_a_choice_among_columns_can_be_written_too(tmp_path):
    rows = [{"question": f"Is {n} even?", "choices": ["no", "yes"], "answer": 1 - n % 2} for n in range(20)]
    path = str(write_rows(tmp_path / "rows.jsonl", rows))
    chosen, written = (load_task(DataConfig(path=path, answered=how)) for how in ("chosen", "written"))
    assert (chosen.kind, written.kind) == ("multiple_choice", "generation")
    assert written.test == chosen.test
    assert (chosen.options(chosen.test[0]), written.options(written.test[0])) == ((" no", " yes"), ())


def test_what_is_written_anyway_is_not_asked_to_be(tmp_path):
    free = [{"prompt": f"Why, {n}?", "completion": "because"} for n in range(20)]
    path = str(write_rows(tmp_path / "free.jsonl", free))
    with pytest.raises(UserError, match=r"answered=written changes nothing: the answers of .* are not chosen"):
        load_task(DataConfig(path=path, answered="written"))


@pytest.mark.parametrize(
    "options", [[], ["yes"], ["neither", "nor"], "yes or no"], ids=["none", "one", "others", "a text"]
)
def test_rows_without_a_choice_are_generations(tmp_path, options):
    task = load_task(write_rows(tmp_path / "rows.jsonl", [{**row, "options": options} for row in ROWS]))
    assert task.kind == "generation"
    assert not any(example.choices for example in task.test)


def test_one_free_answer_in_test_makes_a_generation_of_all(tmp_path):
    for part in ("train", "dev", "test"):
        write_rows(tmp_path / f"{part}.jsonl", ROWS)
    free = {"prompt": "Why?", "completion": "because"}
    write_rows(tmp_path / "train.jsonl", [*ROWS, free])
    assert load_task(tmp_path).kind == "multiple_choice"
    write_rows(tmp_path / "test.jsonl", [*ROWS, free])
    assert load_task(tmp_path).kind == "generation"


def test_accepted_answers_are_counted_by_the_best_of_them(tmp_path):
    rows = [{"prompt": f"Where, {n}?", "completion": "at home", "accepted": ["at home", "home"]} for n in range(20)]
    task = load_task(write_rows(tmp_path / "rows.jsonl", rows))
    assert task.metrics == ("token_f1", "normalised_match")
    assert task.test[0].accepted == ("at home", "home")


def test_a_set_beside_a_mixture_is_written_by_itself(tmp_path):
    path = str(write_rows(tmp_path / "rows.jsonl", ROWS))
    mixture = load_task(DataConfig.model_validate({"mixture": {"sources": {"one": {"path": path}}}}))
    found = load_out_of_domain("own", OutOfDomainConfig(path=path, answered="written"), mixture)
    assert (mixture.each["one"].kind, found.task.kind) == ("multiple_choice", "generation")
    with pytest.raises(UserError, match="answered cannot change that"):
        load_out_of_domain("own", OutOfDomainConfig(path=path, answered="written"), mixture.each["one"])


def test_a_set_of_another_task_is_asked_out_of_domain(tmp_path):
    task = load_task(write_rows(tmp_path / "rows.jsonl", ROWS))
    other = [{"prompt": f"Is {n} odd?", "completion": "aye", "options": ["aye", "nay"]} for n in range(5)]
    path = write_rows(tmp_path / "other.jsonl", other)
    found = load_out_of_domain("odd", OutOfDomainConfig(path=str(path)), task)
    assert (found.task.kind, len(found.task.test)) == ("multiple_choice", 5)
    assert found.task.test[0].prompt == "Is 0 odd?"
    assert found.task.options(found.task.test[0]) == (" aye", " nay")
    free = write_rows(tmp_path / "free.jsonl", [{"prompt": "Why?", "completion": "because"}])
    with pytest.raises(UserError, match="is generation, and rows is multiple choice"):
        load_out_of_domain("free", OutOfDomainConfig(path=str(free)), task)
    with pytest.raises(UserError, match=r"odd: .* has rows without options"):
        write_rows(path, [*other, {"prompt": "Why?", "completion": "because"}])
        load_out_of_domain("odd", OutOfDomainConfig(path=str(path)), task)
