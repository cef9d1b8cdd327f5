"""Jinja environments and the view that templates see. Nothing is printed unescaped; what is missing is an error."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from privacy_gate.datamodel import RuleStatus, ThreatModel, VerdictStatus
from privacy_gate.reports import charts, figures, view, wording
from privacy_gate.reports.document import Finding, Report, Rule, Waiver
from privacy_gate.resources import templates

if TYPE_CHECKING:
    from jinja2 import Environment

# How a status looks: the tone picks the colour, the mark is its sign beside the word.
TONES = {
    "pass": ("pass", "✓"),
    "fail": ("fail", "✕"),
    "inconclusive": ("open", "?"),
    "warn": ("open", "!"),
    "error": ("error", "!"),
    "waived": ("open", "~"),
    "not_applicable": ("none", "–"),
}

VERDICT_TONES = {
    VerdictStatus.PASS: ("pass", "✓"),
    VerdictStatus.PASS_WITH_WARNINGS: ("pass", "✓"),
    VerdictStatus.PASS_WITH_WAIVERS: ("pass", "✓"),
    VerdictStatus.FAIL: ("fail", "✕"),
    VerdictStatus.INCONCLUSIVE: ("open", "?"),
    VerdictStatus.ERROR: ("error", "!"),
}

_THRESHOLDS = {
    ThreatModel.SHADOW: "shadow models alone (shadow)",
    ThreatModel.KNOWN_SUBSET: "a known half of the target's records, applied to the other half (known-subset)",
    ThreatModel.REFERENCE: "reference models, with a known half of the records (reference)",
}

_TAKES = {None: "–", "pass": "no pass", "both": "no verdict"}


@dataclass(frozen=True, slots=True)
class RuleView:
    """A rule with all that is said of it."""

    rule: Rule
    unit: figures.Unit
    effect: str
    tone: str
    mark: str
    status: str
    advice: wording.Advice
    scale: charts.Scale | None
    label: str
    needed: str


@dataclass(frozen=True, slots=True)
class FindingView:
    """A validity check with its looks."""

    finding: Finding
    tone: str
    mark: str
    status: str
    takes: str


@dataclass(frozen=True, slots=True)
class WaiverView:
    """A waiver with its looks."""

    waiver: Waiver
    state: str
    tone: str
    mark: str


def _rule_view(rule: Rule) -> RuleView:
    unit = figures.unit(rule.metric)
    effect = view.effect(rule)
    tone, mark = TONES[rule.status]
    if rule.status is RuleStatus.FAIL and rule.action != "block":
        tone, mark = "open", "!"
    measured = figures.amount(rule.value, unit, rule.limit)
    span = figures.bounds(rule.low, rule.high, unit, rule.limit)
    return RuleView(
        rule,
        unit,
        effect,
        tone,
        mark,
        wording.STATUS[rule.status],
        wording.advice(rule.metric),
        charts.scale(rule),
        f"{_sentence(rule.title)}: measured {measured}, bounds {span}, limit {figures.amount(rule.limit, unit)}",
        " and ".join(f"{figures.count(n)} {_ROLES.get(role, figures.words(role))}" for role, n in rule.needed.items()),
    )


_ROLES = {"nonmembers": "non-members"}


def _finding_view(finding: Finding) -> FindingView:
    tone, mark = TONES[finding.status]
    status = "fired" if finding.status == "fail" else wording.STATUS[finding.status]
    return FindingView(finding, tone, mark, status, _TAKES[finding.invalidates])


_WAIVER_STATES = {
    "active": ("active", "open", "~"),
    "expired": ("expired, without effect", "fail", "✕"),
    "exceeded": ("exceeded, without effect", "fail", "✕"),
    "refused": ("refused, without effect", "fail", "✕"),
    "unused": ("unused", "none", "–"),
}


def _waiver_views(report: Report) -> list[WaiverView]:
    kept = report.waivers
    all_of_them = (*kept.active, *kept.refused, *kept.expired, *kept.unused)
    return [WaiverView(waiver, *_WAIVER_STATES[waiver.state]) for waiver in all_of_them]


def settings(value: Any) -> str:
    """A JSON value in one line."""
    if value is None:
        return figures.DASH
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {settings(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(settings(item) for item in value)
    return str(value)


def moment(text: str) -> str:
    """An ISO time to the minute in UTC; anything else as it is."""
    try:
        parsed = datetime.datetime.fromisoformat(text)
    except ValueError:
        return text
    if parsed.tzinfo is None:
        return text
    return f"{parsed.astimezone(datetime.UTC):%Y-%m-%d %H:%M} UTC"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


FILTERS: dict[str, Callable[..., Any]] = {
    "percent": figures.percent,
    "percent_axis": lambda rate: f"{100 * rate:g}{figures.PERCENT}",
    "points": figures.points,
    "decimal": figures.decimal,
    "count": figures.count,
    "few": figures.few,
    "amount": figures.amount,
    "bounds": lambda pair, kind, beside=None: figures.bounds(pair[0], pair[1], kind, beside),
    "at_most": figures.at_most,
    "rate_name": figures.rate_name,
    "short": figures.short,
    "duration": figures.duration,
    "words": figures.words,
    "settings": settings,
    "moment": moment,
    "sentence": _sentence,
    "accuracy_bar": charts.accuracy_bar,
}


def environment(*, autoescape: bool, finalize: Callable[[Any], Any]) -> Environment:
    """Strict environment over the template folder; `finalize` sees every printed value before it is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(templates()),
        autoescape=autoescape,  # noqa: S701 - off for Markdown alone, which escapes in finalize
        undefined=StrictUndefined,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters.update(FILTERS)
    return made


def context(report: Report) -> dict[str, Any]:
    """What both templates see: the document as `r`, and everything sorted and put into words."""
    tone, mark = VERDICT_TONES[report.verdict.status]
    findings = [_finding_view(finding) for finding in report.validity]
    return {
        "r": report,
        "tone": tone,
        "tone_of": lambda status: VERDICT_TONES[status],
        "mark": mark,
        "word": view.word(report),
        "title": view.title(report),
        "reading": wording.READINGS[report.verdict.status],
        "question": view.question(report),
        "people": "persons" if report.data and report.data.members.persons is not None else "records",
        "pressing": [_rule_view(rule) for rule in view.pressing(report)],
        "rules": [_rule_view(rule) for rule in view.ordered(report)],
        "waivers": _waiver_views(report),
        "estimand": wording.ESTIMANDS[report.estimand],
        "attempt": None if report.attempt is None else wording.attempt(report.attempt),
        "threat_models": [_THRESHOLDS[model] for model in report.threat_model.threat_models],
        "not_measured": view.not_measured(report),
        "families": view.families(report),
        "worst": view.worst(report),
        "rates": view.rates(report),
        "findings": findings,
        "findings_open": [finding for finding in findings if finding.finding.status in ("fail", "warn")],
    }
