"""The page in a real browser, and without a network."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tunewise.cli.studio import above
from tunewise.listening import listening, url_of
from tunewise.report.named import named
from tunewise.run.showcase import showcase
from tunewise.studio.sitting import Sitting


@pytest.fixture(scope="module")
def address(studio_place: Path) -> Iterator[str]:
    """The page of the two arms, served by a thread."""
    uvicorn = pytest.importorskip("uvicorn", reason="the page needs gradio: pip install 'tunewise[ui]'")
    from tunewise.studio.page import Page
    from tunewise.studio.serving import app_of

    target = studio_place / "runs"
    (target / "report.html").write_text("<title>report</title>", "utf-8")
    found = named([target])
    with listening("127.0.0.1", 0) as at, showcase({name: one.folder for name, one in found.items()}) as shown:
        heading, columns = above([target], found, shown, free=False)
        app = app_of(Page(Sitting(shown), columns, heading), heading, "127.0.0.1")
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [at]})
        thread.start()
        yield f"{url_of(at)}/"
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


class Tab:
    """A tab that may ask the page alone, and keeps what it complains of and what it would fetch from elsewhere."""

    def __init__(self, browser: Any, address: str, width: int, theme: str) -> None:
        self.page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=theme)
        self.page.set_default_timeout(20_000)
        self.complaints: list[str] = []
        self.elsewhere: list[str] = []
        self._address = address
        self.page.on("console", lambda told: self.complaints.append(told.text) if told.type != "info" else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.route("**/*", self._stay)
        self.page.goto(address)
        self.page.wait_for_selector(".speaker h3")

    def _stay(self, route: Any) -> None:
        if route.request.url.startswith(self._address):
            route.continue_()
        else:
            self.elsewhere.append(route.request.url)
            route.abort()


def test_the_page_asks_and_shows_all_answers(browser: Any, address: str) -> None:
    tab = Tab(browser, address, 390, "light")
    page = tab.page
    assert [each.get_attribute("aria-label") for each in page.locator(".speaker").all()] == ["base", "frozen", "lora"]
    assert "Take none yet" in page.locator(".verdict h2").inner_text()

    page.get_by_role("button", name="Ask").click()
    page.wait_for_selector("[role=alert]")
    assert "nothing is asked" in page.locator("[role=alert]").inner_text()

    field = page.locator("textarea:visible")
    markup = "<b>the soup</b> ${1 + 1} {{value}} was good"
    field.fill(markup)
    field.press("Enter")
    page.wait_for_selector(".said .shares")
    assert page.locator(".question p").inner_text() == markup
    assert page.locator(".said").count() == 3
    assert page.locator("[role=alert]").count() == 0
    assert all(text in ("0", "1") for text in page.locator(".said .text").all_inner_texts())
    for bars in page.locator(".said .shares").all():
        shares = [float(text.strip("<% ")) for text in bars.locator("b").all_inner_texts()]
        assert sum(shares) == pytest.approx(100, abs=0.2)

    page.get_by_role("button", name="Try a row of dev").click()
    page.wait_for_selector(".wanted")
    assert page.locator(".said.right, .said.wrong").count() == 3
    assert page.locator("details.before tbody tr").count() == 1

    page.get_by_text("free", exact=True).click()
    page.wait_for_selector(".settings")
    page.locator("textarea:visible").press("Enter")
    page.wait_for_selector(".said")
    assert page.locator(".speaker").count() == 2

    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
    page.goto(f"{address}report")
    assert page.title() == "report"
    assert tab.elsewhere == []
    assert tab.complaints == []
    page.close()


@pytest.mark.parametrize(("theme", "paper"), [("light", "rgb(251, 250, 248)"), ("dark", "rgb(20, 23, 26)")])
def test_the_page_has_the_colours_of_the_report(browser: Any, address: str, theme: str, paper: str) -> None:
    tab = Tab(browser, address, 1280, theme)
    assert tab.page.evaluate("getComputedStyle(document.body).backgroundColor") == paper
    tops = {round(box.bounding_box()["y"]) for box in tab.page.locator(".speaker").all()}
    assert len(tops) == 1, "they do not stand side by side"
    assert (tab.elsewhere, tab.complaints) == ([], [])
    tab.page.close()
