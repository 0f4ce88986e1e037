"""A server on loopback, asked by the client of OpenAI: the same answers as a showcase's, as they are written."""

import json
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import openai
import pytest
import torch

from tunewise.data.chat_template import chat_template
from tunewise.engine.decoding import Sampling
from tunewise.errors import UserError
from tunewise.methods import parse_method
from tunewise.methods.store import load_adapter
from tunewise.models.load import load_base
from tunewise.run.showcase import showcase
from tunewise.serve.fields import Completion
from tunewise.serve.server import ServerSettings, serving

ASKED = "say 7"
OWN = Sampling(0.7, 0.9, 1, 5)
METHOD_OF_PROMPTS = parse_method({"name": "prompt_tuning", "virtual_tokens": 3})
WRITERS, CHOOSERS = ("base", "lora", "prompts"), ("reviews", "shown")


@pytest.fixture(scope="module")
def server(runs):
    with serving(runs) as found:
        yield found


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=server.url, api_key="none", max_retries=0) as found:
        yield found


@pytest.fixture(scope="module")
def shown(runs):
    """What a showcase says to ASKED, and to a review."""
    talking = {name: path for name, path in runs.items() if name in WRITERS}
    with showcase(talking, max_new_tokens=16) as found:
        said = {one.speaker: one for one in found.ask(ASKED)}
    with showcase({name: runs[name] for name in CHOOSERS}) as found:
        return said | {one.speaker: one for one in found.ask("the soup 3 was good")[1:]}


def asked(client, model, text=ASKED, **fields):
    fields = {"temperature": 0, "max_tokens": 16} | fields
    return client.chat.completions.create(model=model, messages=[{"role": "user", "content": text}], **fields)


def text_of(answer):
    return answer.choices[0].message.content


def get(url):
    with urllib.request.urlopen(url) as reply:
        return json.loads(reply.read())


def test_the_base_and_each_run_are_listed(server, client):
    found = {model.id: model for model in client.models.list()}
    assert [*found] == list(server.names) == ["base", "lora", "prompts", "reviews", "shown"]
    assert client.models.retrieve("lora").parent == "base"
    health = get(server.url.removesuffix("v1") + "health")
    assert health == {"status": "ok", "models": [*found], "running": 0, "waiting": 0}


def test_each_says_what_it_says_in_a_showcase_alone_and_beside_the_others(client, shown):
    alone = {name: text_of(asked(client, name)) for name in WRITERS}
    assert alone == {name: shown[name].text for name in WRITERS}
    assert len(set(alone.values())) == len(WRITERS)
    with ThreadPoolExecutor(12) as pool:
        beside = list(pool.map(lambda name: (name, text_of(asked(client, name))), WRITERS * 4))
    assert all(text == alone[name] for name, text in beside)


@pytest.mark.parametrize("name", CHOOSERS)
def test_one_who_chooses_among_answers_is_asked_by_its_task_and_tells_how_sure_it_is(client, shown, name):
    found = asked(client, name, "the soup 3 was good", n=2)
    assert len(found.choices) == 2
    for choice in found.choices:
        assert choice.message.content == shown[name].text
        assert choice.finish_reason == "stop"
        assert choice.probabilities == pytest.approx(shown[name].probabilities, abs=1e-5)
    pieces = list(asked(client, name, "the soup 3 was good", stream=True))
    assert "".join(piece.choices[0].delta.content for piece in pieces) == shown[name].text
    again = asked(client, name, '{"text": "the soup 3 was good"}')
    assert text_of(again) == text_of(found)


def test_who_is_shown_demonstrations_reads_them_in_chats_alone(client):
    bare, with_them = (asked(client, name, "the soup 3 was good").usage.prompt_tokens for name in CHOOSERS)
    assert with_them > bare
    as_it_is = {"prompt": "the soup", "max_tokens": 5, "temperature": 0}
    base, shown = (client.completions.create(model=name, **as_it_is) for name in ("base", "shown"))
    assert (base.choices, base.usage) == (shown.choices, shown.usage)


def test_a_conversation_is_read_whole_by_the_runs_template(server, client):
    base = server._speakers.base
    turns = [
        {"role": "developer", "content": "be short"},
        {"role": "user", "content": [{"type": "text", "text": "say 1"}]},
        {"role": "assistant", "content": "boat 1"},
        {"role": "user", "content": "say 2"},
    ]
    found = client.chat.completions.create(model="base", messages=turns, max_completion_tokens=4, temperature=0)
    text = chat_template("own", base.tokenizer).render(
        [{"role": role, "content": content} for role, content in
         (("system", "be short"), ("user", "say 1"), ("assistant", "boat 1"), ("user", "say 2"))],
        opened=True,
    )  # fmt: skip
    ids = base.tokenizer(text)["input_ids"]
    assert found.usage.prompt_tokens == len(ids)
    assert text_of(found) == generated(server, ids, 4).strip()


def generated(server, ids, n):
    """What transformers writes with the base, which is loaded anew."""
    fresh = load_base(server._speakers.base.name, "float64")
    out = fresh.model.generate(
        torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), max_new_tokens=n, do_sample=False
    )
    return fresh.tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True)


def test_completions_go_on_with_texts_as_transformers_does(server, client):
    prompts = ["the soup was", "the boat"]
    found = client.completions.create(model="base", prompt=prompts, max_tokens=9, temperature=0)
    ids = [server._speakers.base.tokenizer(prompt)["input_ids"] for prompt in prompts]
    assert [choice.text for choice in found.choices] == [generated(server, each, 9) for each in ids]
    assert [choice.finish_reason for choice in found.choices] == ["length", "length"]
    assert found.usage.prompt_tokens == sum(map(len, ids))
    assert found.usage.completion_tokens == 18
    assert found.usage.total_tokens == sum(map(len, ids)) + 18


@torch.no_grad()
def test_log_probabilities_are_those_of_the_model(server, client):
    fresh = load_base(server._speakers.base.name, "float64")
    ids = fresh.tokenizer("the soup", return_tensors="pt")["input_ids"]
    written = fresh.model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=6)
    expected = fresh.model(written).logits[0, ids.shape[1] - 1 : -1].log_softmax(-1)
    fields = {"model": "base", "prompt": "the soup", "max_tokens": 6, "temperature": 0, "logprobs": 3}
    choice = client.completions.create(**fields).choices[0]
    found = choice.logprobs
    assert found.tokens == [fresh.tokenizer.decode([token]) for token in written[0, ids.shape[1] :]]
    assert found.text_offset == [len("".join(found.tokens[:n])) for n in range(6)]
    assert found.token_logprobs == pytest.approx(expected.max(-1).values.tolist(), abs=1e-4)
    for told, row in zip(found.top_logprobs, expected, strict=True):
        assert max(told.values()) == pytest.approx(float(row.max()), abs=1e-4)
    pieces = list(client.completions.create(**fields, stream=True))
    assert [each for piece in pieces for each in piece.choices[0].logprobs.text_offset] == found.text_offset
    warm = client.completions.create(**fields | {"temperature": 1.9, "seed": 3}).choices[0].logprobs
    assert warm.top_logprobs[0] == pytest.approx(found.top_logprobs[0])  # before anything is cut or cooled
    chat = asked(client, "lora", logprobs=True, top_logprobs=2, max_tokens=5).choices[0].logprobs.content
    assert all(token.logprob == token.top_logprobs[0].logprob for token in chat)  # the most probable was written
    assert 0 < len(chat) <= 5


def test_a_prompt_may_be_the_ids_of_its_tokens(server, client):
    texts, fields = ["the soup was", "the boat"], {"max_tokens": 6, "temperature": 0}
    ids = [server._speakers.base.tokenizer(text)["input_ids"] for text in texts]
    for model in ("base", "prompts"):
        expected = client.completions.create(model=model, prompt=texts, **fields)
        for prompt, found in ((ids, expected.choices), (ids[0], expected.choices[:1])):
            told = client.completions.create(model=model, prompt=prompt, **fields)
            assert told.choices == found
        assert client.completions.create(model=model, prompt=ids, **fields).usage == expected.usage


@torch.no_grad()
@pytest.mark.parametrize("as_ids", [False, True])
@pytest.mark.parametrize("name", ["base", "lora", "prompts"])
def test_an_echo_is_the_prompt_with_how_probable_it_was(runs, client, name, as_ids):
    fresh, n_virtual = load_base(str(runs["lora"].parent / "base"), "float64"), 3 if name == "prompts" else 0
    tokenizer = fresh.tokenizer
    ids = tokenizer("the soup was")["input_ids"]
    fields = {"model": name, "prompt": ids if as_ids else "the soup was", "temperature": 0, "max_tokens": 4}
    plain = client.completions.create(**fields, logprobs=2).choices[0]
    choice = client.completions.create(**fields, logprobs=2, echo=True).choices[0]
    opening = tokenizer.decode(ids) if as_ids else "the soup was"
    assert choice.text == opening + plain.text
    found = choice.logprobs
    assert found.tokens[: len(ids)] == [tokenizer.decode([token]) for token in ids]
    assert found.tokens[len(ids) :] == plain.logprobs.tokens
    n_before = len(opening) - len("the soup was")
    assert found.text_offset[1] == n_before
    assert [choice.text[at:].startswith(token) for at, token in zip(found.text_offset, found.tokens, strict=True)][1:]
    model = fresh.model
    if name != "base":
        model = load_adapter(model, runs[name] / "adapter", tokenizer=tokenizer).model
    read = torch.tensor([[*(METHOD_OF_PROMPTS.prefix_ids(fresh.anatomy) if n_virtual else ()), *ids]])
    expected = model(read).logits[0, n_virtual:-1].log_softmax(-1)
    own = expected.gather(1, torch.tensor(ids)[1:, None])[:, 0].tolist()
    assert found.token_logprobs[0] is found.top_logprobs[0] is None
    assert found.token_logprobs[1 : len(ids)] == pytest.approx(own, abs=1e-4)
    assert found.token_logprobs[len(ids) :] == pytest.approx(plain.logprobs.token_logprobs, abs=1e-5)
    for told, row in zip(found.top_logprobs[1:], expected, strict=False):
        assert max(told.values()) == pytest.approx(float(row.max()), abs=1e-4)
    pieces = list(client.completions.create(**fields, logprobs=2, echo=True, stream=True))
    assert "".join(piece.choices[0].text for piece in pieces) == choice.text
    assert pieces[0].choices[0].text == opening
    assert [at for piece in pieces for at in piece.choices[0].logprobs.text_offset] == found.text_offset
    only = client.completions.create(**fields | {"max_tokens": 0}, logprobs=2, echo=True)
    assert (only.choices[0].text, only.choices[0].finish_reason) == (opening, "length")
    assert only.choices[0].logprobs.token_logprobs == found.token_logprobs[: len(ids)]
    assert (only.usage.prompt_tokens, only.usage.completion_tokens) == (len(ids), 0)


def test_each_of_several_answers_echoes_its_prompt(client):
    fields = {"model": "lora", "prompt": ["the", "a b"], "n": 2, "max_tokens": 3, "seed": 3, "temperature": 1.0}
    found = client.completions.create(**fields, echo=True)
    plain = client.completions.create(**fields)
    expected = [prompt + one.text for prompt, one in zip(("the", "the", "a b", "a b"), plain.choices, strict=True)]
    assert [one.text for one in found.choices] == expected
    both = client.completions.create(**fields, echo=True, logprobs=1)
    assert [one.text for one in both.choices] == expected


@pytest.mark.parametrize(
    ("fields", "param", "told"),
    [
        ({"prompt": []}, "prompt", "a list of token ids"),
        ({"prompt": [[1], []]}, "prompt", "a list of token ids"),
        ({"prompt": [1, "a"]}, "prompt", "a list of token ids"),
        ({"prompt": ["a", [1]]}, "prompt", "a list of token ids"),
        ({"prompt": [1, True]}, "prompt", "a list of token ids"),
        ({"prompt": [1, -1]}, "prompt", "a list of token ids"),
        ({"prompt": [1.5]}, "prompt", "a list of token ids"),
        ({"prompt": 7}, "prompt", "a list of token ids"),
        ({"prompt": ["a"] * 257}, "prompt", "257 of them"),
        ({"prompt": [1, 100_000]}, "prompt", "no token 100000"),
        ({"prompt": [3] * 97}, "prompt", "context of 96"),
        ({"prompt": "a", "max_tokens": 0}, "max_tokens", "by echo"),
    ],
)
def test_prompts_that_are_none_are_refused(client, fields, param, told):
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(**{"model": "base"} | fields)
    assert caught.value.body["param"] == param
    assert told in caught.value.body["message"]


def test_a_stream_is_the_answer_in_pieces(client):
    settings = {"temperature": 1.3, "seed": 5, "n": 2}
    whole = asked(client, "lora", **settings)
    pieces = list(asked(client, "lora", stream=True, stream_options={"include_usage": True}, **settings))
    *pieces, last = pieces
    assert last.choices == []
    assert last.usage == whole.usage
    texts, ends, roles = ["", ""], ["", ""], [[], []]
    for piece in pieces:
        (choice,) = piece.choices
        roles[choice.index].append(choice.delta.role)
        texts[choice.index] += choice.delta.content
        ends[choice.index] = choice.finish_reason or ""
    assert texts == [choice.message.content for choice in whole.choices]
    assert ends == [choice.finish_reason for choice in whole.choices]
    assert all(role == ("assistant" if n == 0 else None) for each in roles for n, role in enumerate(each))
    assert texts[0] != texts[1]
    with client.chat.completions.stream(
        model="lora", messages=[{"role": "user", "content": ASKED}], n=2, logprobs=True, max_tokens=4, stop="nowhere"
    ) as gathered:
        with suppress(openai.LengthFinishReasonError):
            gathered.until_done()
        told = gathered.current_completion_snapshot.choices
    assert all(0 < len(choice.logprobs.content) <= 4 for choice in told)
    assert len(pieces) > 8
    raw = list(client.completions.create(model="lora", prompt="the", max_tokens=6, temperature=0, stream=True))
    again = client.completions.create(model="lora", prompt="the", max_tokens=6, temperature=0)
    assert "".join(piece.choices[0].text for piece in raw) == again.choices[0].text


def test_what_is_drawn_depends_on_the_seed_alone(client):
    def drawn(seed, name="prompts"):
        return text_of(asked(client, name, temperature=1.5, top_p=0.95, seed=seed))

    with ThreadPoolExecutor(8) as pool:
        beside = list(pool.map(drawn, [1, 2, 1, 3], ["prompts", "lora", "prompts", "base"]))
    assert beside[0] == beside[2] == drawn(1) != drawn(2)
    unsaid = {text_of(asked(client, "prompts", temperature=1.5)) for _ in range(3)}
    assert len(unsaid) > 1


@pytest.mark.parametrize(
    ("own", "fields", "expected"),
    [
        (None, {}, None),
        (None, {"top_p": 1.0, "seed": 3}, None),
        (OWN, {}, OWN),
        (OWN, {"seed": 3}, Sampling(0.7, 0.9, 3, 5)),
        (OWN, {"temperature": 0.2}, Sampling(0.2, 0.9, 11, 5)),
        (OWN, {"top_p": 1.0, "top_k": 8, "seed": 3}, Sampling(0.7, 1.0, 3, 8)),
        (OWN, {"temperature": 0}, None),
        (None, {"top_k": 4}, Sampling(1.0, 1.0, 11, 4)),
    ],
)
def test_what_is_not_said_of_drawing_is_as_in_the_run(own, fields, expected):
    assert Completion(model="base", prompt="a", **fields).sampling(own, drawn=11) == expected


def test_one_who_asks_for_the_coldest_answer_fails_nobody(client):
    fields = {"model": "base", "prompt": "the soup", "max_tokens": 5}
    coldest = client.completions.create(**fields, temperature=1e-300, logprobs=20)
    assert coldest.choices[0].text == client.completions.create(**fields, temperature=0).choices[0].text


def test_the_context_is_as_long_as_it_is_behind_virtual_tokens_and_a_prompt_of_one_token_too(client):
    fields = {"prompt": "", "temperature": 0}  # read as the end token
    for model, n_virtual in (("base", 0), ("prompts", 3)):
        longest = client.completions.create(model=model, **fields, max_tokens=95 - n_virtual)
        assert longest.usage.prompt_tokens == 1
        with pytest.raises(openai.BadRequestError, match="context of 96"):
            client.completions.create(model=model, **fields, max_tokens=96 - n_virtual)


def test_an_answer_ends_before_a_stop(client):
    whole = client.completions.create(model="base", prompt="the soup was", max_tokens=20, temperature=0).choices[0]
    stop = whole.text[4]
    found = client.completions.create(
        model="base", prompt="the soup was", max_tokens=20, temperature=0, stop=[stop, "nowhere"]
    ).choices[0]  # fmt: skip
    assert (found.text, found.finish_reason) == (whole.text.split(stop)[0], "stop")


@pytest.mark.parametrize(
    ("fields", "status", "param", "told"),
    [
        ({"model": "lorra"}, 404, "model", "did you mean 'lora'"),
        ({"stop": ["a"] * 17}, 400, "stop", "at most 16"),
        ({"temperature": -1}, 400, "temperature", "greater than or equal to 0"),
        ({"max_tokens": 0}, 400, "max_tokens", "greater"),
        ({"extra_body": {"temprature": 1}}, 400, "temprature", "did you mean 'temperature'"),
        ({"model": "reviews", "logprobs": True}, 400, "logprobs", "tells their probabilities"),
        ({"tools": [{"type": "function"}]}, 400, "tools", "not supported"),
        ({"frequency_penalty": 0.5}, 400, "frequency_penalty", "not supported"),
        ({"messages": []}, 400, "messages", "at least 1"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, 400, "messages", "the assistant's"),
        ({"messages": [{"role": "king", "content": "a"}]}, 400, "messages", "king"),
        ({"max_tokens": 90}, 400, "messages", "context of 96"),
        ({"messages": [{"role": "user", "content": "long " * 99}]}, 400, "messages", "context of 96"),
        ({"model": "reviews", "messages": [{"role": "system", "content": "a"}] * 2}, 400, "messages", "system prompt"),
        ({"model": "reviews", "messages": [{"role": "user", "content": '{"txt": "a"}'}]}, 400, "messages", "txt"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_answered_is_refused_as_openai_does(client, fields, status, param, told, stream):
    given = {"model": "lora", "messages": [{"role": "user", "content": "a"}], "stream": stream} | fields
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(**given)
    assert caught.value.status_code == status
    assert isinstance(caught.value, openai.NotFoundError if status == 404 else openai.BadRequestError)
    assert caught.value.body["param"] == param
    assert caught.value.body["type"] == "invalid_request_error"
    assert told in caught.value.body["message"]


def test_fields_that_change_nothing_are_taken(client):
    neutral = {"frequency_penalty": 0, "logprobs": False, "user": "me", "response_format": {"type": "text"}}
    assert text_of(asked(client, "lora", **neutral)) == text_of(asked(client, "lora"))


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b'{"model":', {}, 400),
        (b"[" * 100_000, {}, 400),
        (b'{"model": "base", "prompt": "a", "b\\ud800": 1}', {}, 400),
        (b'{"model": "base", "prompt": "a", "user": "b\\ud800"}', {}, 400),
        (b'{"model": "base", "prompt": "a"}', {"content-type": "text/plain"}, 400),
        (b'{"model": "base", "prompt": "a"}', {"host": "elsewhere.example"}, 400),
        (b"", {"content-length": str(5 << 20)}, 413),
    ],
    ids=[
        "no json",
        "too deep",
        "half a character",
        "half a character in a value",
        "a form of a browser",
        "a name that leads here",
        "too large",
    ],
)
def test_a_body_that_is_none_and_a_page_of_a_browser_are_sent_away(server, body, headers, status):
    sent = urllib.request.Request(f"{server.url}/completions", body, {"content-type": "application/json"} | headers)
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(sent)
    assert caught.value.code == status
    assert "access-control-allow-origin" not in caught.value.headers
    if "host" not in headers:
        assert json.loads(caught.value.read())["error"]["type"] == "invalid_request_error"


def test_a_body_may_come_in_pieces_whose_length_nobody_tells(server):
    pieces = [b'{"model": "base", ', b'"prompt": "a", "max_tokens": 2}']
    sent = urllib.request.Request(f"{server.url}/completions", pieces, {"content-type": "application/json"})
    assert get(sent)["usage"]["completion_tokens"] == 2


def test_one_who_goes_away_frees_its_place(server, client):
    """Its 60 tokens would take 1.2 seconds."""
    model, n_steps = server._speakers.base.model, []

    def slowly(*_):
        n_steps.append(time.sleep(0.02))

    hook = model.model.layers[0].register_forward_pre_hook(slowly)
    try:
        stream = client.completions.create(model="base", prompt="a", max_tokens=60, temperature=0, stream=True)
        next(iter(stream))
        stream.close()
        deadline = time.monotonic() + 10
        while get(server.url.removesuffix("v1") + "health")["running"] and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.1)
    finally:
        hook.remove()
    assert 0 < len(n_steps) < 50


def test_with_a_key_nobody_else_is_answered(runs):
    with serving({"lora": runs["lora"]}, free=True, settings=ServerSettings(api_key="secret")) as server:
        for key, is_right in (("secret", True), ("Secret", False)):
            with openai.OpenAI(base_url=server.url, api_key=key, max_retries=0) as client:
                if is_right:
                    lower = urllib.request.Request(f"{server.url}/models", headers={"authorization": "bearer secret"})
                    assert get(lower)["data"]  # the scheme in whatever case (RFC 9110, section 11.1)
                    assert text_of(asked(client, "base"))
                    continue
                with pytest.raises(openai.AuthenticationError, match="API key"):
                    client.models.list()
        url = server.url
    with pytest.raises(urllib.error.URLError):
        get(f"{url}/models")


def test_a_server_that_can_answer_nobody_any_more_ends_and_says_why(runs, monkeypatch):
    def fail(**_):
        raise RuntimeError("broken")

    with (
        pytest.raises(RuntimeError, match="broken"),
        serving({"lora": runs["lora"]}) as server,
        openai.OpenAI(base_url=server.url, api_key="none", max_retries=0) as client,
    ):
        monkeypatch.setattr(server._scheduler, "_hear", fail)
        with pytest.raises(openai.APIError):
            asked(client, "lora")
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                get(f"{server.url}/models")
            except OSError:
                break
            time.sleep(0.02)
        assert time.monotonic() < deadline


def test_an_address_that_is_taken_and_a_missing_extra_are_told(server, runs, monkeypatch):
    taken = ServerSettings(port=int(server.url.rsplit(":", 1)[1].split("/")[0]))
    with (
        pytest.raises(UserError, match=r"cannot listen at 127.0.0.1:\d+: Address already in use\n"),
        serving(runs, settings=taken),
    ):
        pass
    with pytest.raises(UserError, match="at_once is 0"):  # nobody would ever be answered
        ServerSettings(at_once=0)
    with pytest.raises(UserError, match="goes by the name of its base"), serving({"base": runs["lora"]}):
        pass
    monkeypatch.setattr("tunewise.serve.server.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'tunewise\[serve\]'"), serving(runs):
        pass
