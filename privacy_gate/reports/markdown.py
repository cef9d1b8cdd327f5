"""report.md: the summary that a CI system shows beside a run."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any

from privacy_gate.reports import figures, report_format
from privacy_gate.reports.document import Report
from privacy_gate.reports.templating import context, environment

if TYPE_CHECKING:
    from jinja2 import Environment

# As entities where a parser of logs (`::command`, `##vso[`), a table (`|`) or a mention (`@`) reads the raw text.
_ENTITIES = {ord(c): f"&#{ord(c)};" for c in "&<>|#@`"}
_MARKS = re.compile(r"([\\*\[\]{}~$])")
_EDGE_UNDERSCORE = re.compile(r"(?<![^\W_])_|_(?![^\W_])")
_LINKS = re.compile(r"(?i)\b(https?|ftp|mailto|www)(?=[:.])")


def escape(text: str) -> str:
    """The text as plain Markdown in one line: no markup, tables, links, mentions, HTML or workflow commands."""
    line = " ".join(figures.clean(text).split())
    line = _MARKS.sub(r"\\\1", line.translate(_ENTITIES))
    line = _EDGE_UNDERSCORE.sub(r"\\_", line)
    line = line.replace("::", "&#58;&#58;")
    return _LINKS.sub(lambda match: f"{match[1][:-1]}&#{ord(match[1][-1])};", line)


class _Safe(str):
    """Our own figures; their brackets are no links."""


def _bounds(pair: tuple[float | None, float | None], unit: figures.Unit, beside: float | None = None) -> str:
    return _Safe(figures.bounds(*pair, unit, beside))


def _printed(value: Any) -> Any:
    if isinstance(value, _Safe):
        return value
    return figures.DASH if value is None else escape(str(value))


@functools.cache
def _environment() -> Environment:
    made = environment(autoescape=False, finalize=_printed)
    made.filters["bounds"] = _bounds
    return made


@report_format("markdown", suffix=".md")
def render(report: Report) -> str:
    """Verdict, rules, strongest attacks and where the report is."""
    text = _environment().get_template("report.md.j2").render(**context(report))
    return re.sub(r"\n{3,}", "\n\n", text).rstrip("\n") + "\n"
