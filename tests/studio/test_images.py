"""A page on which images are asked: uploaded, within bounds, and answered side by side."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification

from tests.small_base import QUICK, write_image_model, write_pictures
from tunewise.cli.studio import above
from tunewise.report.named import named
from tunewise.run import build_recipe, run
from tunewise.run.showcase import Showcase, showcase
from tunewise.studio.sitting import AS_IN_ITS_RUN, Sitting

pytest.importorskip("gradio", reason="the page needs gradio: pip install 'tunewise[ui]'")

from fastapi.testclient import TestClient

from tunewise.studio.page import MOST_BYTES, Page
from tunewise.studio.serving import app_of
from tunewise.studio.showing import Heading

METHODS = {"lora": {"name": "lora", "rank": 2}, "top": {"name": "top_layers", "layers": 1}}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs on bright and dark pictures."""
    folder = tmp_path_factory.mktemp("images")
    base, data = write_image_model(folder / "vit"), write_pictures(folder / "pictures")
    for name, method in METHODS.items():
        asked = {"model": str(base), "data": str(data), "method": method, "retention": None, "dtype": "float32"}
        run(build_recipe(asked, QUICK), folder / name, prove=False)
    return folder


@pytest.fixture(scope="module")
def shown(place: Path) -> Iterator[Showcase]:
    with showcase({name: place / name for name in METHODS}) as found:
        yield found


@pytest.fixture(scope="module")
def page(place: Path, shown: Showcase) -> Page:
    targets = [place / name for name in METHODS]
    heading, columns = above(targets, named(targets), shown, free=False)
    return Page(Sitting(shown), columns, heading)


def picture(shade: int) -> bytes:
    held = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, shade, shade)).save(held, "png")
    return held.getvalue()


def asked(page: Page, path: Path | None, drawn: Any = None) -> tuple[str, str]:
    """The error, and the answers."""
    error, answers, *_ = page.ask(AS_IN_ITS_RUN, None, 0.0, {}, drawn, None if path is None else str(path))
    return error, answers


def test_all_of_them_say_what_they_say_to_the_file(page: Page, shown: Showcase, tmp_path: Path) -> None:
    path = tmp_path / "uploaded <b>.png"
    path.write_bytes(picture(220))
    error, answers = asked(page, path)
    assert error == ""
    assert "uploaded &lt;b&gt;.png" in answers
    assert str(tmp_path) not in answers
    said = shown.ask(str(path))
    assert [one.speaker for one in said] == ["lora", "top"]
    for one in said:
        assert f'aria-label="{one.speaker}"' in answers
        assert set(one.probabilities) == {"bright", "dark"}
        assert f"{100 * one.probabilities[one.text]:.1f} %" in answers


def test_a_base_that_knows_the_classes_is_asked_beside_them(place: Path, tmp_path: Path) -> None:
    config = AutoConfig.from_pretrained(
        place / "vit", id2label={0: "bright", 1: "dark"}, label2id={"bright": 0, "dark": 1}
    )
    torch.manual_seed(0)
    AutoModelForImageClassification.from_config(config).save_pretrained(tmp_path / "classifier")
    AutoImageProcessor.from_pretrained(place / "vit").save_pretrained(tmp_path / "classifier")
    asked = {"model": str(tmp_path / "classifier"), "data": str(place / "pictures"), "method": METHODS["lora"]}
    run(build_recipe({**asked, "retention": None, "dtype": "float32"}, QUICK), tmp_path / "run", prove=False)
    (tmp_path / "a.png").write_bytes(picture(220))
    with showcase({"run": tmp_path / "run"}) as shown:
        base, tuned = shown.ask(str(tmp_path / "a.png"))
    assert (base.speaker, tuned.speaker) == ("base", "run")
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "classifier")
    pixels = AutoImageProcessor.from_pretrained(place / "vit")(Image.open(tmp_path / "a.png"), return_tensors="pt")
    expected = model(**pixels).logits[0].softmax(-1)
    assert [*base.probabilities.values()] == pytest.approx(expected.tolist(), abs=1e-5)
    assert tuned.probabilities["bright"] > base.probabilities["bright"] + 0.1


def test_what_is_no_image_is_told(page: Page, tmp_path: Path) -> None:
    assert "nothing is asked" in asked(page, None)[0]
    for name, content in (("a.png", b"no image"), ("cut.png", picture(3)[:-30])):
        (tmp_path / name).write_bytes(content)
        assert f"{name} is no image that can be read" in asked(page, tmp_path / name)[0]


def test_a_row_of_dev_is_shown_from_a_copy_and_known_again(page: Page, place: Path, tmp_path: Path) -> None:
    drawn, copy = page.draw()
    assert Path(drawn.told["image"]).is_relative_to(place / "pictures")
    assert Path(copy).is_relative_to(page.blocks.GRADIO_CACHE)
    assert "right answer" in asked(page, Path(copy), drawn)[1]
    (tmp_path / "other.png").write_bytes(picture(90))
    assert "right answer" not in asked(page, tmp_path / "other.png", drawn)[1]


def test_no_more_is_uploaded_than_may_be_and_no_other_file_is_read(page: Page, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.png"
    elsewhere.write_bytes(picture(220))
    with TestClient(app_of(page, Heading("images", ""), "127.0.0.1"), base_url="http://127.0.0.1") as client:
        sent = client.post("/gradio_api/upload", files={"files": ("a.png", picture(220))})
        assert sent.status_code == 200
        too_large = client.post("/gradio_api/upload", files={"files": ("a.png", bytes(MOST_BYTES + 1))})
        assert too_large.status_code == 413
        (uploaded,) = sent.json()
        assert 'aria-label=\\"top\\"' in answer_to(client, page, uploaded)
        assert "was not uploaded by a user" in answer_to(client, page, str(elsewhere))
    assert not Path(uploaded).exists()


def answer_to(client: TestClient, page: Page, path: str) -> str:
    """What the page tells a client that asks about this file."""
    number = next(number for number, each in page.blocks.fns.items() if each.fn == page.ask)
    values = {page._way._id: AS_IN_ITS_RUN, page._temperature._id: 0.0}
    image = {"path": path, "meta": {"_type": "gradio.FileData"}, "orig_name": Path(path).name}
    data = [image if one is page._fields[0] else values.get(one._id) for one in page.blocks.fns[number].inputs]
    asked = {"fn_index": number, "data": data, "session_hash": "abc"}
    assert client.post("/gradio_api/queue/join", json=asked).status_code == 200
    lines = client.get("/gradio_api/queue/data?session_hash=abc").text.splitlines()
    told = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    return json.dumps(next(each for each in told if each["msg"] == "process_completed"))
