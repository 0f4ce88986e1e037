"""The page in a real browser, opened from disk: nothing complains, nothing is fetched, and it fits a phone.

Screenshots, wide and narrow, light and dark, stay in the test's temporary folder.
"""

from pathlib import Path
from typing import Any

import pytest

from tests.report.runs import write_runs
from tests.report.test_dial import write_dial
from tunewise.report.page import write_page

MOST_BYTES = 1_500_000
SIZES = {"wide": (1280, 900), "phone": (390, 844)}
SECTIONS = (
    "ways", "cost", "differences", "dial", "curves", "confusion", "calibration", "answers", "proofs", "again",
)  # fmt: skip
OVERFLOW = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
# cells whose text runs into the next one
SPILLED = """() => [...document.querySelectorAll('.ways td')].filter(cell => cell.scrollWidth > cell.clientWidth + 1)
  .map(cell => cell.textContent)"""
# text of cells and figures that stands on two lines though it is one number
BROKEN = """() => [...document.querySelectorAll('.ways td.n, .tiles dd, .matrix td b')].filter(cell => {
  const range = document.createRange(); range.selectNodeContents(cell);
  const tops = new Set([...range.getClientRects()].map(box => Math.round(box.top)));
  return tops.size > 1 }).map(cell => cell.textContent)"""


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("matplotlib", reason="the figures need matplotlib")
    root = write_runs(tmp_path_factory.mktemp("browser") / "runs")
    for folder in root.glob("*/lora-*/seed*"):
        write_dial(folder, (50.0, 80.0, 90.0), (2.0, 2.1, 2.5), 0.5)
    return write_page(root, root.parent / "report.html", commands=["tunewise demo --out demo"])


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_the_page_opens_from_disk_and_fits(browser: Any, page_file: Path, size: str, theme: str) -> None:
    width, height = SIZES[size]
    tab = browser.new_page(viewport={"width": width, "height": height}, color_scheme=theme)
    complaints: list[str] = []
    requests: list[str] = []
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(page_file.as_uri())
    assert complaints == []
    assert requests == [page_file.as_uri()]
    assert [name for name in SECTIONS if tab.query_selector(f"#{name}") is None] == []
    figures = [figure.bounding_box() for figure in tab.query_selector_all("figure svg") if figure.is_visible()]
    assert len(figures) == 4  # of each the one made for this width: cost, dial, curves, calibration
    for box in figures:
        assert box["width"] > 0.8 * min(width, 1080) - 40
        assert box["height"] > 100
    assert tab.evaluate(OVERFLOW) <= 0, "the page is wider than the window"
    assert tab.evaluate(BROKEN) == []
    assert tab.evaluate(SPILLED) == []
    ink, paper = (
        tab.evaluate(f"() => getComputedStyle(document.body).{name}") for name in ("color", "backgroundColor")
    )
    brightness = [sum(int(part) for part in colour[4:-1].split(",")) for colour in (ink, paper)]
    assert (brightness[0] > brightness[1]) == (theme == "dark")
    shot = page_file.parent / f"{size}-{theme}.png"
    tab.screenshot(path=shot, full_page=True)
    assert shot.stat().st_size > 20_000
    tab.close()


def test_items_fold_open_without_a_script(browser: Any, page_file: Path) -> None:
    tab = browser.new_page(viewport={"width": 390, "height": 844}, java_script_enabled=False)
    tab.goto(page_file.as_uri())
    second = tab.locator("details.item").nth(1)
    assert not second.locator(".answers").is_visible()
    second.locator("summary").click()
    assert second.locator(".answers").is_visible()
    tab.close()


def test_the_page_is_light(page_file: Path) -> None:
    assert page_file.stat().st_size < MOST_BYTES
