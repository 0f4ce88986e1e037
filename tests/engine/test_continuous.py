"""Answers that begin while others are written are those that are written alone: packed, padded, and of a T5."""

import pytest
import torch

from tests.small_base import write_base, write_encoder_decoder
from tunewise.engine.continuous import Wanted, writing
from tunewise.engine.decoding import Answer, Decoding, Sampling, decode, end_ids, most_probable
from tunewise.engine.native.build import library
from tunewise.engine.packed_reading import why_not_read
from tunewise.engine.writing import write
from tunewise.models.load import Base, load_base

TEXTS = ["the soup", "the boat was bad", "warm", "positive or negative", "cold kitchen water", "a"]
SETTINGS = [
    Decoding(12), Decoding(3), Decoding(9, sampling=Sampling(1.5, seed=4)), Decoding(12, stops=("e", "q")),
    Decoding(20, sampling=Sampling(2.0, 0.9, 7, 20)), Decoding(5),
]  # fmt: skip


def wanted(base: Base, prompt: list[int], how: Decoding) -> Wanted:
    answer = Answer(base.tokenizer, end_ids(base.model, base.tokenizer), how)
    choose = most_probable if how.sampling is None else how.sampling.chooser()
    return Wanted(0, prompt, answer, how.max_new_tokens, choose)


def alone(base: Base, prompt: list[int], how: Decoding) -> str:
    if base.anatomy.kind == "encoder_decoder":
        return write(base, [prompt], how)[0]
    return decode(base.model, base.tokenizer, [prompt], how, packing=False)[0]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases")
    write_base(folder / "decoder", seed=3)
    write_encoder_decoder(folder / "encoder_decoder")
    return folder


@pytest.mark.parametrize(
    ("name", "is_packed"), [("decoder", True), ("decoder", False), ("encoder_decoder", False)], ids=str
)
def test_those_that_come_and_go_are_written_as_they_are_alone(folders, name, is_packed):
    if is_packed and library() is None:
        pytest.skip("no kernels here")
    base = load_base(str(folders / name), "float32")
    if is_packed:
        assert why_not_read(base.model) == ""
    prompts = [base.tokenizer(text)["input_ids"] for text in TEXTS]
    waiting = [wanted(base, prompt, how) for prompt, how in zip(prompts, SETTINGS, strict=True)]
    every, most, n_steps = list(waiting), 0, 0
    slots = 2 * max(one.n_tokens for one in waiting) - 1  # not all that find a place find room as well
    written = writing(base, None, is_packed, n_places=3, n_slots=slots)
    while waiting or written.is_busy:
        if n_steps % 2 == 0:  # later ones begin in the midst of earlier ones
            while waiting and written.add(waiting[0]):
                waiting.pop(0)
        most = max(most, sum(not one.answer.ended for one in every[: len(every) - len(waiting)]))
        if written.is_busy:
            written.step()
        n_steps += 1
    assert [one.answer.text for one in every] == [
        alone(base, prompt, how) for prompt, how in zip(prompts, SETTINGS, strict=True)
    ]
    assert 2 <= most <= 3
    assert every[1].answer.ended == "length"
    assert len(every[1].answer.tokens) == 3
    assert sum(bool(one.answer.text) for one in every) >= 4


@pytest.mark.skipif(library() is None, reason="no kernels here")
def test_a_cache_grows_with_what_it_holds_and_what_is_given_up_frees_its_place(folders, monkeypatch):
    monkeypatch.setattr("tunewise.engine.continuous.FIRST_SLOTS", 8)
    base = load_base(str(folders / "decoder"), "float32")
    prompts = [base.tokenizer(text)["input_ids"] for text in TEXTS]
    first, second = (wanted(base, prompt, Decoding(30)) for prompt in prompts[:2])
    written = writing(base, None, True, n_places=2, n_slots=2 * second.n_tokens)
    assert written.add(first)
    written.step()
    assert written.add(second)
    third = wanted(base, prompts[2], Decoding(4))
    assert not written.add(third)  # two places
    written.step()
    first.answer.give_up()
    written.step()
    assert written.add(third)
    while written.is_busy:
        written.step()
    assert len(first.answer.tokens) == 2
    assert second.answer.text == alone(base, prompts[1], Decoding(30))
    assert third.answer.text == alone(base, prompts[2], Decoding(4))
    assert torch.is_grad_enabled()
