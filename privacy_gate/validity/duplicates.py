"""Records that are in both sets are neither members nor non-members."""

from __future__ import annotations

from privacy_gate.datamodel import Finding, Invalidates
from privacy_gate.validity import Circumstances, check
from privacy_gate.validity.bounds import limit

LIMIT = 0.05
NOTICED = 0.01


@check(id="duplicates", title="exact duplicates across members and non-members", invalidates=Invalidates.BOTH)
def duplicates(c: Circumstances) -> Finding:
    """Share of the records that were dropped because they are in both sets: all are counted, so without bounds."""
    most = limit(c, "duplicates", LIMIT)
    if c.candidates <= 0:
        return Finding("duplicates", "not_applicable", Invalidates.BOTH, None, "no records were compared")
    share = c.duplicates / c.candidates
    reason = (
        f"{c.duplicates:,} of {c.candidates:,} records ({100 * share:.2g} %) are in both sets and were dropped"
        if c.duplicates
        else "no record is in both sets"
    )
    if share > most:
        reason += f"; above {100 * most:g} % the sets are not what they are called: split again, before any upsampling"
        return Finding("duplicates", "fail", Invalidates.BOTH, share, reason)
    return Finding("duplicates", "warn" if share > NOTICED else "pass", Invalidates.BOTH, share, reason)
