"""Numbers and texts for people: sensible digits, thousands separators, and a dash for what was not measured."""

from __future__ import annotations

import re
import unicodedata
from typing import Literal

DASH = "–"
PERCENT = "\N{NO-BREAK SPACE}%"  # the sign stays with its number

Unit = Literal["percent", "decimal", "count", "plain"]

_UNITS: tuple[tuple[str, Unit], ...] = (
    ("count", "count"),
    ("excess", "count"),
    ("persons", "count"),
    ("auc", "decimal"),
    ("ece", "decimal"),
    ("difference", "percent"),
    ("error", "decimal"),
    ("rmse", "decimal"),
    ("tpr", "percent"),
    ("accuracy", "percent"),
    ("advantage", "percent"),
    ("share", "percent"),
    ("precision", "percent"),
    ("gap", "percent"),
)


def unit(metric: str) -> Unit:
    """How to print values of a policy metric, told from its name."""
    return next((kind for word, kind in _UNITS if word in metric.lower()), "plain")


def count(value: float | None) -> str:
    """12345 -> "12,345"; a fraction below a hundred keeps one digit."""
    if value is None:
        return DASH
    return signed(f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 100 else f"{value:,.1f}")


def few(value: float | None) -> str:
    """A count of people; one to nine were hidden."""
    return "1–9" if value is None else count(value)


def _percent_digits(value: float) -> int:
    size = abs(100 * value)
    return 1 if size >= 1 or size == 0 else 2


def percent(value: float | None, digits: int | None = None) -> str:
    """0.7364 -> "73.6 %", 0.0055 -> "0.55 %"; what rounds to nothing but is not, shows as "<0.01 %"."""
    if value is None:
        return DASH
    return _percent_number(value, _percent_digits(value) if digits is None else digits) + PERCENT


def _percent_number(value: float, digits: int) -> str:
    text = f"{100 * value:.{digits}f}"
    if value > 0 and not text.strip("0."):
        return f"<{10.0**-digits:.{digits}f}"
    return signed(text)


def signed(text: str) -> str:
    """A printed number with a minus sign of its own, and none before a zero."""
    return text.lstrip("-") if not text.strip("-0.") else text.replace("-", "−")


def points(value: float | None) -> str:
    """A difference of two shares in percentage points, with its sign."""
    return DASH if value is None else f"{100 * value:+.1f} pts".replace("-", "−")


def decimal(value: float | None, digits: int = 3) -> str:
    """0.8115 -> "0.811"; for AUC, errors and the like."""
    return DASH if value is None else signed(f"{value:.{digits}f}")


def amount(value: float | None, kind: Unit, beside: float | None = None) -> str:
    """The value in its unit, with as many digits as it takes to differ in print from the limit `beside` it."""
    if value is None:
        return DASH
    if kind == "count":
        return count(value)
    if kind == "plain":
        return count(value) if float(value).is_integer() else signed(f"{value:.4g}")
    for extra in range(5):
        text, other = (_with(number, kind, extra) for number in (value, beside))
        if beside is None or value == beside or text != other:
            break
    return text


def _with(value: float | None, kind: Unit, extra: int) -> str:
    if value is None:
        return DASH
    return percent(value, _percent_digits(value) + extra) if kind == "percent" else decimal(value, 3 + extra)


def bounds(low: float | None, high: float | None, kind: Unit, beside: float | None = None) -> str:
    """Two bounds as "[71.5, 74.4]", in the unit of the value they go with; a dash when there are none.

    Both have the same number of digits.
    """
    known = [bound for bound in (low, high) if bound is not None]
    if not known:
        return DASH
    if kind == "percent":
        digits = max(_percent_digits(bound) for bound in known)
        while digits < 6 and beside is not None and any(_blurred(bound, beside, digits) for bound in known):
            digits += 1
        texts = [DASH if bound is None else _percent_number(bound, digits) for bound in (low, high)]
    else:
        texts = [amount(bound, kind, beside) for bound in (low, high)]
    return f"[{', '.join(texts)}]"


def _blurred(bound: float, limit: float, digits: int) -> bool:
    """Whether so few digits make a bound look like the limit."""
    return bound != limit and _percent_number(bound, digits) == _percent_number(limit, digits)


def at_most(limit: float | None, kind: Unit) -> str:
    """A limit: "≤ 60.0 %"."""
    return DASH if limit is None else f"≤ {amount(limit, kind)}"


def rate_name(rate: str) -> str:
    """A key of `tpr_at_fpr` for a heading: "0.001" -> "0.1 %"."""
    return f"{100 * float(rate):g}{PERCENT}"


def short(digest: str | None) -> str:
    """The first twelve characters of a digest."""
    return DASH if not digest else digest[:12]


def duration(seconds: float | None) -> str:
    """346.2 -> "5 min 46 s"."""
    if seconds is None:
        return DASH
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def words(name: str) -> str:
    """An identifier as words: "not_applicable" -> "not applicable"."""
    return name.replace("_", " ").strip()


# A whole escape sequence, so that of a coloured text only the text is left.
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.)?|\x9b[0-?]*[ -/]*[@-~]")


def clean(text: str) -> str:
    """The text without terminal escapes, control characters and marks that turn its direction; lines are kept."""
    kept = _ESCAPES.sub("", text)
    return "".join(
        c for c in kept if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
    )
