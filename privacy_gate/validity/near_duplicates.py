"""A non-member that is a copy of a member but for a detail is no non-member."""

from __future__ import annotations

from privacy_gate import metrics
from privacy_gate.datamodel import Finding, Invalidates
from privacy_gate.validity import Circumstances, check
from privacy_gate.validity.bounds import Effect, corrected_alpha, limit

LIMIT = 0.05


@check(id="near_duplicates", title="near copies across members and non-members", invalidates=Invalidates.BOTH)
def near_duplicates(c: Circumstances) -> Finding:
    """Share of non-members with a near copy among the members, in excess of the members that have one.

    Dense data have near copies by nature; a split by lot gives either side as many.
    """
    name, takes = "near_duplicates", Invalidates.BOTH
    if c.inputs is None or c.inputs.near is None or c.inputs.compared == 0:
        why = "the records themselves are not known" if c.inputs is None else c.inputs.note
        return Finding(name, "not_applicable", takes, None, why or "near copies were not looked for")
    near, compared, expected = c.inputs.near, c.inputs.compared, c.inputs.expected
    # Two members that are near each other count together: half of them are independent.
    excess = metrics.Advantage(
        metrics.Proportion(near / compared, compared), metrics.Proportion(min(expected / compared, 1.0), compared / 2)
    )
    effect = Effect(max(excess.value, 0.0), excess.lower(corrected_alpha(c)), excess.upper(c.alpha))
    most = limit(c, name, LIMIT)
    status = effect.against(most)
    reason = (
        f"{near:,} of {compared:,} non-members have a near copy among the members, {expected:,.0f} are to be expected "
        f"(excess at most {100 * effect.high:.1f} %); near: {c.inputs.note}"
    )
    if status == "fail":
        reason += f"; proven to be above {100 * most:g} %: take the copies out, and split before records are augmented"
    elif status == "warn":
        reason += f"; more records would show whether it is within {100 * most:g} %"
    return Finding(name, status, takes, effect.value, reason)
