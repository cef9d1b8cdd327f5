"""report.html: one self-contained file without scripts, readable without styles, printable on A4."""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from typing import TYPE_CHECKING, Any

from privacy_gate.reports import charts, figures, report_format, view
from privacy_gate.reports.clauses import STATEMENT, clauses
from privacy_gate.reports.document import RecordSet, Report, Risk
from privacy_gate.reports.templating import context, environment
from privacy_gate.resources import templates

if TYPE_CHECKING:
    from jinja2 import Environment


_LOOSE_PERCENT = re.compile(r"(?<=\d) %")


def _printed(value: Any) -> Any:
    if value is None:
        return figures.DASH
    if type(value) is not str:  # Markup is made of cleaned, escaped parts
        return value
    # In one line: no text of strangers may begin a line of a log, where `::` is a command.
    return _LOOSE_PERCENT.sub(figures.PERCENT, figures.clean(value).replace("\n", " "))


def _sections(report: Report, seen: dict[str, Any]) -> list[tuple[str, str]]:
    """Anchor and name of the sections that have something to show, in order."""
    named = (
        ("why", seen["question"], seen["pressing"] or report.errors),
        ("rules", "Rules", report.rules),
        ("waivers", "Waivers", seen["waivers"]),
        ("scope", "Scope", True),
        ("attacks", "Attacks", seen["families"]),
        ("signals", "Signals", report.distributions),
        ("slices", "Slices", report.slices),
        ("risk", "Risk", report.risk),
        ("causes", "Causes", report.causes),
        ("validity", "Validity", report.validity),
        ("shadows", "Shadow models", report.shadows),
        ("defences", "What else could be released", report.alternatives),
        ("frontier", "Stopping early", report.frontier),
        ("baseline", "Baseline", report.baseline),
        ("record", "Reproducibility", True),
        ("limits", "Limitations", True),
        ("clauses", "Evidence for", True),
        ("signoff", "Sign-off", True),
    )
    return [(id, name) for id, name, shown in named if shown]


def _data_sets(report: Report) -> list[tuple[str, RecordSet]]:
    if report.data is None:
        return []
    data = report.data
    named = (
        ("Members", data.members),
        ("Non-members", data.nonmembers),
        ("Population, for shadows", data.population),
        ("Seen in validation, not used", data.seen),
    )
    return [(name, records) for name, records in named if records is not None]


def _priors(risk: Risk | None) -> list[str]:
    """Other shares of members than one half at which precision was worked out."""
    found = {prior for high in (risk.high if risk else ()) for prior in high.precision_at}
    return sorted((prior for prior in found if float(prior) != 0.5), key=float, reverse=True)


@functools.cache
def _environment() -> Environment:
    return environment(autoescape=True, finalize=_printed)


@report_format("html", suffix=".html")
def render(report: Report) -> str:
    """The report for release managers and privacy officers."""
    from markupsafe import Markup

    style = (templates() / "report" / "style.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    seen = context(report)
    risk = report.risk
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            **seen,
            style=Markup(style),  # noqa: S704 - our own file; its digest stands in the policy above it
            style_hash=f"sha256-{digest}",
            contents=_sections(report, seen),
            roc=charts.roc(view.curves(report), view.worst(report)),
            table_rates=charts.TABLE_RATES,
            distributions=[charts.histogram(counts) for counts in report.distributions],
            high=view.headline_risk(risk),
            groups=view.groups(risk),
            estimators=[] if risk is None else [risk, *risk.shown],
            priors=_priors(risk),
            slices=view.slices(report),
            risk_histogram=charts.histogram(risk.distribution, wide=True) if risk and risk.distribution else None,
            reliability=None if risk is None else charts.reliability(risk.reliability),
            trade_off=charts.alternatives(report.alternatives),
            frontier=None if report.frontier is None else charts.frontier(report.frontier),
            data_sets=_data_sets(report),
            clauses=clauses(report),
            clauses_say=STATEMENT,
        )
    )
