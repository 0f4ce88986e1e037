"""A base on this machine as the teacher: batches change nothing, caps hold, and long prompts are cut."""

from pathlib import Path

import pytest

from tests.cli.conftest import make_base
from tests.small_base import write_encoder_decoder
from tunewise.data.encode import encode_prompt
from tunewise.engine.decoding import greedy
from tunewise.errors import UserError
from tunewise.models.heads import TaskHead
from tunewise.models.load import Base, load_base
from tunewise.teacher.budget import Budget
from tunewise.teacher.exchange import Reply, Request
from tunewise.teacher.local import Local
from tunewise.teacher.seeds import read_seeds

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return load_base(str(make_base(tmp_path_factory.mktemp("teacher") / "model")), dtype="float64")


def answers(teacher: Local, wanted: list[Request], budget: Budget | None = None) -> dict[str, Reply]:
    return {one.key: reply for one, reply in teacher.replies(wanted, budget or Budget(), lambda: False)}


def drawn(n: int) -> list[Request]:
    return [Request(f"0/{i}/tasks", f"the boat {i}", 12, temperature=1.0) for i in range(n)]


def test_the_most_probable_answer_is_that_of_the_decoder(base: Base) -> None:
    wanted = [Request(f"line/{i}", text, 10) for i, text in enumerate(["the boat was", "hot soup", "a"])]
    ids = [encode_prompt(request.text, base.tokenizer) for request in wanted]
    expected = greedy(base.model, base.tokenizer, ids, 10)
    found = answers(Local(base), wanted)
    assert [found[request.key].text for request in wanted] == expected
    assert [found[request.key].prompt_tokens for request in wanted] == list(map(len, ids))


def test_what_is_drawn_hangs_on_the_key_and_the_seed_alone(base: Base) -> None:
    together = answers(Local(base, batch_size=8), drawn(6))
    alone = answers(Local(base, batch_size=1), drawn(6)[3:])
    assert {key: together[key] for key in alone} == alone
    assert len({reply.text for reply in together.values()}) >= 5
    assert answers(Local(base, seed=1), drawn(6)) != together


def test_unlike_requests_do_not_share_a_batch(base: Base) -> None:
    mixed = [Request("a", "the boat", 3), Request("b", "the boat", 9), Request("c", "the boat", 3, temperature=1.0)]
    found = answers(Local(base), mixed)
    assert found["a"].text != found["b"].text
    assert found["b"].text.startswith(found["a"].text)
    assert found["a"].was_cut


def test_the_tokens_of_an_answer_are_counted(base: Base) -> None:
    for wanted in (drawn(6), [Request(f"{i}", f"boat {i}", 12) for i in range(6)]):
        for reply in answers(Local(base), wanted).values():
            assert reply.was_cut == (reply.completion_tokens == 12)
            assert 1 <= reply.completion_tokens <= 12
    base.tokenizer.eos_token, before = "a", base.tokenizer.eos_token
    try:
        found = answers(Local(base), [Request(f"{i}", "x", 200, temperature=1.0) for i in range(30)])
    finally:
        base.tokenizer.eos_token = before
    ended = [reply for reply in found.values() if not reply.was_cut]
    assert len(ended) >= 3
    assert all(reply.completion_tokens < 64 for reply in ended)
    assert {reply.completion_tokens for reply in found.values() if reply.was_cut} == {64}


def test_a_stop_ends_an_answer(base: Base) -> None:
    whole = answers(Local(base), [Request("a", "the boat", 12)])["a"].text
    cut = answers(Local(base), [Request("a", "the boat", 12, stops=(whole[4],))])["a"]
    assert cut.text == whole[: whole.index(whole[4])]
    assert not cut.was_cut


def test_caps_hold(base: Base) -> None:
    budget = Budget(max_requests=4)
    assert len(answers(Local(base, batch_size=3), drawn(9), budget)) == budget.sent == 4
    tokens = Budget(max_tokens=3 * drawn(1)[0].most_tokens)
    found = answers(Local(base), drawn(30), tokens)
    assert 3 <= len(found) < 30
    assert tokens.used == sum(reply.prompt_tokens + reply.completion_tokens for reply in found.values())
    assert not answers(Local(base), drawn(3), Budget(max_tokens=10))
    assert not list(Local(base).replies(drawn(3), Budget(), lambda: True))


def test_a_prompt_that_does_not_fit_loses_its_beginning(base: Base) -> None:
    reply = answers(Local(base), [Request("a", "the boat was late but the soup hot " * 60, 4000)])["a"]
    assert reply.prompt_tokens == 64, "half of the context of 128"
    assert reply.completion_tokens == 64
    assert reply.was_cut


def test_a_teacher_is_named_by_its_weights(base: Base, tmp_path: Path) -> None:
    other = Local(load_base(str(make_base(tmp_path / "model", seed=1)), dtype="float64"))
    assert Local(base).name != other.name
    assert other.name.startswith("model@")
    assert not other.chats


def test_a_chat_template_is_used(tmp_path: Path) -> None:
    base = load_base(str(make_base(tmp_path / "model")))
    base.tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
    teacher = Local(base)
    assert teacher.chats
    asked = len(encode_prompt("<user>the boat<assistant>", base.tokenizer))
    assert answers(teacher, [Request("a", "the boat", 5)])["a"].prompt_tokens == asked


def test_an_encoder_decoder_answers(tmp_path: Path) -> None:
    write_encoder_decoder(tmp_path / "t5")
    teacher = Local(load_base(str(tmp_path / "t5")), batch_size=4)
    found = answers(teacher, [Request(f"{i}", f"boat {i}", 6) for i in range(6)])
    assert len(found) == 6
    assert all(1 <= reply.completion_tokens <= 6 for reply in found.values())
    together = answers(teacher, drawn(4))
    assert answers(teacher, drawn(4)[2:]) == {f"0/{i}/tasks": together[f"0/{i}/tasks"] for i in (2, 3)}


def test_a_classifier_is_no_teacher(tmp_path: Path) -> None:
    labelled = load_base(str(make_base(tmp_path / "model")), head=TaskHead("classes", ("a", "b")))
    with pytest.raises(UserError, match="writes no text"):
        Local(labelled)


def test_the_seed_tasks_of_the_recipes_are_seed_tasks() -> None:
    seeds = read_seeds(ROOT / "recipes" / "seed_tasks.jsonl")
    assert len(seeds) >= 12
    assert {task.is_classification for task in seeds} == {True, False}
