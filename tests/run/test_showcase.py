"""The base and what was made of it, asked what they were asked in their runs, and freely."""

import re

import pytest
import torch

from tests.small_base import QUICK, write_place, write_talker
from tunewise.calibration import probabilities
from tunewise.errors import UserError
from tunewise.files import read_jsonl, write_jsonl
from tunewise.methods.lanes import Lanes
from tunewise.run import build_recipe, evaluate, run
from tunewise.run.showcase import showcase
from tunewise.run.speakers import BASE

METHODS = {
    "lora": {"name": "lora", "rank": 2},
    "full": "full",
    "prompts": {"name": "prompt_tuning", "virtual_tokens": 3},
    "shown": {"name": "frozen", "shots": 2},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A base, reviews, and a run of each of these methods."""
    folder = write_place(tmp_path_factory.mktemp("showcase"))
    for name, method in METHODS.items():
        _run(folder, name, {"method": method})
    return folder


def _run(folder, name, fields):
    asked = {"model": str(folder / "base"), "data": str(folder / "reviews.csv"), "retention": None, "dtype": "float64"}
    run(build_recipe(asked | fields, QUICK), folder / name, prove=False)


def _asked(folder, *names, **more):
    return showcase({name: folder / name for name in names}, **more)


def test_each_says_what_it_said_in_its_run(place):
    """As lanes of one batch; in their runs they were asked alone."""
    dtype = {"dtype": "float64"}
    evaluate(model=str(place / "base"), data=str(place / "reviews.csv"), overrides=dtype, out=place / BASE)
    with _asked(place, *METHODS) as shown:
        assert shown.names == (BASE, *METHODS)
        assert shown.columns == ("text",)
        rows = {
            name: {row["id"]: row for row in read_jsonl(place / name / "predictions.jsonl")} for name in shown.names
        }
        for identity, row in list(rows[BASE].items())[:3]:
            for said in shown.ask(re.search(r"the \w+ \d+ was \w+", row["prompt"])[0]):
                expected = rows[said.speaker][identity]
                shares = probabilities([*expected["scores"].values()])
                assert said.text == expected["predicted"]
                assert said.probabilities == pytest.approx(dict(zip(expected["scores"], shares, strict=True)), abs=1e-5)


def test_demonstrations_are_those_of_the_run_and_the_base_is_asked_without_any(place):
    _run(place, "few", {"method": METHODS["shown"], "data": {"path": str(place / "reviews.csv"), "few_shot": 2}})
    (row, *_) = read_jsonl(place / "few" / "predictions.jsonl")
    with _asked(place, "lora") as shown:
        bare = shown.ask("the soup was good")[0]
    with _asked(place, "few") as shown:
        assert shown.ask("the soup was good")[0].probabilities == pytest.approx(bare.probabilities, abs=1e-9)
        said = shown.ask(re.findall(r"the \w+ \d+ was \w+", row["prompt"])[-1])[1]
    shares = probabilities([*row["scores"].values()])
    assert said.probabilities == pytest.approx(dict(zip(row["scores"], shares, strict=True)), abs=1e-5)


def test_one_after_another_they_say_the_same_and_the_base_is_left_as_it_was(place, monkeypatch):
    with _asked(place, *METHODS) as shown:
        at_once = shown.ask("the soup was good")
        base = shown._speakers.base.model
        before = {name: tensor.clone() for name, tensor in base.state_dict().items()}

    def refuse(lanes):
        raise UserError("no lanes")

    monkeypatch.setattr(Lanes, "__enter__", refuse)
    with _asked(place, *METHODS) as shown:
        apart = shown.ask("the soup was good")
        after = shown._speakers.base.model.state_dict()
    assert [said.text for said in apart] == [said.text for said in at_once]
    for one, other in zip(apart, at_once, strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-9)
    assert len({tuple(said.probabilities.values()) for said in apart}) == 5
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_freely_all_go_on_with_a_text_and_one_without_training_is_the_base(place):
    with _asked(place, *METHODS, free=True, max_new_tokens=5) as shown:
        assert shown.names == (BASE, "lora", "full", "prompts")
        assert not shown.is_conversation
        said = shown.ask("the soup")
    assert len({one.text for one in said}) > 1
    assert not any(one.probabilities for one in said)


def test_an_answer_ends_where_the_context_does(place):
    positions = []

    def noted(_, args, given):
        positions.append(int(given["position_ids"].max()))

    with _asked(place, "lora", free=True, max_new_tokens=500) as shown:
        model = shown._speakers.base.model
        hook = model.register_forward_pre_hook(noted, with_kwargs=True)
        shown.ask("a")
        hook.remove()
        assert 60 < max(positions) < model.config.max_position_embeddings


def test_a_conversation_goes_on_for_each_with_what_it_said_itself(place, tmp_path):
    write_talker(tmp_path / "base", tmp_path / "chats.jsonl")
    _run(tmp_path, "lora", {"method": METHODS["lora"], "data": str(tmp_path / "chats.jsonl")})
    with _asked(tmp_path, "lora", system="S", max_new_tokens=4) as shown:
        assert shown.is_conversation
        first = shown.ask("a")
        second = shown.ask("b")
        prompts = {name: [turn.content for turn in turns] for name, turns in shown._so_far.items()}
        shown.begin_again()
        again = shown.ask("a")
        shown.begin_again()
        without = shown.ask("b")
    for number, name in enumerate((BASE, "lora")):
        assert prompts[name] == ["S", "a", first[number].text, "b", second[number].text]
    assert again == first
    assert without[0].text != second[0].text  # what was said before is read


def test_a_base_with_a_new_classifier_is_not_asked_itself(place):
    _run(place, "classifier", {"method": {"name": "bitfit", "add": True}, "head": "classifier"})
    rows = {row["id"]: row for row in read_jsonl(place / "classifier" / "predictions.jsonl")}
    with _asked(place, "classifier") as shown:
        assert shown.names == ("classifier",)
        for row in list(rows.values())[:2]:
            (said,) = shown.ask(row["prompt"])
            assert said.text == row["predicted"]
            assert said.probabilities[said.text] == pytest.approx(
                max(probabilities([*row["scores"].values()])), abs=1e-5
            )
    with (
        pytest.raises(UserError, match=r"classifier answers by a new head \(classes\), which writes no text"),
        _asked(place, "classifier", free=True),
    ):
        pass


def test_a_run_and_its_adapter_stand_on_one_base_though_one_of_them_alone_says_its_precision(place):
    _run(place, "plain", {"method": METHODS["lora"], "dtype": "auto"})
    for names in ({"run": "plain", "adapter": "plain/adapter"}, {"adapter": "plain/adapter", "run": "plain"}):
        with showcase({name: place / folder for name, folder in names.items()}) as shown:
            by_name = {said.speaker: said for said in shown.ask("the soup was good")}
        assert by_name["run"].probabilities == by_name["adapter"].probabilities
    told = r"plain and lora stand on unlike bases: dtype \w+ and float64\n"
    with pytest.raises(UserError, match=told), _asked(place, "lora", "plain"):
        pass


def test_what_does_not_go_together_is_refused(place, tmp_path):
    pairs = [{"premise": f"a boat {i}", "hypothesis": f"soup {i}", "label": "yn"[i % 2]} for i in range(40)]
    write_jsonl(tmp_path / "pairs.jsonl", pairs)
    _run(place, "pairs", {"method": METHODS["lora"], "data": str(tmp_path / "pairs.jsonl")})
    with pytest.raises(UserError, match="unlike columns"), _asked(place, "lora", "pairs"):
        pass
    _run(place, "single", {"method": METHODS["lora"], "dtype": "float32"})
    with (
        pytest.raises(UserError, match="lora and single stand on unlike bases: dtype float64 and float32\n"),
        _asked(place, "lora", "single"),
    ):
        pass
    with pytest.raises(UserError, match="goes by the name of its base"), showcase({BASE: place / "lora"}):
        pass
    _run(place, "bare", {"method": "frozen"})
    with showcase({BASE: place / "bare"}) as shown:
        assert shown.names == (BASE,)
    with pytest.raises(UserError, match="belongs to no data"), _asked(place, "lora", free=True, data="tiny:sentiment"):
        pass
    with pytest.raises(UserError, match="system prompt"), _asked(place, "lora", system="S"):
        pass
    with _asked(place, "lora", "pairs", free=True, max_new_tokens=3) as shown:
        assert shown.names == (BASE, "lora", "pairs")
        assert len(shown.ask("the soup")) == 3
