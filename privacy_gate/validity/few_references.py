"""A reference attack with a handful of references is a weak attack."""

from __future__ import annotations

from privacy_gate.datamodel import AttackResult, Finding, Invalidates, ThreatModel
from privacy_gate.validity import Circumstances, check
from privacy_gate.validity.bounds import limit

FEWEST = 4
COMFORTABLE = 8
TIMES = 2


@check(id="few_references", title="enough reference models", invalidates=Invalidates.PASS)
def few_references(c: Circumstances) -> Finding:
    """Number of reference models, where an attack used them; each record should be in and out of two."""
    name, takes = "few_references", Invalidates.PASS
    used = [a for a in c.attacks if isinstance(a, AttackResult) and a.threat_model is ThreatModel.REFERENCE]
    if not used:
        return Finding(name, "not_applicable", takes, None, "no attack used reference models")
    count = c.observations.shadows
    if count < limit(c, name, FEWEST):
        reason = f"{count} reference models; with fewer than {FEWEST} a reference attack misses most of a leak; "
        reason += f"raise shadows.count to {COMFORTABLE} or more"
        return Finding(name, "fail", takes, float(count), reason)
    member = c.observations.reference_member
    assert member is not None
    times_out, times_in = (~member).sum(axis=0), member.sum(axis=0)
    # References that never saw any audited record are a choice (out-only); those that saw some should have seen all.
    thin = (times_out < TIMES) | ((times_in < TIMES) & bool(member.any()))
    if thin.any():
        reason = (
            f"{count} reference models, but {int(thin.sum()):,} records are in or out of fewer than {TIMES} of them; "
            "raise shadows.count, or plan balanced shadows"
        )
        return Finding(name, "warn", takes, float(count), reason)
    if count < COMFORTABLE:
        reason = f"{count} reference models; {COMFORTABLE} or more find noticeably more (shadows.count)"
        return Finding(name, "warn", takes, float(count), reason)
    return Finding(name, "pass", takes, float(count), f"{count} reference models")
