"""Text from strangers."""

from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from privacy_gate.sandbox.untrusted import clean


@given(st.text())
def test_nothing_dangerous_is_left(text):
    cleaned = clean(text)
    assert not any(unicodedata.category(c) in {"Cc", "Cf", "Cs"} for c in cleaned)
    assert len(cleaned.splitlines()) <= 1
    assert clean(cleaned) == cleaned


@given(st.text(st.characters(categories=["L", "N", "P", "Zs"])))
def test_plain_text_stays_as_it_is(text):
    assert clean(text) == text


def test_escape_sequences_go_as_a_whole():
    assert clean("\x1b]0;title\x07a\x1b[1;31mb\x1b[0m\x1b]8;;http://x\x1b\\c\x9b2Jd\x1bPq\x1b\\e\x1b(Bf") == "abcdef"
    assert clean("a\u202eb\u200bc\x00d") == "abcd"
    assert clean("a\r\n::error::b") == "a  ::error::b"
    assert clean("abcdef", 4) == "abc…"
    assert clean(3) == "3"
