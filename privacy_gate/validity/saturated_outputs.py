"""Answers of exactly 0 or 1 tie records together that finer answers would tell apart."""

from __future__ import annotations

from privacy_gate.datamodel import Finding, Invalidates
from privacy_gate.validity import Circumstances, check
from privacy_gate.validity.bounds import Status, limit

NOTICED = 0.01
HIDING = 0.50


@check(id="saturated_outputs", title="outputs are not saturated", invalidates=Invalidates.PASS)
def saturated_outputs(c: Circumstances) -> Finding:
    """Share of records whose true-class probability is exactly 0 or 1.

    A few per cent blur a ranking. Once most records are tied, no threshold reaches a low false-positive rate, and what
    an attacker with the logits (or a temperature undone) would see stays hidden: then it cannot be a pass.
    """
    most = limit(c, "saturated_outputs", HIDING)
    reason = f"{100 * c.saturated:.1f} % of the records have a true-class probability of exactly 0 or 1"
    if c.saturated > most:
        reason += "; their ranking is hidden: give logits (output: logits) or probabilities in float64"
        return Finding("saturated_outputs", "fail", Invalidates.PASS, c.saturated, reason)
    status: Status = "warn" if c.saturated > NOTICED else "pass"
    return Finding("saturated_outputs", status, Invalidates.PASS, c.saturated, reason)
