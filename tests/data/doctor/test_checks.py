"""Each finding has rows that have it and rows that have not; a clean set has none."""

import re
from pathlib import Path

import pytest

from tests.data.doctor.sick_rows import answered, but, codes, labelled, of_folder, sentence
from tunewise.data.doctor import CHECKS, described, examine
from tunewise.data.doctor.checks import OF_TOKENS, code_of
from tunewise.data.doctor.finding import SEVERITIES
from tunewise.data.doctor.text import misread, undone

LATIN_ACCENTS = {k: f"{sentence(k)} café" for k in range(3, 9)}

# code -> severity, training rows that have it, and what of dev and test has a share in it
SICK = {
    "one-class": ("error", but(labelled(), label=dict.fromkeys(range(40), "yes")), {}),
    "unseen-labels": ("warning", labelled(), {"test": labelled(9, 600, ("yes", "no", "maybe"))}),
    "labels-spelt-alike": ("warning", but(labelled(), label={0: "YES", 4: "Yes"}), {}),
    "label-imbalance": ("warning", but(labelled(100), label=dict.fromkeys(range(4, 100), "yes")), {}),
    "rare-labels": ("note", but(labelled(), label={7: "maybe", 9: "maybe"}), {}),
    "one-prompt": ("error", but(labelled(), text=dict.fromkeys(range(40), "the same ")), {}),
    "answer-in-prompt": (
        "warning", but(labelled(), text={k: f"{sentence(k)}: {('Yes', 'No')[k % 2]}." for k in range(40)}), {},
    ),
    "one-answer": ("error", but(answered(), completion=dict.fromkeys(range(40), "as always")), {}),
    "repeated-answers": ("note", but(answered(), completion=dict.fromkeys(range(9), "as always")), {}),
    "empty-answers": ("warning", but(answered(), completion={2: "", 3: "N/A"}), {}),
    "several-answers": ("note", but(answered(), prompt={2: sentence(1)}), {}),
    "rejected-rows": ("warning", but(answered(), completion={3: ""}), {}),
    "duplicates": ("warning", but(labelled(), text={12: sentence(2).upper(), 20: sentence(2)}), {}),
    "contradictions": ("warning", but(labelled(), text={13: sentence(2)}), {}),
    "near-duplicates": ("note", but(labelled(), text={12: f"{sentence(2)} again"}), {}),
    "leaked-rows": ("warning", labelled(), {"test": but(labelled(10, 600), text={3: f" {sentence(7)}"})}),
    "shared-passages": (
        "warning", but(labelled(), text={3: f"{sentence(900, 13)} {sentence(901, 20)}"}),
        {"test": but(labelled(10, 600), text={5: f"{sentence(902, 25)} {sentence(900, 13).title()}!"})},
    ),
    "leaked-nearly": ("warning", labelled(), {"dev": but(labelled(10, 500), text={3: f"{sentence(7)} again"})}),
    "absurdly-long-rows": ("warning", but(labelled(), text={3: sentence(3, 2_000)}), {}),
    "control-characters": ("warning", but(labelled(), text={3: "a bell \x07 rings over the harbour"}), {}),
    "replacement-characters": ("warning", but(labelled(), text={3: "a caf\ufffd by the harbour"}), {}),
    "misread-encoding": ("warning", but(labelled(), text={3: "a cafÃ© by the harbour, itâ€™s shut"}), {}),
    "unseen-characters": ("note", but(labelled(), text={3: "zero\u200bwidth in the harbour"}), {}),
    "mixed-scripts": ("warning", but(labelled(), text={3: "Мы ждали паром на пристани весь вечер"}), {}),
    "mixed-normal-forms": ("note", but(labelled(), text={**LATIN_ACCENTS, 20: "a cafe\u0301 by the harbour"}), {}),
    "markup": ("note", but(labelled(), text={3: "fish &amp; chips<br/>by the harbour"}), {}),
}  # fmt: skip
ALSO = {
    "one-prompt": {"duplicates", "contradictions"},
    "one-class": {"unseen-labels"},
    "one-answer": set(),
    "duplicates": set(),
    "empty-answers": {"rejected-rows"},
    "rejected-rows": {"empty-answers"},
    "label-imbalance": {"rare-labels"},
    "unseen-labels": set(),
    "rare-labels": {"label-imbalance", "unseen-labels"},
    "labels-spelt-alike": {"label-imbalance", "rare-labels", "unseen-labels"},
}
"""What those rows have as well."""


@pytest.mark.parametrize("code", SICK)
def test_it_is_found_where_it_is(code: str, tmp_path: Path) -> None:
    severity, train, held_out = SICK[code]
    found = codes(of_folder(tmp_path / "rows", train, **held_out))
    assert found.get(code) == severity, found
    assert found.keys() - {code} <= ALSO.get(code, set()), found


@pytest.mark.parametrize("rows", [labelled(), answered()], ids=["labelled", "answered"])
def test_rows_with_nothing_wrong_have_no_finding(rows, tmp_path):
    found = examine(of_folder(tmp_path / "rows", rows))
    assert found.findings == ()
    assert found.is_fit


def test_every_check_that_needs_no_base_has_such_rows():
    names = {code_of(check) for family, of in CHECKS.items() if family not in OF_TOKENS for check in of}
    assert len(names) >= 20
    assert names <= SICK.keys()


def test_each_check_is_described_once():
    table = described()
    assert len(table) == len(dict(table)) >= 30
    assert all(says.endswith(".") and len(says) > 20 for _, says in table), table


def test_a_finding_shows_its_rows_and_what_to_do(tmp_path):
    severity, train, held_out = SICK["leaked-rows"]
    (finding,) = examine(of_folder(tmp_path / "rows", train, **held_out)).findings
    (row,) = finding.rows
    assert (row.part, row.line, row.twin.part, row.twin.line) == ("test", 4, "train", 8)
    assert row.excerpt.split(" → ")[0].strip() == row.twin.excerpt.split(" → ")[0] == sentence(7)
    assert finding.message == "1 row (10 %) of test also in train, but for letter case or white space"
    assert finding.remedy.startswith("remove them from train")
    assert (finding.severity, finding.n_rows) == (severity, 1)


def test_what_is_leaked_is_told_of_its_own_part(tmp_path):
    dev = but(labelled(10, 500), text={3: f"{sentence(7)} again"})
    test = but(labelled(10, 600), text={1: f"{sentence(4)} again", 2: f"{sentence(5)} again"})
    (finding,) = examine(of_folder(tmp_path / "rows", labelled(), dev, test)).findings
    assert finding.message.startswith("2 rows (20 %) of test, 1 row (10 %) of dev with at least 70 %")
    assert [(row.part, row.line, row.twin.line) for row in finding.rows] == [
        ("test", 2, 5), ("dev", 4, 8), ("test", 3, 6),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a cafÃ© there", "Ã©"), ("itâ€™s shut", "â€™"), ("he said â€œyes", "â€œ"), ("20Â\xa0km", "Â\xa0"),
        ("ÐŸÑ€Ð¸Ð²ÐµÑ‚", "ÐŸÑ€Ð¸Ð²ÐµÑ‚"), ("pÅ‚yn", "Å‚"),
        ("a café there", ""), ("NÃO É", ""), ("«CAFÉ»", ""), ("“yes” – it’s", ""), ("Größe Ärger", ""),
        ("Привет", ""), ("漢字", ""),
    ],
)  # fmt: skip
def test_utf_8_that_was_misread_is_told_from_what_is_meant(text, found):
    assert misread(text) == found
    if found:
        assert undone(found).encode().decode("cp1252", "ignore")[:1] == found[:1]


def test_the_shown_place_is_where_it_is(tmp_path):
    rows = but(labelled(), text={3: f"{sentence(1, 60)} \x07 {sentence(2, 60)}"})
    (finding,) = examine(of_folder(tmp_path / "rows", rows)).findings
    assert "<U+0007>" in finding.rows[0].excerpt
    assert finding.rows[0].excerpt.startswith("…")


def test_errors_come_first_and_make_it_unfit(tmp_path):
    rows = but(labelled(), text={12: sentence(2), 5: "fish &amp; chips"}, label=dict.fromkeys(range(40), "yes"))
    found = examine(of_folder(tmp_path / "rows", rows))
    severities = [finding.severity for finding in found.findings]
    assert severities == sorted(severities, key=["error", "warning", "note"].index)
    assert set(severities) == {"error", "warning", "note"}
    assert not found.is_fit
    assert found.told()["counts"]["error"] == 1


def test_the_page_lists_every_check_in_its_own_words():
    page = (Path(__file__).parents[3] / "docs" / "data-check.md").read_text("utf-8")
    listed = dict(re.findall(r"^\| `([\w-]+)` \| \w+ \| (.+) \|$", page, re.M))
    plain = {code: says.replace("`", "").replace("\\|", "|") for code, says in listed.items()}
    assert plain == {code: " ".join(says.split()) for code, says in described()}
    worst = dict(re.findall(r"^\| `([\w-]+)` \| (\w+) \|", page, re.M))
    for code, (severity, _, _) in SICK.items():
        assert SEVERITIES.index(worst[code]) <= SEVERITIES.index(severity), code
