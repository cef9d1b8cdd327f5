"""A model that answers the same question in two ways hides part of its signal from one measurement."""

from __future__ import annotations

from privacy_gate.datamodel import Finding, Invalidates
from privacy_gate.validity import Circumstances, check


@check(id="nondeterministic_model", title="the target repeats its answers", invalidates=Invalidates.PASS)
def nondeterministic_model(c: Circumstances) -> Finding:
    """Whether the target answered one batch twice the same; an attacker averages noise away by asking again."""
    if c.deterministic:
        return Finding("nondeterministic_model", "pass", Invalidates.PASS, 0.0, "the same batch got the same answers")
    reason = (
        "the same batch got different answers: an attacker who asks often sees more than was measured; "
        "switch off dropout and sampling at inference, or declare the noise as a defence"
    )
    return Finding("nondeterministic_model", "fail", Invalidates.PASS, 1.0, reason)
