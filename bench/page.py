"""Tables of results on the pages of docs/: a bench writes its own between two marks, and nothing else there."""

from pathlib import Path

from tunewise.files import write_text

DOCS = Path(__file__).parents[1] / "docs"


def put(page: Path, mark: str, text: str) -> None:
    """Replace what stands between <!-- mark --> and <!-- end of mark --> on the page."""
    opening, closing = f"<!-- {mark} -->\n", f"<!-- end of {mark} -->\n"
    before, rest = page.read_text("utf-8").split(opening)
    _, after = rest.split(closing)
    write_text(page, before + opening + text + closing + after)
