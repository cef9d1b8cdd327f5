"""Numbers as people read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy_gate.reports import figures

N = figures.PERCENT


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.7364, "73.6"),
        (0.0375, "3.8"),
        (0.0055, "0.55"),
        (0.00004, "<0.01"),
        (0.0, "0.0"),
        (1.0, "100.0"),
        (-0.013, "−1.3"),
        (-0.00001, "0.00"),
    ],
)
def test_percent(value: float, text: str) -> None:
    assert figures.percent(value) == text + N


def test_not_measured_is_a_dash() -> None:
    assert figures.percent(None) == figures.decimal(None) == figures.count(None) == figures.amount(None, "count") == "–"
    assert figures.bounds(None, None, "percent") == figures.at_most(None, "percent") == figures.duration(None) == "–"


@pytest.mark.parametrize(("value", "text"), [(12345, "12,345"), (3.7, "3.7"), (0, "0"), (1e6, "1,000,000"), (-5, "−5")])
def test_count(value: float, text: str) -> None:
    assert figures.count(value) == text


def test_a_value_never_looks_like_the_limit_that_it_exceeds() -> None:
    assert figures.amount(0.60004, "percent", beside=0.6) == f"60.004{N}"
    assert figures.amount(0.6, "percent", beside=0.6) == f"60.0{N}"
    assert figures.amount(0.65004, "decimal", beside=0.65) == "0.65004"
    assert figures.bounds(0.58, 0.60004, "percent", beside=0.6) == "[58.000, 60.004]"


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_print_keeps_the_order(first: int, second: int) -> None:
    """Of a value and its limit, in steps of a millionth: what is larger prints larger."""
    value, limit = first / 10**6, second / 10**6
    shown, beside = (
        float(text.removesuffix(N).replace("<", ""))
        for text in (figures.amount(value, "percent", limit), figures.amount(limit, "percent"))
    )
    if abs(value - limit) >= 0.001:  # one digit behind the point of a percentage
        assert (shown > beside) == (value > limit)


def test_bounds_have_equal_digits() -> None:
    assert figures.bounds(0.0094, 0.0442, "percent") == "[0.94, 4.42]"
    assert figures.bounds(0.0, 0.0042, "percent") == "[0.00, 0.42]"
    assert figures.bounds(None, 0.5, "decimal") == "[–, 0.500]"


@pytest.mark.parametrize(
    ("metric", "unit"),
    [
        ("attack.accuracy", "percent"),
        ("attack.auc", "decimal"),
        ("attack.tpr_at_fpr_0.01", "percent"),
        ("risk.attributable_share", "percent"),
        ("risk.high_excess_count", "count"),
        ("somebody.elses", "plain"),
    ],
)
def test_unit_is_told_from_the_name(metric: str, unit: str) -> None:
    assert figures.unit(metric) == unit


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.21, "3.2 s"), (346.2, "5 min 46 s"), (7260, "2 h 1 min"), (59.99, "60.0 s")]
)
def test_duration(seconds: float, text: str) -> None:
    assert figures.duration(seconds) == text


@given(st.text())
def test_clean_is_idempotent_and_keeps_letters(text: str) -> None:
    cleaned = figures.clean(text)
    assert figures.clean(cleaned) == cleaned
    assert "\x1b" not in cleaned
    assert [c for c in cleaned if c.isalnum()] == [c for c in cleaned if c.isalnum() and c in text]


def test_clean_takes_whole_escape_sequences() -> None:
    assert figures.clean("\x1b[1;31mred\x1b[0m \x1b]0;title\x07x\x1b") == "red x"


def test_reports_and_rules_agree_on_the_unit_of_every_limit():
    from privacy_gate.policy import CATALOG

    with_limits = [rule for rule in CATALOG if "max" in rule.settings.model_fields]
    assert len(with_limits) >= 5
    kinds = {"percent": "percent", "number": "decimal", "persons": "count"}
    assert {rule.id: figures.unit(rule.metric) for rule in with_limits} == {r.id: kinds[r.unit] for r in with_limits}
