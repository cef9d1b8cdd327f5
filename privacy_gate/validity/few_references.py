"""A reference attack with a handful of references is a weak attack."""

from __future__ import annotations

from privacy_gate.attacks import lira
from privacy_gate.datamodel import AttackResult, Bools, Finding, Invalidates, ThreatModel
from privacy_gate.validity import Circumstances, check
from privacy_gate.validity.bounds import limit

FEWEST = 4
COMFORTABLE = 8
TIMES = lira.FEWEST_IN


def enough(count: int, thin: int, fewest: float, form: str = "") -> Finding:
    """What so many reference models are worth; `thin` records are in or out of fewer than TIMES of them.

    form  what that made of the likelihood-ratio attack; "" for nothing
    """
    name, takes = "few_references", Invalidates.PASS
    if count < fewest:
        reason = f"{count} reference models; with fewer than {fewest:g} a reference attack misses most of a leak; "
        reason += f"raise shadows.count to {COMFORTABLE} or more"
        return Finding(name, "fail", takes, float(count), reason + form)
    if thin:
        records = "1 record is" if thin == 1 else f"{thin:,} records are"
        reason = (
            f"{count} reference models, but {records} in or out of fewer than {TIMES} of them; "
            f"raise shadows.count, or plan balanced shadows{form}"
        )
        return Finding(name, "warn", takes, float(count), reason)
    if count < COMFORTABLE:
        reason = f"{count} reference models; {COMFORTABLE} or more find noticeably more (shadows.count)"
        return Finding(name, "warn", takes, float(count), reason + form)
    return Finding(name, "pass", takes, float(count), f"{count} reference models{form}")


@check(id="few_references", title="enough reference models", invalidates=Invalidates.PASS)
def few_references(c: Circumstances) -> Finding:
    """Number of reference models, where an attack used them; each record should be in and out of two."""
    name = "few_references"
    used = [a for a in c.attacks if isinstance(a, AttackResult) and a.threat_model is ThreatModel.REFERENCE]
    if not used:
        return Finding(name, "not_applicable", Invalidates.PASS, None, "no attack used reference models")
    member = c.observations.reference_member
    assert member is not None
    times_out, times_in = (~member).sum(axis=0), member.sum(axis=0)
    # References that never saw any audited record are a choice (out-only); those that saw some should have seen all.
    thin = (times_out < TIMES) | ((times_in < TIMES) & bool(member.any()))
    ran = _form(member) if any(a.id == "lira" for a in used) else ""
    return enough(c.observations.shadows, int(thin.sum()), limit(c, name, FEWEST), ran)


def _form(member: Bools) -> str:
    """What next to no references in some records made of the likelihood-ratio attack."""
    few = int((member.sum(axis=0) < TIMES).sum())
    if lira.one_sided(member):
        share = "no record is" if not member.any() else f"more than {lira.MOST_BORROWING:.0%} of the records are not"
        return f"; LiRA ran in its weaker, one-sided form for all records: {share} in {TIMES} reference models"
    if few:
        return f"; LiRA compared in with out for all records, with the population's prior for {few:,} of them"
    return ""
