"""Runs that are asked where the rows they were trained on are not."""

import shutil

import pytest

from tests.small_base import QUICK, write_base, write_image_model, write_pictures, write_place
from tunewise.errors import UserError
from tunewise.files import read_json, write_jsonl
from tunewise.run import build_recipe, evaluate, run
from tunewise.run.showcase import showcase

FROM_ROWS = {"data.seed": 0}
"""Says nothing new, but of the data: its rows are read."""
LORA = {"name": "lora", "rank": 2}


def _run(place, name, **fields):
    asked = {"model": str(place / "base"), "data": str(place / "reviews.csv"), "retention": None, "method": LORA}
    run(build_recipe(asked | fields, QUICK), place / name, prove=False)
    return place / name


def _said(targets, question, overrides=None):
    with showcase(targets, max_new_tokens=6, overrides=overrides) as shown:
        return shown.columns, shown.ask(question)


def test_a_copy_says_what_the_run_says_beside_its_rows(tmp_path):
    place = write_place(tmp_path / "here")
    words = {"path": str(place / "reviews.csv"), "pattern": "question", "words": {"1": "fine", "0": "poor"}}
    own = {"lora": _run(place, "lora", data=words)}
    own["shown"] = _run(place, "shown", data=words, method="frozen:shots=4:calibration=contextual", seed=3)
    whole = _said(own, "the soup was good", FROM_ROWS)
    assert len(read_json(own["shown"] / "asked.json")["demonstrations"]) == 4
    there = {name: shutil.copytree(folder, tmp_path / "there" / name) for name, folder in own.items()}
    (place / "reviews.csv").unlink()
    assert _said(there, "the soup was good") == whole
    adapter = shutil.copytree(there["lora"] / "adapter", tmp_path / "adapter")
    assert _said({"lora": adapter}, "the soup was good")[1][1] == whole[1][1]
    with pytest.raises(
        UserError, match=r"reviews\.csv, whose rows shown is asked"
    ):  # other demonstrations than those that were kept
        _said({"shown": there["shown"]}, "the soup was good", {"seed": 4})
    with pytest.raises(UserError) as error:
        evaluate(there["lora"])
    assert "whose rows" in error.value.message
    assert "data.path=FILE" in error.value.hint


def test_answers_end_where_they_ended_in_the_run_and_a_conversation_has_its_template(tmp_path):
    write_base(tmp_path / "base")
    rows = [{"prompt": f"say {i}:", "completion": f" boat\n\nsoup {i}"} for i in range(40)]
    write_jsonl(tmp_path / "written.jsonl", rows)
    turns = [[{"role": "user", "content": f"say {i}"}, {"role": "assistant", "content": "boat"}] for i in range(40)]
    write_jsonl(tmp_path / "chats.jsonl", [{"messages": messages} for messages in turns])
    for name in ("written", "chats"):
        data = {"path": str(tmp_path / f"{name}.jsonl")} | ({"template": "vicuna"} if name == "chats" else {})
        there = _run(tmp_path, name, data=data)
        whole = _said({name: there}, "say 1", FROM_ROWS)
        (tmp_path / f"{name}.jsonl").unlink()
        assert _said({name: there}, "say 1") == whole
        notes = read_json(there / "adapter" / "tunewise.json")["notes"]
        assert notes["stop"] == "" if name == "written" else "USER" in notes["chat_template"]


def test_a_classifier_of_images_is_shown_one_where_those_of_its_training_are_gone(tmp_path):
    write_image_model(tmp_path / "base")
    write_pictures(tmp_path / "pictures")
    there = _run(tmp_path, "images", data=str(tmp_path / "pictures"), method={"name": "bitfit"})
    picture = shutil.copy(tmp_path / "pictures" / "dark" / "1.png", tmp_path)
    whole = _said({"images": there}, str(picture), FROM_ROWS)
    shutil.rmtree(tmp_path / "pictures")
    assert _said({"images": there}, str(picture)) == whole
