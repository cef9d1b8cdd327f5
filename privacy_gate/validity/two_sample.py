"""If records alone tell members from non-members, an attack on the model may tell them apart without any leak."""

from __future__ import annotations

from privacy_gate import metrics
from privacy_gate.datamodel import Finding, Invalidates
from privacy_gate.validity import Circumstances, check
from privacy_gate.validity.bounds import from_one_half, limit

LIMIT = 0.05


@check(id="two_sample", title="records alone do not tell members", invalidates=Invalidates.BOTH)
def two_sample(c: Circumstances) -> Finding:
    """AUC of a classifier that saw records, labels and the answer key of other persons, but no model under audit.

    Two-sided: above one half the sets differ; below it, members and non-members resemble each other pair by pair.
    """
    name, takes = "two_sample", Invalidates.BOTH
    if c.inputs is None:
        return Finding(name, "not_applicable", takes, None, "the records themselves are not known")
    member = c.inputs.member
    if len(member) == 0 or member.all() or not member.any():
        return Finding(name, "warn", takes, None, "too few persons to hold half of them out: give more records")
    auc = metrics.auc(c.inputs.scores, member, c.inputs.persons)
    effect = from_one_half(auc, c)
    most = limit(c, name, LIMIT)
    status = effect.against(most)
    reason = f"AUC {auc.value:.3f} of a classifier that sees the records only (at most {effect.high:.3f} from 0.5)"
    if status == "fail" and auc.value > 0.5:
        reason += f"; proven to be above {most:g}: the sets differ before any model; draw both from one source by lot"
    elif status == "fail":
        reason += (
            f"; proven to be above {most:g}: non-members look like members that others know as such; "
            "look for copies, augmented records and pairs across the sets"
        )
    elif status == "warn":
        reason += f"; more records would show whether it is within {most:g}"
    return Finding(name, status, takes, auc.value, reason)
