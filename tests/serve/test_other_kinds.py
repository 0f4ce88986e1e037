"""Encoder-decoders, whose answers come in one piece, and classifiers, which write none, say what a showcase says."""

import openai
import pytest

from tests.small_base import QUICK, write_encoder, write_encoder_decoder, write_reviews
from tunewise.files import write_jsonl
from tunewise.run import build_recipe, run
from tunewise.run.showcase import showcase
from tunewise.serve.server import serving


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A run on each of these bases."""
    folder = tmp_path_factory.mktemp("kinds")
    write_encoder_decoder(folder / "t5")
    write_encoder(folder / "bert")
    write_reviews(folder / "reviews.csv")
    write_jsonl(folder / "counts.jsonl", [{"prompt": f"count {i}:", "completion": f" {i} boats"} for i in range(40)])
    for name, model, data in (("counts", "t5", "counts.jsonl"), ("reviews", "bert", "reviews.csv")):
        asked = {"model": str(folder / model), "data": str(folder / data), "retention": None, "method": "lora"}
        run(build_recipe({**asked, "dtype": "float32"}, QUICK), folder / name, prove=False)
    return folder


@pytest.mark.parametrize(("name", "text"), [("counts", "count 7:"), ("reviews", "the soup 3 was good")])
def test_they_say_what_they_say_in_a_showcase(place, name, text):
    runs = {name: place / name}
    with showcase(runs) as shown:
        said = {one.speaker: one for one in shown.ask(text)}
    with serving(runs) as server, openai.OpenAI(base_url=server.url, api_key="none", max_retries=0) as client:
        assert server.names == tuple(said)
        for model, expected in said.items():
            asked = {"model": model, "messages": [{"role": "user", "content": text}]}
            found = client.chat.completions.create(**asked)
            (choice,) = found.choices
            assert choice.message.content == expected.text
            assert found.usage.completion_tokens <= 16
            if expected.probabilities:
                assert choice.probabilities == pytest.approx(expected.probabilities, abs=1e-5)
            pieces = list(client.chat.completions.create(**asked, stream=True))
            assert [piece.choices[0].delta.content for piece in pieces] == ["", expected.text]
            assert pieces[1].choices[0].finish_reason == choice.finish_reason
        if name == "reviews":
            with pytest.raises(openai.BadRequestError, match="new head, which writes no text"):
                client.completions.create(model=name, prompt="the")
        else:
            plain, echoed = (client.completions.create(model=name, prompt=text, echo=echo) for echo in (False, True))
            assert echoed.choices[0].text == text + plain.choices[0].text
            with pytest.raises(openai.BadRequestError, match="without expecting it"):
                client.completions.create(model=name, prompt=text, echo=True, logprobs=1)
