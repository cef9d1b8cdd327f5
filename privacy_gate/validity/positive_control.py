"""A gate that does not find a leak that was put there would pass anybody."""

from __future__ import annotations

from privacy_gate.datamodel import Finding, Invalidates, RuleStatus
from privacy_gate.validity import Circumstances, check
from privacy_gate.validity.bounds import corrected_alpha
from privacy_gate.validity.controls import (
    FEWEST,
    ORDER_SIGNAL,
    POWER,
    Side,
    blocking,
    hypotheses,
    judged,
    leaking,
    measured,
    nonmembers_needed,
    null,
    simplest,
    sized,
)


@check(id="positive_control", title="a planted leak is found", invalidates=Invalidates.PASS)
def positive_control(c: Circumstances) -> Finding:
    """Non-members, half of them called members, a share of whom gives itself away: as many as one rule must notice.

    The share is the smallest with which a blocking rule must fail with 99 % power at the level of all checks.
    """
    name, takes = "positive_control", Invalidates.PASS
    if c.view is None or c.policy is None or not c.suite:
        return Finding(name, "not_applicable", takes, None, "there is no policy to judge a control by")
    attack = simplest(c.suite, c.view)
    if attack is None:
        simple = "confidence" if ORDER_SIGNAL in c.view.seen.target else "noise_robustness"
        reason = f"no attack that ran decides on the target's own records alone; add {simple} to the suite"
        return Finding(name, "warn", takes, None, reason)
    drawn = null(c)
    if drawn is None:
        return Finding(name, "warn", takes, None, f"fewer than {2 * FEWEST} non-member persons: too few for a control")
    # What chance makes of it without a leak says which rules block, and among how many hypotheses.
    before = measured([attack], drawn, c.seed)
    rules = judged(drawn, before, c.policy, c)
    candidates = list(blocking(c.policy, rules))
    if not candidates:
        return Finding(name, "warn", takes, None, "no rule about an attack blocks: there is no limit to exceed")
    alpha = corrected_alpha(c) / hypotheses(c.policy, drawn, before, rules)
    member = drawn.audit.member
    leak = sized(candidates, Side.of(drawn.audit.persons[member]), Side.of(drawn.audit.persons[~member]), alpha)
    if leak is None:
        needed = nonmembers_needed(candidates, alpha)
        reason = f"{drawn.members + drawn.nonmembers:,} non-members are too few to prove any leak with this certainty"
        reason += f" (a finding about power, not about the model); about {needed:,} would do" if needed else ""
        return Finding(name, "warn", takes, None, reason)
    planted = leaking(drawn, leak.share, c.target_correct[drawn.rows], c.seed)
    after = judged(planted, measured([attack], planted, c.seed), c.policy, c)
    outcome = next(rule for rule in after if rule.id == leak.rule)
    told = (
        f"{100 * leak.share:.1f} % of {drawn.members:,} non-members called members gave themselves away to {attack.id}"
    )
    if outcome.status is not RuleStatus.FAIL:
        reason = (
            f"{told}, and {leak.rule} did not fail ({outcome.status.value}: {outcome.reason}), which it must in "
            f"{100 * POWER:g} % of all cases: the attack or the signals are broken, no pass can rest on them"
        )
        return Finding(name, "fail", takes, leak.share, reason)
    return Finding(
        name,
        "pass",
        takes,
        leak.share,
        f"{told}, and {leak.rule} failed, as it must (this tests thresholds, bounds and policy)",
    )
