"""report.json: the document itself."""

from __future__ import annotations

from privacy_gate.reports import report_format
from privacy_gate.reports.document import Report, dumps


@report_format("json", suffix=".json")
def render(report: Report) -> str:
    """The canonical file; every other format can be made from it again."""
    return dumps(report)
