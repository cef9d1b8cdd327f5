"""report.md: a step summary that no text can take over."""

from __future__ import annotations

import re

import pytest

from privacy_gate.reports.document import Report
from privacy_gate.reports.markdown import escape, render
from tests.reports.hostile import PAYLOAD, hostile


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("modified_entropy", "modified_entropy"),
        ("a_ _b_", "a\\_ \\_b\\_"),
        ("a|b", "a&#124;b"),
        ("`x`", "&#96;x&#96;"),
        ("<b>", "&#60;b&#62;"),
        ("&lt;", "&#38;lt;"),
        ("one\ntwo", "one two"),
        ("::error::x", "&#58;&#58;error&#58;&#58;x"),
        ("[a](b)", "\\[a\\](b)"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("{{7*7}}", "\\{\\{7\\*7\\}\\}"),
        ("@me #1", "&#64;me &#35;1"),
        ("https://x", "http&#115;://x"),
        ("models:/a/7", "models:/a/7"),
    ],
)
def test_escape(text: str, escaped: str) -> None:
    assert escape(text) == escaped


def test_hostile_texts_keep_their_line_and_cell(report: Report) -> None:
    """The rendering has the same lines, table cells and markup with harmless and with hostile texts."""
    plain, filled = render(report).splitlines(), render(hostile(report)).splitlines()
    headings = [line for line in filled if line.startswith("#")]
    assert [h.split(" ")[0] for h in headings] == [line.split(" ")[0] for line in plain if line.startswith("#")]
    assert [line.count("|") for line in filled if line.startswith("|")] == [
        line.count("|") for line in plain if line.startswith("|")
    ]
    for line in filled:
        assert not re.match(r"\s*(::|##\[|##vso)", line)
        assert "::" not in line
        assert "##vso" not in line
        assert "<" not in line
        assert re.search(r"(?<!\\)\]\(", line) is None
        # Our own code spans are all that is left of backticks.
        assert line.replace("`--exit-zero`", "").count("`") == 0
        assert not re.search(r"https?://|www\.|@everyone", line)


def test_no_line_begins_with_a_text(report: Report) -> None:
    """It could make a heading, a list or a rule there; only the last paragraph begins with one, of a known kind."""
    marker = escape(PAYLOAD)[:20]
    lines = [line for line in render(hostile(report)).splitlines() if line.startswith(marker)]
    assert len(lines) <= 1


def test_needs_the_eye_first(samples: dict[str, Report]) -> None:
    lines = render(samples["fail"]).splitlines()
    assert lines[0].startswith("## ✕ Privacy gate: Fail")
    rows = [line for line in lines if line.startswith("| **PG")]
    assert [row.split("|")[2].split()[-1] for row in rows] == ["fail"] * 5 + ["undecided", "waived"] + ["pass"] * 2
