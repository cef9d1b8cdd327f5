"""A gate that finds members among people none of whom was one would fail anybody."""

from __future__ import annotations

from dataclasses import replace

from privacy_gate.attacks import CATALOG as ATTACKS
from privacy_gate.datamodel import AttackResult, Finding, Invalidates, RuleStatus
from privacy_gate.validity import Circumstances, check
from privacy_gate.validity.controls import FEWEST, judged, measured, null


@check(id="negative_control", title="random membership does not fail", invalidates=Invalidates.BOTH)
def negative_control(c: Circumstances) -> Finding:
    """The run's attacks and policy on non-members only, half of their persons called members by lot."""
    name, takes = "negative_control", Invalidates.BOTH
    if c.view is None or c.policy is None or not c.suite:
        return Finding(name, "not_applicable", takes, None, "there is no policy to judge a control by")
    drawn = null(c)
    if drawn is None:
        return Finding(name, "warn", takes, None, f"fewer than {2 * FEWEST} non-member persons: too few for a control")
    # One split is enough to tell chance from more; attacks that learn would learn ten times.
    attacks = [ATTACKS[name] for name in c.suite]
    outcomes = measured([replace(a, repeats=1) if a.reads_known else a for a in attacks], drawn, c.seed)
    ran = [outcome for outcome in outcomes if isinstance(outcome, AttackResult)]
    if not ran:
        return Finding(name, "warn", takes, None, "no attack could be run on the non-members alone")
    rules = judged(drawn, outcomes, c.policy, c)
    failed = [rule for rule in rules if rule.status is RuleStatus.FAIL]
    best = max(outcome.accuracy.value for outcome in ran)
    on = f"{drawn.members:,} non-members called members by lot, and {drawn.nonmembers:,} others"
    if failed:
        found = "; ".join(f"{rule.id} {rule.reason} ({rule.cell})" for rule in failed)
        reason = (
            f"on {on}, the policy fails: {found}; attacks see more than they may, or the records are not independent "
            "(name a person column); nothing that they say of the target counts until that is found"
        )
        return Finding(name, "fail", takes, best, reason)
    reason = f"on {on}, no rule fails; the best attack is right {100 * best:.1f} % of the time"
    return Finding(name, "pass", takes, best, reason)
